"""Whether this machine's disks have room for a run: a sum over what its stages write, from the size of the base model.

The size is looked up where it can be without fetching weights; where it cannot, only the least that any run takes is
required. A step on a cluster has a disk of its own node, which nothing here can see.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from components.errors import CallforgeError, InputError
from components.files import read_json
from components.language_models.base_models import (
    HUB_ID,
    PACKAGE,
    cache_folder,
    fetched_base_model,
    hub_is_offline,
    package_weights,
)
from components.services.storage import is_remote, objects_below, open_uri
from components.services.web import NoAnswerError, ask
from components.settings import Settings
from components.stages.catalogue import Stage

LEAST = 2 * 10**9  # bytes: records, reports, logs, and a model as small as that of the demo
HUB = "https://huggingface.co"
GGUF_BYTES = 0.56  # a weight, at 4.5 bits; a coarser file holds more weights than is assumed
CHECKPOINT_BYTES = 12  # a trained weight and its two moments, all float32
HIDDEN = 1024  # width of a model that does not say it
TYPE_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """Number of a base model's weights, their width, and the bytes that are still to be fetched or converted."""

    weights: float
    hidden: int = HIDDEN
    to_fetch: float = 0.0


def check_disk(settings: Settings, stages: Sequence[Stage]) -> None:
    """Compare what `stages` write with what is free, in the run's folder and in the cache of base models.

    Raises:
        InputError: there is less, with the sum and its largest parts.
    """
    warms_up = any(stage.section == "sft_warmup" for stage in stages)  # others take their model from an input
    size = model_size(settings.sft_warmup.base_model) if warms_up else None
    needs = wanted_bytes(settings, stages, size) if size else {}
    fetched = {"the base model": size.to_fetch} if size else {}
    here, cache = Path.cwd(), _existing(cache_folder())
    if here.stat().st_dev == cache.stat().st_dev:
        needs, fetched = needs | fetched, {}
    _check_room(here, needs | {"records, reports and logs": LEAST})
    _check_room(cache, fetched)


def wanted_bytes(settings: Settings, stages: Sequence[Stage], size: ModelSize) -> dict[str, float]:
    """Bytes by what takes them, without the base model itself.

    A store on this machine, such as the embedded one, keeps everything that is uploaded a second time.
    """
    host = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3", "")).hostname
    stored = 1 if host in ("localhost", "127.0.0.1", "::1") else 0
    warmup, egpo = settings.sft_warmup, settings.egpo_rl
    adapter = size.weights * min(1.0, 2 * warmup.adapter.rank / size.hidden)
    trained = {
        "sft_warmup": (adapter, warmup.checkpoint.keep + 1, 0),
        "egpo_rl": (size.weights if egpo.trained_weights == "all" else adapter, egpo.checkpoint.keep + 1, stored),
    }
    needs = {}
    for stage in stages:
        if stage.section in trained:
            weights, checkpoints, uploaded = trained[stage.section]
            needs[f"{stage.name}'s checkpoints"] = CHECKPOINT_BYTES * weights * (checkpoints + uploaded)
            needs[f"{stage.name}'s model"] = 4 * weights * (1 + stored)
        elif stage.section == "model_registration":
            dtype = settings.model_registration.save_dtype
            needs[f"{stage.name}'s merged model"] = TYPE_BYTES[dtype] * size.weights * (1 + stored)
    return needs


def model_size(reference: str) -> ModelSize | None:
    """The size of a base model, looked up without fetching it; None where that cannot be done."""
    # What the file or the hub says may have any shape.
    with suppress(
        CallforgeError, NoAnswerError, OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError
    ):
        if (folder := fetched_base_model(reference)) is not None:
            files = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
            return _size_of(files, read_json(folder / "config.json"), fetched=True)
        if reference.startswith(PACKAGE):
            weights = package_weights(reference.removeprefix(PACKAGE)).stat().st_size / GGUF_BYTES
            return ModelSize(weights=weights, to_fetch=4 * weights)  # it is converted to float32
        if is_remote(reference):
            with open_uri(f"{reference.rstrip('/')}/config.json") as stream:
                return _size_of(objects_below(reference), json.load(stream), fetched=False)
        if (found := HUB_ID.fullmatch(reference)) and not hub_is_offline():
            hub = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
            url = f"{hub}/api/models/{quote(found['name'])}/revision/{quote(found['revision'] or 'main', safe='')}"
            answer = ask(url, token=os.environ.get("HF_TOKEN", "").strip())
            counts = json.loads(answer.body)["safetensors"]["parameters"]
            stored = sum((4 if name == "F32" else 2) * number for name, number in counts.items())
            return ModelSize(weights=sum(counts.values()), to_fetch=stored)
    return None


def _size_of(files: dict[str, int], config: dict[str, Any], *, fetched: bool) -> ModelSize:
    stored = sum(size for name, size in files.items() if name.endswith(".safetensors"))
    dtype = config.get("dtype") or config.get("torch_dtype") or ""
    width = config.get("hidden_size") or config.get("text_config", {}).get("hidden_size") or HIDDEN
    return ModelSize(
        weights=stored / TYPE_BYTES.get(dtype, 2), hidden=int(width), to_fetch=0 if fetched else sum(files.values())
    )


def _existing(folder: Path) -> Path:
    return next(path for path in (folder, *folder.parents) if path.exists())


def _check_room(folder: Path, needs: dict[str, float]) -> None:
    free, wanted = shutil.disk_usage(folder).free, sum(needs.values())
    if free < wanted:
        parts = sorted(needs.items(), key=lambda item: -item[1])[:3]
        shown = ", ".join(f"{size / 1e9:.1f} for {name}" for name, size in parts)
        raise InputError(
            f"disk: {free / 1e9:.1f} GB are free in {folder}, and about {wanted / 1e9:.1f} GB are needed ({shown}); "
            "make room, or lower checkpoint.keep"
        )
