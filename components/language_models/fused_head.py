"""Log-probability and entropy of given tokens from hidden states, without the logits matrix.

The vocabulary is walked in tiles with a running maximum (online softmax), accumulated in float32. The output head is
frozen, as it is under LoRA, so the gradient with respect to the hidden states is made in the same walk and backward is
one product with a column vector. A trainable or adapted head is refused; `shared_prefix.score_padded` has the plain
form.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

TILE = 8192  # columns of the head at a time


def log_probability_and_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, entropy_temperature: float | None = None
) -> tuple[Tensor, Tensor]:
    """`log p(target)` and entropy of softmax(hidden @ weight.T / temperature), both in nats.

    With z = hidden @ weight.T / T and p = softmax(z): logp = z[y] - logsumexp(z), entropy = logsumexp(z) - sum(p * z),
    and d logp / d hidden = (weight[y] - sum_v p_v weight_v) / T. The entropy may be taken at a temperature of its own.

    Args:
        hidden: [N, H], the backbone's last hidden states at the predicting positions.
        weight: [V, H], frozen.
        targets: [N], token ids.

    Returns:
        logp [N] with gradient to `hidden`; entropy [N], detached. float32, or float64 for float64 input.

    Raises:
        ValueError: when the head wants a gradient.
    """
    if weight.requires_grad and torch.is_grad_enabled():
        raise ValueError("the fused head needs a frozen output head; use the plain form for a trainable one")
    with torch.autocast(hidden.device.type, enabled=False):  # sums stay in float32 whatever the caller casts
        sharpness = 1.0 if entropy_temperature is None else temperature / entropy_temperature
        return _FusedHead.apply(hidden, weight, targets, temperature, sharpness)


class _FusedHead(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, sharpness: float
    ) -> tuple[Tensor, Tensor]:
        precision = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        rows = len(hidden)
        maximum = hidden.new_full((rows,), -torch.inf, dtype=precision)
        total = hidden.new_zeros((rows,), dtype=precision)  # sum of exp(z - maximum)
        # The entropy is that of softmax(sharpness * z).
        entropy_total = hidden.new_zeros((rows,), dtype=precision)  # sum of exp(sharpness * (z - maximum))
        weighted = hidden.new_zeros((rows,), dtype=precision)  # sum of z times the same
        chosen = hidden.new_zeros((rows,), dtype=precision)  # z of the target
        wants_gradient = hidden.requires_grad
        mean = hidden.new_zeros(hidden.shape, dtype=precision) if wants_gradient else None  # sum of exp(.) * weight_v
        for start in range(0, len(weight), TILE):
            tile = weight[start : start + TILE]
            logits = _product(hidden, tile.T, precision).div_(temperature)
            inside = ((targets >= start) & (targets < start + len(tile))).nonzero().squeeze(1)
            chosen[inside] = logits[inside, targets[inside] - start]
            risen = torch.maximum(maximum, logits.amax(1))
            shrink = torch.exp(maximum - risen)
            maximum = risen
            powers = torch.exp(logits - maximum[:, None])
            total = total * shrink + powers.sum(1)
            sharp_shrink, sharp = (shrink, powers) if sharpness == 1 else (shrink**sharpness, powers**sharpness)
            entropy_total = total if sharpness == 1 else entropy_total * sharp_shrink + sharp.sum(1)
            weighted = weighted * sharp_shrink + torch.linalg.vecdot(sharp, logits)
            if mean is not None:
                mean.mul_(shrink[:, None]).add_(_product(powers.to(weight.dtype), tile, precision))
        logp = chosen - maximum - total.log()
        entropy = sharpness * maximum + entropy_total.log() - sharpness * weighted / entropy_total
        if mean is not None:
            gradient = weight[targets].to(precision).sub_(mean.div_(total[:, None])).div_(temperature)
            ctx.save_for_backward(gradient.to(hidden.dtype))
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    def backward(ctx: Any, grad_logp: Tensor, _: Tensor) -> tuple[Tensor, None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return (gradient * grad_logp[:, None]).to(gradient.dtype), None, None, None, None


def _product(left: Tensor, right: Tensor, precision: torch.dtype) -> Tensor:
    """left @ right, its sums kept in `precision` when the operands are bfloat16 or float16."""
    if left.dtype == precision:
        return left @ right
    if left.is_cuda:
        return torch.mm(left, right, out_dtype=precision)
    return left.to(precision) @ right.to(precision)
