"""Groups of rollouts with their rewards: sampled, decoded, graded. No gradients here; those are update.py's."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.egpo_rl.distributed import World
from components.egpo_rl.prompts import EncodedPrompt
from components.egpo_rl.rewards import REWARDS, Reward
from components.egpo_rl.samplers import PolicySampler
from components.language_models.samplers import Rollout
from components.language_models.tokens import decode_turn
from components.services.progress import track
from components.settings import EgpoRlSettings, RewardSettings


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The rollouts of one prompt, what they say, what they earned."""

    prompt: EncodedPrompt
    rollouts: list[Rollout]
    texts: list[str]
    rewards: list[Reward]


def rollout_seed(seed: int, step: int, prompt: int, sample: int) -> int:
    """A seed for each rollout of a run, below 2**63: the same rollout whatever it is batched with."""
    digest = hashlib.blake2b(f"{seed}/{step}/{prompt}/{sample}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def sample_groups(
    sampler: PolicySampler, tokenizer: Any, prompts: Sequence[EncodedPrompt], config: EgpoRlSettings, step: int
) -> tuple[list[RolloutGroup], dict[str, float]]:
    """One group per prompt, and the seconds that sampling and grading took."""
    started = time.perf_counter()
    seeds = [
        [rollout_seed(config.seed, step, prompt.index, sample) for sample in range(config.rollout.group_size)]
        for prompt in prompts
    ]
    ids = [prompt.ids for prompt in prompts]
    rollouts = sampler.sample(ids, seeds, config.rollout.temperature, config.rollout.max_new_tokens)
    sampled = time.perf_counter()
    groups = [_graded(tokenizer, prompt, group, config) for prompt, group in zip(prompts, rollouts, strict=True)]
    return groups, {"seconds_sample": sampled - started, "seconds_reward": time.perf_counter() - sampled}


def sample_held_out(
    sampler: PolicySampler,
    tokenizer: Any,
    prompts: Sequence[EncodedPrompt],
    config: EgpoRlSettings,
    world: World,
    label: str,
) -> list[RolloutGroup]:
    """A group for each of this process's share of the prompts, by the strict rule, with the same seeds every time.

    Sampled as in training, since that is the reward which training raises; greedy accuracy is the evaluation's.
    """
    groups: list[RolloutGroup] = []
    strict = config.model_copy(update={"reward": RewardSettings(name="binary")})
    with track(len(prompts), label, "prompts") as bar:
        for start in range(0, len(prompts), config.rollout.prompts_per_step):
            batch = prompts[start : start + config.rollout.prompts_per_step]
            groups += sample_groups(sampler, tokenizer, world.share(batch), strict, 0)[0]
            bar.advance(len(batch))
    return groups


def _graded(tokenizer: Any, prompt: EncodedPrompt, rollouts: list[Rollout], config: EgpoRlSettings) -> RolloutGroup:
    texts = [decode_turn(tokenizer, rollout.tokens) for rollout in rollouts]
    grade = REWARDS[config.reward.name]
    rewards = [
        grade(text, rollout.finished, prompt.record, prompt.names)
        for text, rollout in zip(texts, rollouts, strict=True)
    ]
    return RolloutGroup(prompt, rollouts, texts, rewards)
