"""The LoRA adapter on a frozen base model: made, identified, and read back only when it is whole.

Which directory it is in, and for which base, is model_directory.py's.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from components.errors import InputError
from components.files import read_json
from components.language_models.base_models import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from components.language_models.weight_files import tensor_shapes
from components.settings import AdapterSettings

# What an adapter may declare. Any other field of LoRA's configuration changes more than B A on linear layers.
FIELDS = {"r", "lora_alpha", "use_rslora", "lora_dropout", "target_modules", "exclude_modules", "rank_pattern",
          "alpha_pattern", "layers_to_transform", "layers_pattern", "task_type", "base_model_name_or_path", "revision",
          "inference_mode", "peft_version", "auto_mapping", "init_lora_weights"}  # fmt: skip
LARGEST = torch.finfo(torch.float32).max


def attach_adapter(model: Any, settings: AdapterSettings, seed: int) -> PeftModel:
    """Freeze `model` and put a float32 LoRA adapter on every linear layer but the output head.

    B is zero, so the model's function is unchanged; A depends only on `seed` and leaves the caller's random state as
    it was. No dropout: prefixes are shared between rollouts, and a resumed run must repeat itself.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that it is about to drop
        torch.manual_seed(seed)
        return get_peft_model(model, config, autocast_adapter_dtype=True)


def adapter_digest(model: PeftModel) -> str:
    """Hex sha256 over names, shapes and float32 bytes of the adapter's weights; independent of device and order."""
    return _digest(get_peft_model_state_dict(model, save_embedding_layers=False))  # "auto" asks the model hub


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()


def check_adapter(folder: Path, digest: str | None) -> None:
    """Check the LoRA adapter in `folder` without its model.

    Args:
        digest: adapter_digest of what was saved, None where it was not recorded.

    Raises:
        InputError: it is not a LoRA adapter of linear layers, its weights are not finite, they reach into the base, or
            they are not those that were saved.
    """
    _compare(folder, _read_weights(folder), digest)


def adapter_is_zero(folder: Path) -> bool:
    """Whether an adapter changes nothing, as before the first step: every B of its B A is zero."""
    return not any(weight.any() for name, weight in _read_weights(folder).items() if ".lora_B." in name)


def read_adapter(model: Any, folder: Path, digest: str | None, trainable: bool) -> PeftModel:
    """Put the LoRA adapter in `folder` on `model`, all of it and nothing else.

    Raises:
        InputError: as check_adapter; or weights are missing, left over, of another shape, or too large for float32.
    """
    name = f"model {folder}"
    there = _read_weights(folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is missing, which is checked below; and as in attach_adapter
            adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable, local_files_only=True)
    except Exception as error:  # peft raises ValueError, RuntimeError, safetensors' own and more
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InputError(f"{name}: the adapter cannot be loaded: {type(error).__name__}: {reason[:500]}") from error
    wanted = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    for what, keys in (
        ("lacks", wanted - there.keys()),
        ("holds, and the model has no place for,", there.keys() - wanted),
    ):
        if keys:
            raise InputError(f"{name}: {ADAPTER_WEIGHTS} {what} {len(keys)} weights, first {min(keys)[:200]}")
    _refuse_overflow(name, adapted)
    _compare(folder, there, digest)
    return adapted


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    name = f"model {folder}"
    _refuse_other_methods(name, folder)
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        raise InputError(f"{name}: there is no {ADAPTER_WEIGHTS}; an adapter in safetensors is expected")
    tensor_shapes([file])  # says what is wrong with the file
    weights = load_file(file)
    if foreign := sorted(key for key in weights if ".lora_A." not in key and ".lora_B." not in key):
        raise InputError(f"{name}: {ADAPTER_WEIGHTS} holds {foreign[0][:200]}, which is not an adapter's weight")
    refuse_unless_finite(name, weights.items())
    return weights


def _compare(folder: Path, weights: Mapping[str, torch.Tensor], digest: str | None) -> None:
    if digest is not None and _digest(weights) != digest:
        raise InputError(
            f"model {folder}: its adapter is not the one that was saved here (digest {digest[:12]} in callforge.json): "
            "the file was damaged or replaced; train again, or bring back the original"
        )


def _refuse_other_methods(name: str, folder: Path) -> None:
    try:
        config = read_json(folder / ADAPTER_CONFIG)
    except FileNotFoundError:
        raise InputError(f"{name}: there is no {ADAPTER_CONFIG}") from None
    if config.get("peft_type") != "LORA":
        raise InputError(f"{name}: {ADAPTER_CONFIG}: peft_type is {config.get('peft_type')!r}; only 'LORA' is read")
    rank = config.get("r")  # vLLM is told it before peft reads it
    if type(rank) is not int or rank < 1:
        raise InputError(f"{name}: {ADAPTER_CONFIG}: r is {str(rank)[:100]}; a rank of 1 or more is wanted")
    for field, default in LoraConfig().to_dict().items():
        value = config.get(field)
        if field not in FIELDS | {"peft_type"} and value and value != default:
            raise InputError(f"{name}: {ADAPTER_CONFIG}: {field} is {str(value)[:100]}; only plain LoRA is read")


def _refuse_overflow(name: str, model: PeftModel) -> None:
    for place, module in model.named_modules():
        if isinstance(module, LoraLayer):
            for adapter, scale in module.scaling.items():
                parts: list[Any] = [module.lora_A[adapter], module.lora_B[adapter]]
                a, b = (part.weight.detach().abs().max().item() for part in parts)
                largest = float(scale) * module.r[adapter] * a * b
                if not math.isfinite(scale) or not largest < LARGEST:
                    raise InputError(
                        f"{name}: the adapter of {place} overflows float32 (its scale, alpha over r, is {scale})"
                    )


def refuse_unless_finite(name: str, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
    """Raise an InputError that names the first weight with a NaN or an infinity."""
    for key, weight in weights:
        if not is_finite(weight):
            raise InputError(
                f"{name}: the weight {key[:200]} is not finite in {weight.dtype}; it is damaged, or wants a wider type"
            )


def is_finite(weight: torch.Tensor) -> bool:
    """Whether no element is NaN or infinite; without a second tensor of that size."""
    if not weight.numel():
        return True
    least, most = weight.detach().aminmax()
    return bool(torch.isfinite(least) & torch.isfinite(most))
