"""The LoRA adapter on a frozen base model: made, identified. Saving and loading are model_directory.py's."""

from __future__ import annotations

import hashlib
import warnings
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict

from components.settings import AdapterSettings


def attach_adapter(model: Any, settings: AdapterSettings, seed: int) -> PeftModel:
    """Freeze `model` and put a float32 LoRA adapter on every linear layer but the output head.

    B is zero, so the model's function is unchanged; A depends on `seed` alone and leaves the caller's random state as
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
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)  # "auto" asks the model hub
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update(weight.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()
