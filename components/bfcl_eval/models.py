"""The models that are asked, one after the other: found, and opened for sampling by whatever the settings name.

A base model stays open between its adapters. Which questions are asked is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.evaluations.schema import EvaluatedModel
from components.files import read_json
from components.language_models.adapters import adapter_is_zero, check_adapter
from components.language_models.base_models import ADAPTER_CONFIG, ResolvedModel
from components.language_models.model_directory import (
    LoadedModel,
    load_adapter,
    load_base,
    load_config,
    load_tokenizer,
)
from components.language_models.samplers import Sampler
from components.language_models.samplers.factory import longest_sequence, open_sampler
from components.settings import BfclEvalSettings

MEMORY_SHARE = 0.85  # of the GPU, for vLLM: nothing is trained beside it


@dataclass(frozen=True)
class Subject:
    """A model to be evaluated. identity: digests, equal for two models that compute the same."""

    model: EvaluatedModel
    found: ResolvedModel
    identity: tuple[str, ...]


@dataclass(frozen=True)
class Answering:
    """What answers: a sampler, the tokenizer of its prompts, and the longest sequence the model takes, if it says."""

    sampler: Sampler
    tokenizer: Any
    context: int | None


def subject_of(found: ResolvedModel, name: str = "") -> Subject:
    """What is to be evaluated of a model that was found.

    Args:
        name: what people call it; without one, the stage that made it, or its directory.
    """
    # A place on a disk is not part of a result: the same weights elsewhere have equal scores.
    name = name or (found.card.stage if found.card else found.path.name)
    called = f"{found.card.stage} on {found.card.base_model.reference}" if found.card else found.reference
    called = name if Path(called).is_absolute() else called
    if found.base is None:
        model = EvaluatedModel(name=name, reference=called, weights_sha256=found.sha256)
        return Subject(model, found, (found.sha256,))
    model = EvaluatedModel(
        name=name, reference=called, weights_sha256=found.sha256, base_weights_sha256=found.base.sha256
    )
    # The adapter of a warm-up of no step leaves the base as it is: what that answered need not be asked again.
    identity = (found.base.sha256,) if adapter_is_zero(found.path) else (found.base.sha256, found.sha256)
    return Subject(model, found, identity)


class Models:
    """Opens one of `subjects` after the other; give the base before its adapters, so that it is opened once."""

    def __init__(self, config: BfclEvalSettings, subjects: Sequence[Subject], folder: Path) -> None:
        """`folder` is where adapters are published for vLLM; servers see it under the same path."""
        self.config, self.folder = config, folder
        self.ranks: dict[Path, int] = {}
        for subject in subjects:
            if subject.found.base is not None:
                rank = int(read_json(subject.found.path / ADAPTER_CONFIG)["r"])
                base = subject.found.base.path
                self.ranks[base] = max(rank, self.ranks.get(base, 0))
        self.base: LoadedModel | None = None
        self.adapted: LoadedModel | None = None
        self.sampler: Sampler | None = None
        self.versions = 0
        self.context: int | None = None

    def open(self, subject: Subject) -> Answering:
        """Sample from `subject` from now on.

        Raises:
            InputError: it cannot be loaded, or no server serves its base.
            WorkError: a server does not answer.
        """
        if self.config.sampler == "transformers":
            return self._in_memory(subject)
        base = subject.found.origin
        if self.base is None or self.base.base.path != base.path or (self.versions and subject.found.base is None):
            self.sampler, self.versions = None, 0  # the old engine goes before the new one comes
            self.base = LoadedModel(None, load_tokenizer(base), base)
            model_config = load_config(base)
            self.context = getattr(model_config, "max_position_embeddings", None)
            self.sampler = self._sampler(None, self.base.tokenizer, subject, model_config)
        assert self.sampler is not None
        if subject.found.base is not None:
            assert subject.found.card is not None
            check_adapter(subject.found.path, subject.found.card.parents.get("adapter"))
            self.versions += 1
            self.sampler.sync(subject.found.path, self.versions)
        return Answering(self.sampler, self.base.tokenizer, self.context)

    def _in_memory(self, subject: Subject) -> Answering:
        if self.adapted is not None and self.base is not None:
            self.base = LoadedModel(self.adapted.model.unload(), self.base.tokenizer, self.base.base)
            self.adapted = None
        if self.base is None or self.base.base.path != subject.found.origin.path:
            self.base = None  # the old weights go before the new ones come
            self.base = load_base(subject.found.origin, self.config.dtype)
        if subject.found.base is not None:
            self.adapted = load_adapter(self.base, subject.found, trainable=False)
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
            base=subject.found.origin,
            folder=self.folder,
            urls=self.config.sampler_urls,
            rank=self.ranks.get(subject.found.origin.path),
            dtype=self.config.dtype,
            max_tokens=longest_sequence(model_config, self.config.max_prompt_tokens, self.config.max_new_tokens),
            seed=self.config.seed,
            memory_share=MEMORY_SHARE,
        )
