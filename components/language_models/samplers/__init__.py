"""What generates completions: one protocol, three backends (transformers.py, vllm_engine.py, vllm_server.py).

Token ids in, token ids out: no text, no chat template, no reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion. `finished`: it ends with an end-of-turn token (the last id); otherwise it was cut.

    `logprobs[i]` is the log-probability of `tokens[i]` in nats at the sampling temperature; None where unknown.
    """

    tokens: list[int]
    finished: bool
    logprobs: list[float] | None


class Sampler(Protocol):
    """Completions of prompts, repeatable by seed."""

    def sample(
        self, prompts: list[list[int]], seeds: list[list[int]], temperature: float, max_new_tokens: int
    ) -> list[list[Rollout]]:
        """One group per prompt, one rollout per seed; temperature 0 is greedy.

        A rollout depends on its prompt, its seed and the weights, not on what it is generated together with
        (as far as floating-point sums allow).
        """
        ...

    def sync(self, adapter_folder: Path, version: int) -> None:
        """Sample from this adapter from now on. Versions only rise."""
        ...
