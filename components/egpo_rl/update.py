"""From graded groups to a gradient and a step: one forward pass gives log-probabilities, entropies and loss.

No pass is made that is not needed. The old policy's log-probabilities and entropies are those of the batch's first
update, where the ratio is 1 by definition; later updates of the same batch reuse them. The reference is scored only
when KL is on. Groups whose rewards are all equal are left out when KL is off: their advantages are exactly 0, so the
gradient is the same, and the loss's normaliser counts them as if they were there. With KL on they stay, since the KL
term pulls on them too.

Knows nothing of prompts, rewards' meaning or files.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from components.egpo_rl.algorithms import (
    clipped_surrogate,
    entropy_bonus,
    group_advantages,
    k3_divergence,
    mean_per_rollout,
    token_weights,
    truncated_importance,
)
from components.egpo_rl.distributed import World
from components.egpo_rl.interruption import Interruption
from components.egpo_rl.sharding import whole
from components.language_models.shared_prefix import Group, ScoreFunction
from components.settings import EgpoRlSettings

Sums = dict[str, tuple[float, float]]
"""(weighted sum, weight) by metric, so that the means of several processes can be joined."""


@dataclass(frozen=True, slots=True)
class TrainingGroup:
    """One group as the loss sees it. `sampler_logp` [tokens of all completions] where the sampler reported it."""

    tokens: Group
    rewards: list[float]
    thought_masks: list[list[bool]]
    sampler_logp: list[float] | None = None

    @property
    def dead(self) -> bool:
        """All rewards are equal: no advantage."""
        return len(set(self.rewards)) == 1


@dataclass
class Batch:
    """This process's groups laid end to end: R rollouts, T tokens. The last three are filled on the way."""

    groups: list[Group]
    group_sizes: list[int]
    lengths: Tensor  # [R]
    thought: Tensor  # [T]
    advantages: Tensor  # [R], GRPO's
    weights: Tensor  # [T], of each token in the loss
    sampler_logp: Tensor | None  # [T]
    reference_logp: Tensor | None = None  # [T]
    old_logp: Tensor | None = None  # [T]
    token_advantages: Tensor | None = None  # [T], bonus included


def make_batch(
    groups: Sequence[TrainingGroup], config: EgpoRlSettings, world: World, total_tokens: int, total_rollouts: int
) -> Batch:
    """Lay the groups that move the policy end to end on the device; totals count all groups of all processes."""
    kept = [group for group in groups if config.algorithm.kl_coefficient or not group.dead]
    completions = [completion for group in kept for completion in group.tokens.completions]
    lengths = torch.tensor([len(completion) for completion in completions], dtype=torch.long)
    advantages = [group_advantages(torch.tensor(group.rewards), config.algorithm.scale_advantages) for group in kept]
    masks = [flag for group in kept for mask in group.thought_masks for flag in mask]
    logps = None
    if kept and all(group.sampler_logp is not None for group in kept):
        logps = torch.tensor([value for group in kept for value in group.sampler_logp or ()]).to(world.device)
    weights = token_weights(
        lengths, config.algorithm.aggregation, total_tokens, total_rollouts, config.rollout.max_new_tokens
    )
    return Batch(
        groups=[group.tokens for group in kept],
        group_sizes=[len(group.rewards) for group in kept],
        lengths=lengths.to(world.device),
        thought=torch.tensor(masks, dtype=torch.bool, device=world.device),
        advantages=torch.cat([torch.zeros(0), *advantages]).to(world.device),
        weights=weights.to(world.device),
        sampler_logp=logps,
    )


