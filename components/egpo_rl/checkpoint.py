"""A checkpoint: one safetensors file with all that a killed run needs to end with the same numbers.

The file holds the trained weights, AdamW's moments, the random states and the run's growing files (curves, samples) as
tensors, and the rest (step, place in the data, pass rates, hash of the settings) as JSON in its header; no pickle. One
file is whole or absent, on a disk by a rename and in S3 by nature. Its header holds a digest of every tensor and of
itself, and what does not agree with them is passed over for the checkpoint before it. S3 keeps the newest two, in two
places that take turns. Deciding when to write one is loop.py's.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from components.egpo_rl.sharding import part_like, whole
from components.errors import CallforgeError
from components.files import atomic_write, sha256_of_json
from components.services.events import warn
from components.services.storage import names_below, open_uri, upload_file

PATTERN = f"step-{7 * '[0-9]'}.safetensors"
PARTIAL = ".partial-"
REMOTE_NAMES = ("even.safetensors", "odd.safetensors")  # the one that does not hold the newest is written next
LONGEST_HEAD = 100_000_000  # bytes; safetensors' own limit
Found = TypeVar("Found")


@dataclass(frozen=True)
class State:
    """What a run is made of between two steps. `settings_hash` covers the settings and the inputs."""

    step: int
    settings_hash: str
    cursor: int
    pass_rates: dict[str, Any]
    too_long: list[int]
    bad_steps: int
    held_out_before: list[Any]
    python_random: Any
    tensors: dict[str, Tensor] = field(repr=False)


def collect_tensors(
    parameters: Mapping[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    """Trained weights, the optimizer's state of each, torch's and numpy's random states: copies on the CPU, by name.

    Sharded ones are gathered, one at a time: every process must walk through them.
    """
    for name, parameter in parameters.items():
        yield f"weights/{name}", _copied(parameter.detach())
        for key, value in optimizer.state.get(parameter, {}).items():
            yield f"optimizer/{key}/{name}", _copied(torch.as_tensor(value))
    yield "random/torch", torch.get_rng_state()
    if torch.cuda.is_available():
        yield "random/cuda", torch.cuda.get_rng_state()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    yield "random/numpy_keys", torch.from_numpy(np.asarray(keys).astype(np.int64))
    yield "random/numpy_rest", torch.tensor([position, has_gauss, cached], dtype=torch.float64)


def _copied(tensor: Tensor) -> Tensor:
    return whole(tensor).to("cpu", copy=True).contiguous()


def collect_files(folder: Path, names: Iterable[str]) -> dict[str, Tensor]:
    """The bytes of these files, so that a pod with an empty folder continues with all of them."""
    return {f"file/{name}": torch.from_numpy(np.fromfile(folder / name, np.uint8)) for name in names}


def restore_files(state: State, folder: Path) -> None:
    """Put the files back as they were: what a run wrote after its checkpoint, it writes again."""
    for key, value in state.tensors.items():
        kind, _, name = key.partition("/")
        if kind == "file":
            with atomic_write(folder / name, "wb") as file:
                file.write(value.numpy().tobytes())


@torch.no_grad()
def restore(
    state: State,
    tensors: Iterable[tuple[str, Tensor]],
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Put weights, optimizer and random states back as they were.

    Args:
        tensors: those of the checkpoint, in every process; read once and in order.
    """
    states = {}
    for key, value in tensors:
        kind, _, name = key.partition("/")
        if kind == "weights":
            parameters[name].copy_(part_like(parameters[name], value))
        elif kind == "optimizer":
            item, _, name = name.partition("/")
            # AdamW keeps its step counter on the CPU and the moments beside the parameter.
            place = value.cpu() if item == "step" else part_like(parameters[name], value)
            optimizer.state[parameters[name]][item] = place.clone()
        elif kind == "random":
            states[name] = value.cpu()
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"])
    position, has_gauss, cached = states["numpy_rest"].tolist()
    keys = states["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), cached))
    version, internal, gauss = state.python_random
    random.setstate((version, tuple(internal), gauss))


class Checkpoints:
    """The checkpoints of one run in `folder`, the newest of them also at `remote` (an s3:// folder, or "")."""

    def __init__(self, folder: Path, remote: str, keep: int) -> None:
        self.folder, self.remote, self.keep = folder, remote, keep
        self._uploader = ThreadPoolExecutor(1, "checkpoint-upload") if remote else None
        self._upload: Future[Any] | None = None
        self._next_name = 0  # of REMOTE_NAMES

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._uploader is not None:
            self._uploader.shutdown()
            self.wait()

    def save(self, state: State) -> None:
        """Write one, remove those beyond the last `keep`, and copy it to S3 in the background."""
        path = self.folder / f"step-{state.step:07d}.safetensors"
        with self._partial() as folder:
            # Straight from the tensors: bytes to hand to `atomic_write` would be all of them a second time in memory.
            save_file(state.tensors, folder / path.name, _metadata(state))
            with (folder / path.name).open("rb") as file:
                os.fsync(file.fileno())
            (folder / path.name).chmod(0o644)
            (folder / path.name).replace(path)
        self.wait()  # S3 slower than the steps between two checkpoints: never queue up
        # Those of later steps were passed over as unfit; they are written again when the run comes there.
        for old in sorted(item for item in self.folder.glob(PATTERN) if item.name <= path.name)[: -self.keep]:
            old.unlink()
        if self._uploader is not None:
            self._upload = self._uploader.submit(upload_file, path, f"{self.remote}/{REMOTE_NAMES[self._next_name]}")
            self._next_name = 1 - self._next_name

    def newest(self, settings_hash: str, last: int) -> State | None:
        """The newest whole checkpoint of these settings, here or in S3; those passed over are printed and why."""
        for partial in self.folder.glob(f"{PARTIAL}*"):  # a kill while one was written
            shutil.rmtree(partial)
        places = [(int(path.stem.removeprefix("step-")), 1, path.name) for path in self.folder.glob(PATTERN)]
        there = names_below(self.remote) if self.remote else set()
        for name in there.intersection(REMOTE_NAMES):
            uri = f"{self.remote}/{name}"
            if (step := _unless_unfit(uri, _step_of, uri, settings_hash, last)) is not None:
                places.append((step, 0, name))
        newest_there = max((place for place in places if not place[1]), default=None)
        self._next_name = 1 - REMOTE_NAMES.index(newest_there[2]) if newest_there else 0
        for _, is_here, name in sorted(places, reverse=True):  # the run may have gone on elsewhere
            found = self._read_here if is_here else self._read_there
            if (state := found(name, settings_hash, last)) is not None:
                return state
        return None

    def _read_here(self, name: str, settings_hash: str, last: int) -> State | None:
        return _unless_unfit(name, _read, self.folder / name, settings_hash, last)

    def _read_there(self, name: str, settings_hash: str, last: int) -> State | None:
        uri = f"{self.remote}/{name}"
        with self._partial() as folder:
            with open_uri(uri) as stream, (folder / name).open("wb") as file:
                shutil.copyfileobj(stream, file, 2**20)
            return _unless_unfit(uri, _read, folder / name, settings_hash, last)

    def wait(self) -> None:
        """Until the newest is in S3 as well; when it could not be copied, that is printed."""
        error = self._upload.exception() if self._upload is not None else None  # waits for the end
        self._upload = None
        if isinstance(error, CallforgeError):
            warn(f"the checkpoint was not copied to S3: {error}")
        elif error is not None:
            raise error

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """A folder for what is not whole yet, on the disk where checkpoints have room."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=self.folder) as folder:
            yield Path(folder)


class _Unfit(Exception):
    """A checkpoint that this run cannot resume from; the text says why."""


def _unless_unfit(shown: str, read: Callable[..., Found], *arguments: Any) -> Found | None:
    """What `read` finds in a checkpoint, or None, and a message why that one is not used."""
    try:
        return read(*arguments)
    except _Unfit as error:
        why = str(error)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        why = f"cannot be read ({type(error).__name__}: {error})"
    warn(f"checkpoint {shown} {why}; it is not used")
    return None


def _read(path: Path, settings_hash: str, last: int) -> State:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        state = replace(
            _without_tensors(metadata, settings_hash, last),
            tensors={name: file.get_tensor(name) for name in file.keys()},  # noqa: SIM118  # no mapping
        )
    _compare(_digests(state.tensors), json.loads(metadata["digests"]))
    return state


def _step_of(uri: str, settings_hash: str, last: int) -> int:
    """The step of a checkpoint in S3; only its head is fetched."""
    with open_uri(uri) as stream:
        size = int.from_bytes(stream.read(8), "little")
        head = json.loads(stream.read(min(size, LONGEST_HEAD)))
    return _without_tensors(head["__metadata__"], settings_hash, last).step


def _metadata(state: State) -> dict[str, str]:
    """What the file says beside the tensors: the rest of the state, a digest of each tensor, and one of these two."""
    header = {key: value for key, value in vars(state).items() if key != "tensors"}
    texts = {"state": json.dumps(header), "digests": json.dumps(_digests(state.tensors))}
    return texts | {"sha256": sha256_of_json(texts)}


def _without_tensors(metadata: Mapping[str, str], settings_hash: str, last: int) -> State:
    texts = {name: metadata[name] for name in ("state", "digests")}
    _compare(sha256_of_json(texts), metadata["sha256"])
    state = State(**json.loads(texts["state"]), tensors={})
    if state.settings_hash != settings_hash:
        raise _Unfit("is of other settings or inputs")
    if state.step > last:
        raise _Unfit(f"is of step {state.step}, and the run ends with step {last}")
    return state


def _digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Hex sha256 over name, type, shape and bytes of each tensor, in as many threads as torch may use."""

    def digest(name: str) -> str:
        tensor = tensors[name]
        of = hashlib.sha256(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        of.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return of.hexdigest()

    with ThreadPoolExecutor(torch.get_num_threads()) as threads:
        return dict(zip(tensors, threads.map(digest, tensors), strict=True))


def _compare(found: object, written: object) -> None:
    if found != written:
        raise _Unfit("is damaged: its content is not what was written")
