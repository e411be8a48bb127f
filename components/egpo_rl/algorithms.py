"""GRPO, EGPO and their relatives as pure functions of tensors.

Shapes: G rollouts in a group, N groups, R rollouts, T completion tokens of all R rollouts laid end to end;
`rollout` [T] says which rollout a token belongs to. Nothing here knows of models, prompts or optimizers, and no
function keeps state.

Sources: GRPO (arXiv 2402.03300), EGPO (2508.05118v4), Reasoning with Exploration (2506.14758), DAPO (2503.14476),
Dr.GRPO (2503.20783), k3 (Schulman, "Approximating KL divergence", 2020), truncated importance sampling
(Ionides 2008, used against sampler mismatch by Yao et al. 2025).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

BonusForm = Literal["paper", "clipped"]
Aggregation = Literal["token", "sequence", "constant"]
STD_EPSILON = 1e-6
LARGEST_LOG_RATIO = 20.0  # of two probabilities of a token; verl clamps there, and float32 overflows at 88


def group_advantages(rewards: Tensor, scale: bool = True) -> Tensor:
    """GRPO's advantage, `A_i = (r_i - mean(r)) / (std(r) + 1e-6)` over each group, std with Bessel's correction.

    Without `scale` it is Dr.GRPO's, `A_i = r_i - mean(r)` (2503.20783). A group whose rewards are all equal gets
    exactly 0 (2402.03300, eq. 3; epsilon and correction as in verl).

    Args:
        rewards: [..., G], G >= 2.

    Returns:
        [..., G], float32 or wider.
    """
    rewards = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    deviation = rewards - rewards.mean(-1, keepdim=True)
    advantages = deviation / (rewards.std(-1, keepdim=True) + STD_EPSILON) if scale else deviation
    # The mean of equal numbers need not be that number in floating point.
    uniform = (rewards == rewards[..., :1]).all(-1, keepdim=True)
    return torch.where(uniform, torch.zeros_like(advantages), advantages)


def entropy_bonus(
    advantages: Tensor, entropies: Tensor, weight: float, cap: float, form: BonusForm = "paper"
) -> Tensor:
    """EGPO's bonus, to be added to the advantage; no gradient flows through it.

    `paper`: `min(lambda*E, |A|/alpha)` (2508.05118v4, section 3). `clipped`: `lambda * clip(E, -|A|/alpha, |A|/alpha)`,
    a published implementation of it, whose cap is lambda times lower. Since E >= 0, the bonus is never negative and
    is 0 where A is 0. It is at most |A|/alpha (`clipped`: lambda*|A|/alpha), so it turns no advantage's sign while that
    factor is below 1: always for `paper`, for `clipped` with lambda < alpha.

    Elementwise, hence also the parent form of 2506.14758, `psi_t = min(a*H_t, |A_t|/kappa)`, when both tensors are
    per token.

    Args:
        advantages: [R] or [T]; entropies: same shape, nats, not negative.
        weight: lambda (a in the parent); cap: alpha (kappa in the parent), above 1.
    """
    entropies = entropies.detach().to(advantages.dtype)
    limit = advantages.detach().abs() / cap
    if form == "paper":
        return torch.minimum(weight * entropies, limit)
    return weight * torch.clamp(entropies, min=-limit, max=limit)


def mean_per_rollout(values: Tensor, rollout: Tensor, count: int, mask: Tensor | None = None) -> Tensor:
    """Mean of `values` [T] over each rollout's tokens where `mask` [T] is true; 0 for a rollout without any.

    With token entropies and the mask of the thought this is EGPO's
    `E_i = -(1/W) sum_j sum_v pi(v|c_<j) log pi(v|c_<j)` over the W tokens of the thought.

    Returns:
        [count]
    """
    weights = torch.ones_like(values) if mask is None else mask.to(values.dtype)
    zeros = torch.zeros(count, dtype=values.dtype, device=values.device)
    totals = zeros.index_add(0, rollout, values * weights)
    tokens = zeros.index_add(0, rollout, weights)
    return totals / tokens.clamp(min=1)


def clipped_surrogate(
    logp: Tensor, old_logp: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """PPO's loss per token, `-min(rho*A, clip(rho, 1-clip_low, 1+clip_high)*A)`, `rho = exp(logp - old_logp)`.

    Equal bounds are GRPO's, `clip_high` above `clip_low` is DAPO's clip-higher (2503.14476, eq. 10). Beyond e^20 `rho`
    goes on along its tangent: a negative advantage still pulls it down, by a finite gradient.

    Args:
        logp, old_logp, advantages: [T]; only `logp` carries a gradient.

    Returns:
        loss [T], and [T] true where the clip cut the gradient off.
    """
    difference = logp - old_logp
    excess = _beyond_largest(difference)
    ratio = torch.exp(difference - excess) * (1 + excess)
    clipped = torch.clamp(ratio, 1 - clip_low, 1 + clip_high)
    loss = -torch.minimum(ratio * advantages, clipped * advantages)
    cut = ((ratio < 1 - clip_low) & (advantages < 0)) | ((ratio > 1 + clip_high) & (advantages > 0))
    return loss, cut


def k3_divergence(logp: Tensor, reference_logp: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(pi || pi_ref) per token, `exp(d) - d - 1` with `d = reference_logp - logp`; >= 0.

    Exact up to d = 20, where the policy gives a token e^20 times less than the reference. Beyond, it goes on along its
    tangent, of slope e^20 - 1: value and gradient stay finite and go on pulling towards the reference, where a clamp
    would let go. Through expm1, so that a small d does not vanish in rounding (k3 is about d^2 / 2 there).

    Args:
        logp, reference_logp: [T]; only `logp` carries a gradient.
    """
    difference = reference_logp - logp
    excess = _beyond_largest(difference)
    return torch.expm1(difference - excess) - difference + math.exp(LARGEST_LOG_RATIO) * excess


