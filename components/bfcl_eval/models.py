"""The models that are asked, one after the other: found, and opened for sampling by whatever the settings name.

A base model stays open between its adapters. Which questions are asked is not known here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.evaluations.schema import EvaluatedModel
from components.language_models.base_models import resolve_base_model, weights_digest
from components.language_models.model_directory import (
    ADAPTER_CONFIG,
    LoadedModel,
    adapter_is_zero,
    holds_adapter,
    load_adapter,
    load_base,
    load_tokenizer,
    read_card,
)
from components.language_models.samplers import Sampler
from components.language_models.samplers.factory import longest_sequence, open_sampler
from components.settings import BfclEvalSettings

MEMORY_SHARE = 0.85  # of the GPU, for vLLM: nothing is trained beside it


@dataclass(frozen=True)
class Subject:
    """A model to be evaluated: the weights of `base` (a whole model's own), and `adapter` on them, where there is one.

    reference: what `base` is called. identity: digests, equal for two models that compute the same.
    """

    model: EvaluatedModel
    base: Path
    adapter: Path | None
    reference: str
    identity: tuple[str, ...]


@dataclass(frozen=True)
class Answering:
    """What answers: a sampler, the tokenizer of its prompts, and the longest sequence the model takes, if it says."""

    sampler: Sampler
    tokenizer: Any
    context: int | None


def find_subject(folder: Path | str, name: str) -> Subject:
    """The model of `folder`: an adapter, a whole model, the stage folder of either, or a base model's reference.

    Raises:
        InputError: there is no model, or an adapter was made for other base weights.
    """
    folder = Path(folder) / "model" if (Path(folder) / "model").is_dir() else folder
    if not holds_adapter(Path(folder)):
        base = resolve_base_model(str(folder))
        model = EvaluatedModel(name=name, reference=str(folder), weights_sha256=weights_digest(base))
        return Subject(model, base, None, str(folder), (model.weights_sha256,))
    folder = Path(folder)
    card = read_card(folder)
    base = resolve_base_model(card.base_model.reference)
    digest = weights_digest(base)
    if card.base_model.sha256 != digest:
        raise InputError(
            f"model {folder}: its adapter was made for {card.base_model.reference} (weights "
            f"{card.base_model.sha256[:12]}), and {base} has other weights ({digest[:12]}); use the base model it was "
            "trained on, or train again"
        )
    model = EvaluatedModel(
        name=name, reference=str(folder), weights_sha256=weights_digest(folder), base_weights_sha256=digest
    )
    # The adapter of a warm-up of no step leaves the base as it is: what that answered need not be asked again.
    identity = (digest,) if adapter_is_zero(folder) else (digest, model.weights_sha256)
    return Subject(model, base, folder, card.base_model.reference, identity)


class Models:
    """Opens one of `subjects` after the other; give the base before its adapters, so that it is opened once."""

    def __init__(self, config: BfclEvalSettings, subjects: Sequence[Subject], folder: Path) -> None:
        """`folder` is where adapters are published for vLLM; servers see it under the same path."""
        self.config, self.folder = config, folder
        self.ranks: dict[Path, int] = {}
        for subject in subjects:
            if subject.adapter is not None:
                rank = int(json.loads((subject.adapter / ADAPTER_CONFIG).read_text("utf-8"))["r"])
                self.ranks[subject.base] = max(rank, self.ranks.get(subject.base, 0))
        self.base: LoadedModel | None = None
        self.adapted: LoadedModel | None = None
        self.sampler: Sampler | None = None
        self.versions = 0

    def open(self, subject: Subject) -> Answering:
        """Sample from `subject` from now on.

        Raises:
            InputError: it cannot be loaded, or no server serves its base.
            WorkError: a server does not answer.
        """
        if self.config.sampler == "transformers":
            return self._in_memory(subject)
        from transformers import AutoConfig

        if self.base is None or self.base.path != subject.base or (self.versions and subject.adapter is None):
            self.sampler, self.versions = None, 0  # the old engine goes before the new one comes
            self.base = LoadedModel(None, load_tokenizer(subject.base), subject.base)
            model_config = AutoConfig.from_pretrained(subject.base)
            self.context = getattr(model_config, "max_position_embeddings", None)
            self.sampler = self._sampler(None, self.base.tokenizer, subject, model_config)
        assert self.sampler is not None
        if subject.adapter is not None:
            self.versions += 1
            self.sampler.sync(subject.adapter, self.versions)
        return Answering(self.sampler, self.base.tokenizer, self.context)

    def _in_memory(self, subject: Subject) -> Answering:
        if self.adapted is not None and self.base is not None:
            self.base = LoadedModel(self.adapted.model.unload(), self.base.tokenizer, self.base.path)
            self.adapted = None
        if self.base is None or self.base.path != subject.base:
            self.base = None  # the old weights go before the new ones come
            self.base = load_base(subject.base, self.config.dtype)
        if subject.adapter is not None:
            self.adapted = load_adapter(self.base, subject.adapter, trainable=False)
        loaded = self.adapted or self.base
        context = getattr(loaded.model.config, "max_position_embeddings", None)
        return Answering(
            self._sampler(loaded.model, loaded.tokenizer, subject, loaded.model.config), loaded.tokenizer, context
        )

    def _sampler(self, model: Any, tokenizer: Any, subject: Subject, model_config: Any) -> Sampler:
        return open_sampler(
            self.config.sampler,
            model=model,
            tokenizer=tokenizer,
            base=subject.base,
            reference=subject.reference,
            folder=self.folder,
            urls=self.config.sampler_urls,
            rank=self.ranks.get(subject.base),
            dtype=self.config.dtype,
            max_tokens=longest_sequence(model_config, self.config.max_prompt_tokens, self.config.max_new_tokens),
            seed=self.config.seed,
            memory_share=MEMORY_SHARE,
        )
