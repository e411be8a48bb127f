"""The model directory: what transformers and peft load, plus callforge.json, which says where it comes from.

Adapters stay adapters until registration: `save_adapter` and `load_adapter` keep them apart from the frozen base, and
`merge_adapter` writes merged weights once, in float32, beside both, never into them. A model whose weights were all
trained is saved whole (`save_model`). Every folder written here is whole or absent. Weights are safetensors; code that
comes with a model is never run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from components.errors import InputError, WorkError, is_failure
from components.files import read_json, write_json
from components.language_models.adapters import adapter_digest, is_finite, read_adapter, refuse_unless_finite
from components.language_models.base_models import ADAPTER_CONFIG, ResolvedModel, without_bars
from components.language_models.model_card import CARD, ModelCard, read_card
from components.language_models.tokens import check_template, ensure_chat_template
from components.language_models.weight_files import custom_code
from components.services.progress import track

Dtype = Literal["float32", "bfloat16", "float16"]
# By default transformers asks on standard input whether to run a model's own code, and looks on the hub for files.
NO_CODE: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory, a PeftModel where it has an adapter; its tokenizer; and where its whole weights are."""

    model: Any
    tokenizer: Any
    base: ResolvedModel


def default_device() -> str:
    """`cuda` where there is one, else `cpu`."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(model: ResolvedModel, dtype: Dtype = "float32", device: str | None = None) -> LoadedModel:
    """A base model, merged weights, or an adapter on its base, for evaluation."""
    loaded = load_base(model.origin, dtype, device)
    return load_adapter(loaded, model, trainable=False) if model.base else loaded


def load_base(base: ResolvedModel, dtype: Dtype = "float32", device: str | None = None) -> LoadedModel:
    """Load a whole model and its tokenizer, for evaluation. Code that comes with the model is not run.

    Raises:
        InputError: transformers cannot load it, weights are missing, left over, or not finite, its tokenizer has
            tokens that the model lacks, or its chat template cannot be used.
    """
    tokenizer = load_tokenizer(base)
    with _load_faults(base), track(1, f"load {base.path.name}", "models") as bar, without_bars():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            base.path, dtype=getattr(torch, dtype), use_safetensors=True, output_loading_info=True, **NO_CODE
        )
        bar.advance()
    model, keys = loaded
    for what, names in (("lack", keys["missing_keys"]), ("and not its config.json have", keys["unexpected_keys"])):
        if names:
            raise InputError(
                f"base model {base.path}: its weight files {what} {len(names)} weights of the model, first "
                f"{min(names)[:200]}; fetch or save it again, with the config.json that belongs to it"
            )
    model = model.to(device or default_device())
    refuse_unless_finite(f"base model {base.path}", model.named_parameters())
    _refuse_unknown_tokens(base, tokenizer, model.get_input_embeddings().num_embeddings)
    return LoadedModel(model.eval(), tokenizer, base)


def load_tokenizer(base: ResolvedModel) -> Any:
    """A model's tokenizer, with our chat template where it has none, and a padding token.

    Raises:
        InputError: transformers cannot load it, or its chat template cannot be used.
    """
    with _load_faults(base):
        tokenizer = AutoTokenizer.from_pretrained(base.path, **NO_CODE)
        tried = tokenizer("Which city?", add_special_tokens=False)["input_ids"]  # some faults show only in use
    if not tried:
        raise InputError(f"base model {base.path}: its tokenizer makes no tokens of a text; save it again")
    ensure_chat_template(tokenizer)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    check_template(tokenizer)
    return tokenizer


def load_config(base: ResolvedModel) -> Any:
    """A model's configuration, as transformers has it."""
    with _load_faults(base):
        return AutoConfig.from_pretrained(base.path, **NO_CODE)


@contextmanager
def _load_faults(base: ResolvedModel) -> Iterator[None]:
    try:
        yield
    except BaseException as error:  # transformers raises OSError, ValueError, KeyError, safetensors' own and more
        if not is_failure(error):
            raise
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        if code := custom_code(base.path):
            reason = f"it wants to run code of its own ({code}), which is never done; without it: {reason}"
        raise InputError(f"base model {base.path}: transformers cannot load it: {reason}") from error


def _refuse_unknown_tokens(base: ResolvedModel, tokenizer: Any, rows: int) -> None:
    token, largest = max(tokenizer.get_vocab().items(), key=itemgetter(1))
    if largest >= rows:
        raise InputError(
            f"base model {base.path}: its tokenizer has token {largest} ({token[:100]!r}), and the model's embedding "
            f"{rows} rows; give the tokenizer that belongs to the model, or enlarge the embedding"
        )


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
        settings = read_json(partial / ADAPTER_CONFIG)
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


def load_adapter(loaded: LoadedModel, adapter: ResolvedModel, trainable: bool) -> LoadedModel:
    """Put an adapter on its base model; float32, in training mode where `trainable`.

    Raises:
        InputError: it was made for other base weights, or is not an adapter that fits the model whole (read_adapter).
    """
    assert adapter.base is not None and adapter.card is not None
    if adapter.base.sha256 != loaded.base.sha256:
        raise InputError(
            f"model {adapter.path}: its adapter was made for {adapter.base.path}, not for {loaded.base.path}"
        )
    model = read_adapter(loaded.model, adapter.path, adapter.card.parents.get("adapter"), trainable)
    return LoadedModel(model.train(trainable), loaded.tokenizer, loaded.base)


def merge_adapter(model: ResolvedModel, target: Path, save_dtype: Dtype = "bfloat16") -> Path:
    """Write W + (alpha/r) B A as `target`: merged in float32 from the base's own files, then cast to `save_dtype`.

    Out of place: neither the base nor the adapter is touched, and nothing is ever un-merged. bfloat16 rounds most of a
    small update away (reference measurements: 79 % at a relative norm of 1e-3), which is why the merge is done once.
    A whole model, which has nothing to merge, is only cast.

    Returns:
        `target`, with safetensors, tokenizer, and callforge.json.

    Raises:
        InputError: the model has no card, so callforge did not make it.
        WorkError: a weight is not finite in `save_dtype`.
    """
    card = read_card(model.path)
    loaded = load_merged(model, "cpu")
    loaded.model.to(getattr(torch, save_dtype))
    for name, weight in loaded.model.named_parameters():
        if not is_finite(weight):
            raise WorkError(f"merge of {model.path}: {name} is not finite in {save_dtype}; save as float32")
    save_model(loaded, target, card)
    return target


def load_merged(model: ResolvedModel, device: str) -> LoadedModel:
    """Load a model in float32, its adapter, where there is one, merged into the weights."""
    loaded = load_model(model, "float32", device)
    if not model.base:
        return loaded
    return replace(loaded, model=loaded.model.merge_and_unload())


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
