"""The model directory: what transformers and peft load, plus callforge.json, which says where it comes from.

Adapters stay adapters until registration: `save_adapter` and `load_adapter` keep them apart from the frozen base, and
`merge_adapter` writes merged weights once, in float32, beside both, never into them. A model whose weights were all
trained is saved whole (`save_model`). Every folder written here is whole or absent. Weights are safetensors; code that
a model brings along is never run.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from components.errors import InputError, WorkError
from components.files import write_json
from components.language_models.adapters import adapter_digest
from components.language_models.base_models import resolve_base_model, weights_digest, without_bars
from components.language_models.tokens import ensure_chat_template
from components.services.progress import track

CARD = "callforge.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Dtype = Literal["float32", "bfloat16", "float16"]


class BaseModelReference(BaseModel):
    """What the user called the base model, and the digest of its weights (base_models.weights_digest)."""

    model_config = ConfigDict(frozen=True)
    reference: str
    sha256: str


def library_versions() -> dict[str, str]:
    """Versions of what decides the numbers: Python and the libraries that train."""
    versions = {"python": platform.python_version()}
    for name in ("callforge", "torch", "transformers", "peft", "tokenizers", "safetensors"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"  # callforge run from a checkout that is not installed
    return versions


class ModelCard(BaseModel):
    """Contents of callforge.json. `parents` are digests by name, e.g. of the records and of the adapter trained on."""

    model_config = ConfigDict(frozen=True)
    stage: str
    base_model: BaseModelReference
    prompt_version: str
    parents: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    library_versions: dict[str, str] = Field(default_factory=library_versions)


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory: the base (`path` is its directory), or a PeftModel around it, and its tokenizer."""

    model: Any
    tokenizer: Any
    path: Path


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def read_card(folder: Path) -> ModelCard:
    """The card of a model directory.

    Raises:
        InputError: there is none, or it lacks something.
    """
    try:
        return ModelCard.model_validate_json((folder / CARD).read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"model {folder}: there is no {CARD}; a model directory of callforge is wanted") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"model {folder}: {CARD}: {where}: {first['msg']}") from None


def load_base(path: Path, dtype: Dtype = "float32", device: str | None = None) -> LoadedModel:
    """Load the base model of a local directory (see resolve_base_model) and its tokenizer, for evaluation.

    Raises:
        InputError: transformers cannot load it.
    """
    try:
        with track(1, f"load {path.name}", "models") as bar, without_bars():
            tokenizer = load_tokenizer(path)
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype), use_safetensors=True)
            bar.advance()
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, safetensors' own and more
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"base model {path}: transformers cannot load it: {type(error).__name__}: {reason}") from error
    return LoadedModel(model.to(device or default_device()).eval(), tokenizer, path)


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a local directory, with our chat template where it has none, and a padding token."""
    tokenizer = AutoTokenizer.from_pretrained(path)
    ensure_chat_template(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_for_inference(folder: Path | str, dtype: Dtype = "float32", device: str | None = None) -> LoadedModel:
    """Load a model directory: a base (a path or any reference), merged weights, or base and adapter by its card."""
    if holds_adapter(Path(folder)):
        card = read_card(Path(folder))
        base = load_base(resolve_base_model(card.base_model.reference), dtype, device)
        return load_adapter(base, Path(folder), trainable=False)
    return load_base(resolve_base_model(str(folder)), dtype, device)


def save_adapter(model: PeftModel, folder: Path, card: ModelCard) -> None:
    """Write the adapter (float32 safetensors) and its card as `folder`, replacing what is there.

    Equal weights and cards give equal bytes.
    """
    digest = adapter_digest(model)
    config = model.peft_config["default"]
    config.base_model_name_or_path = card.base_model.reference
    card = card.model_copy(update={"parents": {**card.parents, "adapter": digest}})

    def write(partial: Path) -> None:
        model.save_pretrained(str(partial), safe_serialization=True, save_embedding_layers=False)
        (partial / "README.md").unlink(missing_ok=True)  # peft's empty model card
        settings = json.loads((partial / ADAPTER_CONFIG).read_text("utf-8"))
        settings["target_modules"] = sorted(settings["target_modules"])  # a set: its order changes between processes
        write_json(partial / ADAPTER_CONFIG, settings)
        write_json(partial / CARD, card.model_dump(mode="json"))

    _write_folder(folder, write)


def save_model(loaded: LoadedModel, folder: Path, card: ModelCard) -> None:
    """Write all weights, the tokenizer and the card as `folder`, replacing what is there."""

    def write(partial: Path) -> None:
        with track(1, f"save {folder.name}", "models") as bar, without_bars():
            loaded.model.save_pretrained(partial)
            bar.advance()
        loaded.tokenizer.save_pretrained(partial)
        write_json(partial / CARD, card.model_dump(mode="json"))

    _write_folder(folder, write)


def holds_adapter(folder: Path) -> bool:
    """Whether a model directory holds an adapter, to be put on its base, and not a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()


