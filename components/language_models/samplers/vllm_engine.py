"""Sampling from a vLLM engine in this process, beside the trainer on the same device; token ids both ways.

Every rollout is a request of its own with its own seed; the prefix cache shares a group's prompt. A new adapter is a
new directory, name and id, so that no key or value of the old one is ever reused. The engine holds its own copy of the
base weights for the whole run: nothing is put to sleep and no weight is changed in place.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from components.errors import InputError, WorkError
from components.language_models.samplers import Rollout
from components.language_models.samplers.published import publish_adapter

VISIBLE = "CUDA_VISIBLE_DEVICES"


class VllmEngineSampler:
    """Samples from `model`, with the adapter of the last `sync`.

    Args:
        model: directory or hub id of the base model.
        folder: where adapters are published.
        rank: LoRA rank to make room for; None when no adapter will come.
        memory_share: part of the device's memory vLLM may take, weights and cache together.
        options: further arguments of vllm.LLM.

    Raises:
        InputError: vLLM is not installed, or cannot load the model.
    """

    def __init__(
        self,
        model: str,
        folder: Path,
        *,
        rank: int | None,
        dtype: str,
        max_tokens: int,
        memory_share: float = 0.4,
        seed: int = 0,
        stop_token_ids: Sequence[int] = (),
        **options: Any,
    ) -> None:
        try:
            from vllm import LLM
        except ImportError as error:
            raise InputError(
                f"sampler=vllm: vLLM cannot be imported ({error}); install it or set another one"
            ) from None
        self.folder = folder
        self.stop_token_ids = sorted(stop_token_ids)
        try:
            with _own_device():
                self.engine = LLM(
                    model,
                    dtype=dtype,
                    seed=seed,
                    max_model_len=max_tokens,
                    gpu_memory_utilization=memory_share,
                    enable_prefix_caching=True,
                    logprobs_mode="processed_logprobs",
                    **({} if rank is None else {"enable_lora": True, "max_lora_rank": rank, "max_loras": 2}),
                    **options,
                )
        except (OSError, ValueError, RuntimeError) as error:
            raise InputError(f"sampler=vllm: vLLM cannot load {model}: {error}") from error
        self.adapter: Any = None

    def sample(
        self, prompts: list[list[int]], seeds: list[list[int]], temperature: float, max_new_tokens: int
    ) -> list[list[Rollout]]:
        """As Sampler.sample."""
        from vllm import SamplingParams

        requests = [(prompt, seed) for prompt, group in zip(prompts, seeds, strict=True) for seed in group]
        outputs = self.engine.generate(
            [{"prompt_token_ids": prompt} for prompt, _ in requests],
            [
                SamplingParams(
                    seed=seed,
                    temperature=temperature,
                    max_tokens=max_new_tokens,
                    top_p=1.0,
                    top_k=0,
                    logprobs=0,
                    detokenize=False,
                    stop_token_ids=self.stop_token_ids,
                )
                for _, seed in requests
            ],
            lora_request=self.adapter,
            use_tqdm=False,
        )
        rollouts = iter(outputs)
        return [[_rollout(next(rollouts).outputs[0]) for _ in group] for group in seeds]

    def sync(self, adapter_folder: Path, version: int) -> None:
        """Publish the adapter under a new name and id, load it, switch to it.

        Raises:
            WorkError: vLLM cannot load it.
        """
        from vllm.lora.request import LoRARequest

        place = publish_adapter(adapter_folder, self.folder, version).resolve()
        before = self.adapter
        adapter = LoRARequest(place.name, 1 if before is None else before.lora_int_id + 1, str(place))
        try:  # not left to the first request, where a failure would kill the engine
            self.engine.llm_engine.add_lora(adapter)
        except Exception as error:  # what the engine's process raised comes as a bare Exception
            raise WorkError(f"vLLM cannot load the adapter {place}: {error}") from error
        self.adapter = adapter
        logging.getLogger(__name__).debug("vLLM samples from %s", place.name)
        if before is not None:
            self.engine.llm_engine.remove_lora(before.lora_int_id)
            shutil.rmtree(before.lora_path, ignore_errors=True)


@contextmanager
def _own_device() -> Iterator[None]:
    """The engine's process, started inside, sees only the device of this process: it would take the first one."""
    before = os.environ.get(VISIBLE)
    if torch.cuda.is_available():
        names = before.split(",") if before else range(torch.cuda.device_count())
        os.environ[VISIBLE] = str(names[torch.cuda.current_device()])
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VISIBLE, None)
        else:
            os.environ[VISIBLE] = before


def _rollout(completion: Any) -> Rollout:
    tokens = list(completion.token_ids)
    logprobs = [places[token].logprob for token, places in zip(tokens, completion.logprobs, strict=True)]
    return Rollout(tokens, completion.finish_reason == "stop", logprobs)