def recompute_activations(model: Any) -> None:
    """Keep only each layer's input for the backward pass."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True  # transformers looks at it; model.train() would switch dropout on as well


class Learner:
    """What is trained: its parameters, their optimizer, and the policy it started from as the reference."""

    def __init__(self, model: Any, score: ScoreFunction, config: EgpoRlSettings, world: World) -> None:
        self.model, self.score, self.config, self.world = model, score, config, world
        self.parameters = {name: item for name, item in model.named_parameters() if item.requires_grad}
        self.optimizer = torch.optim.AdamW(self.parameters.values(), lr=config.update.learning_rate, weight_decay=0.0)
        self._reference = (
            [item.detach().clone() for item in self.parameters.values()] if config.algorithm.kl_coefficient else []
        )

    def learn(self, batch: Batch, step: int, interruption: Interruption | None = None) -> tuple[dict[str, float], Sums]:
        """All updates on one batch. Gives the step's figures and this process's sums.

        A signal waits while the reference's weights are in the model, and from their first change on.
        `grad_norm` is that of the last update; where it is not finite, no update of this batch was made from there on.
        """
        interruption = interruption or Interruption()
        started = time.perf_counter()
        if self.config.algorithm.kl_coefficient:
            with interruption.waiting():
                self.score_reference(batch)
        referenced = time.perf_counter()
        rate = self.config.update.learning_rate * min(1.0, (step + 1) / max(1, self.config.update.warmup_steps))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums: Sums = {}
        for _ in range(self.config.update.updates_per_batch):
            loss, new = self.accumulate(batch)
            # Entropies are of the policy that sampled; only what the updates change is taken from the last one.
            sums = new | sums | {name: new[name] for name in ("clip_share", "kl") if name in new}
            norm = whole(
                torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.config.update.gradient_clip)
            ).item()
            interruption.hold()
            if math.isfinite(norm):
                self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if not math.isfinite(norm):
                break
        figures = {
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rate,
            "seconds_reference": referenced - started,
            "seconds_update": time.perf_counter() - referenced,
        }
        return figures, sums

    def score_reference(self, batch: Batch) -> None:
        """The batch's log-probabilities under the policy the run started from."""
        with torch.no_grad(), self._reference_policy():
            parts = [scores.log_probability for scores in self._scores(batch)]
            batch.reference_logp = torch.cat([torch.zeros(0, device=self.world.device), *parts])

    def accumulate(self, batch: Batch) -> tuple[float, Sums]:
        """Gradients of the whole batch, over all passes and processes, into `parameters`; the loss and the sums."""
        record = _Record(batch, self.config)
        loss = torch.zeros((), device=self.world.device)
        for scores in self._scores(batch):
            part = record.loss_of(scores.start, scores.lengths, scores.log_probability, scores.entropy)
            part.backward()
            loss += part.detach()
            record.unique_tokens += scores.unique_tokens
        batch.old_logp, batch.token_advantages = record.old_logp, record.token_advantages
        self.world.sum_gradients(list(self.parameters.values()))
        for item in self.parameters.values():
            if item.grad is None:  # no group moved the policy: the step is that of a zero gradient
                item.grad = torch.zeros_like(item)
        return sum(self.world.gather([loss.item()])), record.sums()

    def agree(self, count: int) -> int:
        """How many passes this process makes that needs `count`: in a sharded model as many as every other one."""
        return self.world.most(count) if self.config.shard_model else count

    def autocast(self) -> torch.autocast:
        """The precision of every forward pass."""
        kind = torch.device(self.world.device).type
        return torch.autocast(kind, torch.bfloat16, enabled=self.config.dtype == "bfloat16")

    def _scores(self, batch: Batch) -> Iterator[Any]:
        raw = 1.0 if self.config.algorithm.raw_entropy else None
        passes = self.score(
            self.model,
            batch.groups,
            self.config.rollout.temperature,
            token_budget=self.config.update.unique_tokens_per_pass,
            entropy_temperature=raw,
            agree=self.agree,
        )
        while True:
            # Around each forward pass only: the generator's caller takes the gradient between two of them.
            with self.autocast():
                scores = next(passes, None)
            if scores is None:
                return
            yield scores

    @contextmanager
    def _reference_policy(self) -> Iterator[None]:
        """The weights as they were when the run started; without a warm-up that is the base model."""
        current = [item.detach().clone() for item in self.parameters.values()]
        self._write(self._reference)
        try:
            yield
        finally:
            self._write(current)

    @torch.no_grad()
    def _write(self, values: Sequence[Tensor]) -> None:
        for item, value in zip(self.parameters.values(), values, strict=True):
            item.copy_(value)  # not item.data: who keeps a packed copy must see the change


