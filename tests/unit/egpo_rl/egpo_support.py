"""Helpers of this folder's tests that are no fixtures; the child processes of some tests import them too."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import torch

from components.function_calls.prompt import PROMPT_VERSION
from components.function_calls.record import record_to_json
from components.language_models.adapters import attach_adapter
from components.language_models.base_models import base_model_digest
from components.language_models.model_directory import BaseModelReference, ModelCard, load_base, save_adapter
from components.settings import AdapterSettings, EgpoRlSettings

SMALL = EgpoRlSettings(steps=3, prompts_per_step=4, group_size=4, max_new_tokens=10, held_out=4, checkpoint_every=2)


def stage_inputs(folder: Path, base: Path, records, rank: int = 4) -> dict[str, Path]:
    """The folders of data_refine and sft_warmup as `train.run` gets them; the adapter is fresh."""
    (folder / "data_refine").mkdir(parents=True)
    with gzip.open(folder / "data_refine" / "qualified.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record_to_json(record)) + "\n" for record in records)
    model = attach_adapter(load_base(base, "float32", "cpu").model, AdapterSettings(rank=rank, alpha=2 * rank), seed=0)
    reference = BaseModelReference(reference=str(base), sha256=base_model_digest(base))
    card = ModelCard(stage="sft_warmup", base_model=reference, prompt_version=PROMPT_VERSION)
    save_adapter(model, folder / "sft_warmup" / "model", card)
    return {"records": folder / "data_refine", "model": folder / "sft_warmup"}


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: item.grad.clone() for name, item in model.named_parameters() if item.requires_grad}


def relative_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of two gradients over the norm of the second."""
    assert one.keys() == other.keys()
    flat_one, flat_other = (torch.cat([item[name].flatten() for name in other]) for item in (one, other))
    return ((flat_one - flat_other).norm() / flat_other.norm()).item()