def adapter_is_zero(folder: Path) -> bool:
    """Whether an adapter changes nothing, as before the first step: every B of its B A is zero."""
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, "pt") as file:
            changing = [name for name in file.keys() if ".lora_A." not in name]  # noqa: SIM118  # no mapping
            return all(".lora_B." in name and not file.get_tensor(name).any() for name in changing)
    except (OSError, SafetensorError):
        return False  # whoever loads it says what is wrong with it


def load_adapter(loaded: LoadedModel, folder: Path, trainable: bool) -> LoadedModel:
    """Put the adapter of a model directory on its base model; float32, in training mode where `trainable`.

    Raises:
        InputError: no adapter there, one made for other base weights, or one that does not fit the model.
    """
    card = read_card(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise InputError(f"model {folder}: there is no {ADAPTER_WEIGHTS}; an adapter in safetensors is wanted")
    digest = weights_digest(loaded.path)
    if card.base_model.sha256 != digest:
        raise InputError(
            f"model {folder}: its adapter was made for {card.base_model.reference} (weights "
            f"{card.base_model.sha256[:12]}), and {loaded.path} has other weights ({digest[:12]}); use the base model "
            "it was trained on, or train again"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # as in attach_adapter
            model = PeftModel.from_pretrained(loaded.model, folder, is_trainable=trainable)
    except Exception as error:  # peft raises ValueError, RuntimeError, safetensors' own and more
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"model {folder}: the adapter cannot be loaded: {type(error).__name__}: {reason}") from error
    return LoadedModel(model.train(trainable), loaded.tokenizer, loaded.path)


def merge_adapter(model_folder: Path, target: Path, save_dtype: Dtype = "bfloat16") -> Path:
    """Write W + (alpha/r) B A as `target`: merged in float32 from the base's own files, then cast to `save_dtype`.

    Out of place: neither the base nor the adapter is touched, and nothing is ever un-merged. bfloat16 rounds most of a
    small update away (reference measurements: 79 % at a relative norm of 1e-3), which is why the merge is done once.
    A whole model, which has nothing to merge, is cast alone.

    Returns:
        `target`, with safetensors, tokenizer, and callforge.json.

    Raises:
        WorkError: a weight is not finite in `save_dtype`.
    """
    card = read_card(model_folder)
    loaded = load_merged(model_folder, "cpu")
    loaded.model.to(getattr(torch, save_dtype))
    for name, weight in loaded.model.named_parameters():
        if not torch.isfinite(weight).all():
            raise WorkError(f"merge of {model_folder}: {name} is not finite in {save_dtype}; save as float32")
    save_model(loaded, target, card)
    return target


def load_merged(folder: Path, device: str) -> LoadedModel:
    """Load a model directory in float32, its adapter, where there is one, merged into the weights."""
    loaded = load_for_inference(folder, "float32", device)
    model = loaded.model.merge_and_unload() if isinstance(loaded.model, PeftModel) else loaded.model
    return replace(loaded, model=model)


def _write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `folder` that takes its name when it is whole."""
    partial = folder.parent / f".{folder.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write(partial)
    for file in partial.rglob("*"):
        if file.is_file():
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