class _Record:
    """One sweep over a batch: the loss of each pass, and its metrics."""

    def __init__(self, batch: Batch, config: EgpoRlSettings) -> None:
        self.batch, self.config = batch, config
        self.first = batch.old_logp is None
        tokens, device = len(batch.thought), batch.thought.device
        self.old_logp = torch.zeros(tokens, device=device) if batch.old_logp is None else batch.old_logp
        self.token_advantages = (
            torch.zeros(tokens, device=device) if batch.token_advantages is None else batch.token_advantages
        )
        self.entropy = torch.zeros(tokens, device=device)
        self.bonus = torch.zeros(tokens, device=device)
        self.divergence = torch.zeros(tokens, device=device)
        self.cut = torch.zeros(tokens, dtype=torch.bool, device=device)
        self.unique_tokens = 0
        self._rollouts_done = 0

    def loss_of(self, start: int, lengths: list[int], logp: Tensor, entropy: Tensor) -> Tensor:
        batch, algorithm = self.batch, self.config.algorithm
        part = slice(start, start + len(logp))
        self.entropy[part] = entropy
        if self.first:
            self.old_logp[part] = logp.detach()
            self._advantages(part, lengths, entropy)
        loss, self.cut[part] = clipped_surrogate(
            logp, self.old_logp[part], self.token_advantages[part], algorithm.clip_low, algorithm.clip_high
        )
        own_sampler = self.config.rollout.sampler == "transformers"
        if batch.sampler_logp is not None and not own_sampler and algorithm.importance_cap:
            loss = loss * truncated_importance(self.old_logp[part], batch.sampler_logp[part], algorithm.importance_cap)
        if batch.reference_logp is not None:
            divergence = k3_divergence(logp, batch.reference_logp[part])
            self.divergence[part] = divergence.detach()
            loss = loss + algorithm.kl_coefficient * divergence
        return (loss * batch.weights[part]).sum()

    def _advantages(self, part: slice, lengths: list[int], entropy: Tensor) -> None:
        batch, algorithm = self.batch, self.config.algorithm
        counts = batch.lengths[self._rollouts_done : self._rollouts_done + len(lengths)]
        rollout = torch.arange(len(lengths), device=counts.device).repeat_interleave(counts)
        advantages = batch.advantages[self._rollouts_done : self._rollouts_done + len(lengths)][rollout]
        self._rollouts_done += len(lengths)
        if algorithm.name == "egpo":
            if algorithm.entropy_scope != "token":
                mask = batch.thought[part] if algorithm.entropy_scope == "thought" else None
                entropy = mean_per_rollout(entropy, rollout, len(lengths), mask)[rollout]
            self.bonus[part] = entropy_bonus(
                advantages, entropy, algorithm.bonus_weight, algorithm.bonus_cap, algorithm.bonus_form
            )
        self.token_advantages[part] = advantages + self.bonus[part]

    def sums(self) -> Sums:
        batch, algorithm = self.batch, self.config.algorithm
        if not batch.groups:
            return {}
        rollout = torch.arange(len(batch.lengths), device=batch.lengths.device).repeat_interleave(batch.lengths)
        sums = {
            "entropy_thought": _mean(self.entropy[batch.thought]),
            "entropy_answer": _mean(self.entropy[~batch.thought]),
            "clip_share": _mean(self.cut.float()),
        }
        if algorithm.name == "egpo" and self.first:
            bonus = mean_per_rollout(self.bonus, rollout, len(batch.lengths))
            limit = batch.advantages[rollout].abs() / algorithm.bonus_cap
            limit = limit if algorithm.bonus_form == "paper" else limit * algorithm.bonus_weight
            bonuses = bonus.split(batch.group_sizes)
            sums["bonus"] = _mean(bonus)
            sums["bonus_spread"] = _mean(torch.stack([group.std() for group in bonuses]))
            sums["bonus_capped"] = _mean(((self.bonus >= limit) & (limit > 0)).float())
        if batch.reference_logp is not None:
            sums["kl"] = _mean(self.divergence)
        if batch.sampler_logp is not None and self.first:
            sums["sampler_kl"] = _mean(k3_divergence(batch.sampler_logp, self.old_logp))
        raw = sum(len(group.prompt) + len(completion) for group in batch.groups for completion in group.completions)
        sums["unique_token_share"] = (float(self.unique_tokens), float(raw))
        return sums


def join_sums(parts: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """Means over all processes; a metric that nobody weighed is left out."""
    totals: dict[str, list[float]] = {}
    for part in parts:
        for name, (total, weight) in part.items():
            entry = totals.setdefault(name, [0.0, 0.0])
            entry[0] += total
            entry[1] += weight
    return {name: total / weight for name, (total, weight) in totals.items() if weight}


def _mean(values: Tensor) -> tuple[float, float]:
    return values.sum().item(), float(values.numel())
