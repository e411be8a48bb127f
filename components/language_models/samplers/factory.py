"""The sampler that a setting names, for whoever samples: rollouts, held-out prompts, evaluation.

Nothing of transformers or vLLM is imported before it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.language_models.base_models import ResolvedModel
from components.language_models.samplers import Sampler
from components.language_models.tokens import end_of_turn_ids
from components.settings import SamplerName


def open_sampler(
    name: SamplerName,
    *,
    model: Any,
    tokenizer: Any,
    base: ResolvedModel,
    folder: Path,
    urls: Sequence[str] = (),
    rank: int | None,
    dtype: str,
    max_tokens: int,
    seed: int = 0,
    memory_share: float = 0.4,
) -> Sampler:
    """Open the sampler `name` on a base model; an adapter reaches vLLM by `sync`.

    Args:
        model: what `transformers` samples from, adapter and all; the others have a copy of the base of their own.
        base: the base model; servers know it by its reference.
        folder: where adapters are published for vLLM; servers see it under the same path.
        urls: base URL of each replica of `vllm_server`.
        rank: LoRA rank that vLLM in this process makes room for; None when no adapter will come.
        max_tokens: of the longest prompt and completion together.
        memory_share: part of the GPU that vLLM in this process may take.

    Raises:
        InputError: vLLM is not installed or cannot load the model; no server is named, or it serves another model.
        WorkError: a server does not answer.
    """
    ends = sorted(end_of_turn_ids(tokenizer))
    if name == "transformers":
        from components.language_models.samplers.transformers import TransformersSampler

        return TransformersSampler(model, tokenizer)
    if name == "vllm_server":
        from components.language_models.samplers.vllm_server import VllmServerSampler

        return VllmServerSampler(urls, base.reference, folder, ends)
    from components.language_models.samplers.vllm_engine import VllmEngineSampler

    return VllmEngineSampler(
        str(base.path),
        folder,
        rank=rank,
        dtype=dtype,
        max_tokens=max_tokens,
        memory_share=memory_share,
        seed=seed,
        stop_token_ids=ends,
    )


def longest_sequence(config: Any, max_prompt_tokens: int, max_new_tokens: int) -> int:
    """Tokens of the longest prompt and completion together: what is asked for, within the context of `config`.

    Args:
        config: the model's configuration, as transformers has it.
    """
    context = getattr(config, "max_position_embeddings", None)
    wanted = max_prompt_tokens + max_new_tokens
    return min(wanted, context) if context else wanted
