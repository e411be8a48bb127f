"""How a step is reported: its metrics, one line a person can read, and the reason when there was nothing to learn; and
what the held-out prompts say of all steps together.

Works on plain facts of all processes' rollouts; knows nothing of models or files.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from components.egpo_rl.rewards import TRUNCATED
from components.egpo_rl.rollouts import RolloutGroup
from components.function_calls.parse import FORMAT_REASONS

NEARLY_ALL = 0.95
FLAT_STEPS = 10
FLAT_RANGE = 0.005
LONGEST_EXAMPLE = 600  # characters


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """One group without its tokens: small enough to travel between processes."""

    index: int
    calls_wanted: bool
    rewards: list[float]
    solved: list[bool]
    reasons: list[str]
    lengths: list[int]
    finished: list[bool]
    examples: dict[str, str]
    """The first text of each reason, "" for a right one."""

    @classmethod
    def of(cls, group: RolloutGroup) -> GroupFacts:
        """The facts of one group."""
        examples: dict[str, str] = {}
        for text, reward in zip(group.texts, group.rewards, strict=True):
            examples.setdefault(reward.reason, text[:LONGEST_EXAMPLE])
        return cls(
            index=group.prompt.index,
            calls_wanted=bool(group.prompt.record.answers),
            rewards=[reward.value for reward in group.rewards],
            solved=[reward.solved for reward in group.rewards],
            reasons=[reward.reason for reward in group.rewards],
            lengths=[len(rollout.tokens) for rollout in group.rollouts],
            finished=[rollout.finished for rollout in group.rollouts],
            examples=examples,
        )

    @property
    def solved_share(self) -> float:
        """Share of the rollouts that are right."""
        return sum(self.solved) / len(self.solved)

    @property
    def dead(self) -> bool:
        """All rewards are equal: no advantage."""
        return len(set(self.rewards)) == 1


def reward_metrics(groups: Sequence[GroupFacts]) -> dict[str, float]:
    """Rewards by kind, shares of dead groups, lengths, and `failure/<reason>` as shares of all rollouts."""
    rollouts = sum(len(group.rewards) for group in groups)
    if not rollouts:
        return {}
    metrics = {
        "reward": _mean([reward for group in groups for reward in group.rewards]),
        "solved": _mean([solved for group in groups for solved in group.solved]),
    }
    for name, wanted in (("call", True), ("no_call", False)):
        rewards = [reward for group in groups if group.calls_wanted is wanted for reward in group.rewards]
        if rewards:
            metrics[f"reward_{name}"] = _mean(rewards)
    metrics["dead_all_right"] = _mean([group.dead and all(group.solved) for group in groups])
    metrics["dead_others"] = _mean([group.dead and not all(group.solved) for group in groups])
    metrics["length"] = _mean([length for group in groups for length in group.lengths])
    metrics["truncated"] = _mean([not finished for group in groups for finished in group.finished])
    reasons = Counter(reason for group in groups for reason in group.reasons if reason)
    return metrics | {f"failure/{reason}": count / rollouts for reason, count in sorted(reasons.items())}


class HeldOut(NamedTuple):
    """One held-out prompt at one time: the share of its rollouts that are right."""

    prompt: int  # its index
    calls_wanted: bool
    solved_share: float


def held_out_metrics(prompts: Sequence[HeldOut]) -> dict[str, float]:
    """Mean reward of the strict rule over all prompts, those that want calls, and those that want none."""
    metrics = {}
    for name, kinds in (("", (True, False)), ("_call", (True,)), ("_no_call", (False,))):
        if shares := [prompt.solved_share for prompt in prompts if prompt.calls_wanted in kinds]:
            metrics[f"held_out_reward{name}"] = _mean(shares)
    return metrics


def held_out_rise(before: Sequence[HeldOut], after: Sequence[HeldOut]) -> dict[str, float]:
    """Mean rise over the prompts and its standard error, of paired differences: how hard the prompts are drops out.

    There is no error where there is one prompt.
    """
    earlier = {one.prompt: one.solved_share for one in before}
    rises = [one.solved_share - earlier[one.prompt] for one in after]
    if not rises:
        return {}
    metrics = {"held_out_rise": _mean(rises)}
    if len(rises) > 1:
        metrics["held_out_rise_error"] = statistics.stdev(rises) / math.sqrt(len(rises))
    return metrics


def step_line(step: int, steps: int, metrics: Mapping[str, float]) -> str:
    """The step in one line."""
    parts = [f"step {step}/{steps}"]
    if "reward" in metrics:
        kinds = [f"{name} {metrics[key]:.2f}" for name, key in _KINDS if key in metrics]
        parts.append(f"reward {metrics['reward']:.3f} ({', '.join(kinds)})")
        parts.append(f"groups all right {metrics['dead_all_right']:.0%}, all wrong {metrics['dead_others']:.0%}")
    parts.append(f"loss {metrics['loss']:+.4f} grad {metrics['grad_norm']:.3f}")
    if "entropy_thought" in metrics or "entropy_answer" in metrics:
        shown = [f"{metrics[key]:.3f}" if key in metrics else "-" for key in ("entropy_thought", "entropy_answer")]
        parts.append(f"entropy {'/'.join(shown)}")
    if "kl" in metrics:
        parts.append(f"kl {metrics['kl']:.2g}")
    if "length" in metrics:
        parts.append(f"{metrics['length']:.0f} tokens a rollout")
    parts.append(
        f"{metrics['seconds']:.1f} s (sample {metrics['seconds_sample']:.1f}, "
        f"update {metrics['seconds_reference'] + metrics['seconds_update']:.1f})"
    )
    return "  ".join(parts)


_KINDS = (("call", "reward_call"), ("no_call", "reward_no_call"))


class Explainer:
    """Says why a step taught nothing, or why the reward stays where it is; each reason with an example, once."""

    def __init__(self, max_new_tokens: int) -> None:
        self.max_new_tokens = max_new_tokens
        self._said: set[str] = set()
        self._recent: deque[float] = deque(maxlen=FLAT_STEPS)

    def explain(self, groups: Sequence[GroupFacts], metrics: Mapping[str, float]) -> list[str]:
        """A line with the reason, the first time one more with an example; none when there is nothing to explain."""
        if not groups:
            return []
        self._recent.append(metrics["reward"])
        flat = len(self._recent) == FLAT_STEPS and max(self._recent) - min(self._recent) < FLAT_RANGE
        dead = all(group.dead for group in groups)
        if not dead and not flat:
            return []
        key, reason, example = self._reason(groups, metrics)
        what = "every group's rewards are equal" if dead else f"the reward was flat for {FLAT_STEPS} steps"
        lines = [f"  {what}: {reason}"]
        if example and key not in self._said:
            lines.append(f"  for example: {example!r}")
        self._said.add(key)
        return lines

    def _reason(self, groups: Sequence[GroupFacts], metrics: Mapping[str, float]) -> tuple[str, str, str]:
        failures = {name.removeprefix("failure/"): share for name, share in metrics.items() if "failure/" in name}
        worst = max(failures, key=lambda name: failures[name], default="")
        bad_format = sum(failures.get(name, 0.0) for name in FORMAT_REASONS)
        example = next((group.examples[worst] for group in groups if worst in group.examples), "")
        if metrics["solved"] == 1:
            return "solved", "every rollout is right; there is nothing left to learn from these prompts", ""
        if failures.get(TRUNCATED, 0.0) + bad_format >= NEARLY_ALL:
            if worst == TRUNCATED:
                limit = f"max_new_tokens={self.max_new_tokens}"
                return "truncated", f"{failures[worst]:.0%} of the completions are cut at {limit}; raise it", example
            text = f"the format is not met ({worst} in {failures[worst]:.0%}); warm the model up first"
            return "format", text, example
        if metrics["solved"] == 0:
            return "unsolved", f"no rollout is right ({failures[worst]:.0%} of them: {worst})", example
        right, wrong = metrics["dead_all_right"], metrics["dead_others"]
        shares = f"{right:.0%} of the groups are all right, {wrong:.0%} all wrong (most rollouts: {worst})"
        text = f"{shares}; try more rollouts"
        return "mixed", text, example


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