def _beyond_largest(difference: Tensor) -> Tensor:
    return (difference - LARGEST_LOG_RATIO).clamp(min=0)


def truncated_importance(trainer_logp: Tensor, sampler_logp: Tensor, cap: float) -> Tensor:
    """Weight per token for rollouts drawn by another engine than the trainer: `min(pi_trainer / pi_sampler, cap)`.

    Per token, since a sequence's ratio explodes with its length (0.012 nats of bias make e^1.2 after 100 tokens).

    Args:
        trainer_logp: [T] of the policy before the update; sampler_logp: [T] as the sampler reported it.
    """
    return torch.exp(trainer_logp - sampler_logp).clamp(max=cap).detach()


def token_weights(
    lengths: Tensor, aggregation: Aggregation, total_tokens: int, total_rollouts: int, max_length: int
) -> Tensor:
    """Weight of each token in the loss, so that the loss is a plain weighted sum that may be split at will.

    `token`: 1 / total_tokens (DAPO, 2503.14476, eq. 12). `sequence`: 1 / (length * total_rollouts) (GRPO, 2402.03300,
    eq. 3). `constant`: 1 / (max_length * total_rollouts) (Dr.GRPO, 2503.20783).

    Args:
        lengths: [R], tokens of the rollouts at hand.
        total_tokens, total_rollouts: of the whole batch: every rank, every pass, and groups left out of the update.

    Returns:
        [T] with T = lengths.sum()
    """
    if aggregation == "token":
        per_rollout = torch.full_like(lengths, 1 / total_tokens, dtype=torch.float32)
    elif aggregation == "sequence":
        per_rollout = 1 / (lengths.to(torch.float32).clamp(min=1) * total_rollouts)
    else:
        per_rollout = torch.full_like(lengths, 1 / (max_length * total_rollouts), dtype=torch.float32)
    return per_rollout.repeat_interleave(lengths)
