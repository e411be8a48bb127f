"""Attention over a packed row of [prompt | completion 1 .. G] groups, no dense mask and no copy of the prompt.

Every token's attention is two plain ones merged by log-sum-exp: causal within its own segment, and, for completion
tokens, unmasked over the prompt of their group. The backward of a flash kernel needs only the output and the
log-sum-exp of the whole softmax, so handing each of the two kernels the MERGED pair gives exact gradients:
p_ij = exp(s_ij - lse) and delta_i = <dO_i, O_i> hold for any subset of the keys (FlashAttention-2, 2307.08691, alg. 2).

Registered in transformers' attention interface; which tokens form which segment travels through the model as
a keyword argument. Models whose attention is not plain causal softmax are sorted out by
`shared_prefix.sharing_obstacle`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "callforge_shared_prefix"
ROUTE = "attention_route"  # keyword argument through the model: an object with `attend`

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Places of one group in the row: its prompt, all its completion tokens, and those as a padded table."""

    prompt: slice
    completions: slice
    table: Tensor  # [G, longest] place of each completion token; padding repeats the last one of its line
    real: Tensor  # [G, longest] bool, false for padding


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments of a packed row, group after group."""

    groups: tuple[SegmentGroup, ...]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """What a layer of the model calls: query [1, heads, T, D] -> [1, heads, T, D]."""
        return _SharedAttention.apply(query, key, value, self, scale)

    @classmethod
    def of(cls, lengths: list[tuple[int, list[int]]], device: torch.device) -> Segments:
        """From (prompt length, completion lengths) of each group; a length may be 0."""
        groups = []
        end = 0
        for prompt, completions in lengths:
            start, first = end, end + prompt
            end = first + sum(completions)
            lines = [length for length in completions if length]
            longest = max(lines, default=0)
            steps = torch.arange(longest)
            heads = torch.tensor([0, *lines]).cumsum(0)[:-1, None] + first
            counts = torch.tensor(lines)[:, None] if lines else torch.zeros(0, 1, dtype=torch.long)
            groups.append(
                SegmentGroup(
                    slice(start, first),
                    slice(first, end),
                    (heads + torch.minimum(steps, counts - 1)).to(device),
                    (steps < counts).to(device),
                )
            )
        return cls(tuple(groups))


def use_shared_attention(model: Any) -> None:
    """Let `model` attend by segments wherever a route is given, and by scaled dot-product attention elsewhere.

    It stays so: a checkpointed layer runs again in backward and must meet the same attention.
    """
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """query [1, heads, T, D], key and value [1, key heads, T, D] -> [1, T, heads, D]."""
    route = kwargs.pop(ROUTE, None)
    if route is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    return route.attend(module.layer_idx, query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool = False) -> tuple[Tensor, Tensor]:
    """Output [B, heads, T, D] and log-sum-exp [B, heads, T]; key and value [B, heads, S, D]. Without gradient."""
    return _forward(query, key, value, 0.0, causal, scale=scale)


class _SharedAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float) -> Tensor:
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:3], dtype=torch.float64 if query.dtype == torch.float64 else torch.float32)
        heads = key.shape[1]
        for group in segments.groups:
            prompt, tail = group.prompt, group.completions
            prompt_key, prompt_value = key[:, :, prompt], value[:, :, prompt]
            out[:, :, prompt], lse[:, :, prompt] = _forward(
                query[:, :, prompt], _widen(prompt_key, query), _widen(prompt_value, query), 0.0, True, scale=scale
            )
            if tail.start == tail.stop:
                continue
            cross, cross_lse = _forward(
                _fold(query[:, :, tail], heads), prompt_key, prompt_value, 0.0, False, scale=scale
            )
            cross, cross_lse = _unfold(cross, query), _unfold(cross_lse[..., None], query)[..., 0]
            own, own_lse = _forward(
                _rows(query, group), _widen(_rows(key, group), query), _widen(_rows(value, group), query),
                0.0, True, scale=scale,
            )  # fmt: skip
            own, own_lse = _flat(own, group), _flat(own_lse[..., None], group)[..., 0]
            merged = torch.logaddexp(cross_lse, own_lse)
            share = torch.exp(cross_lse - merged)[..., None].to(own.dtype)
            out[:, :, tail] = torch.lerp(own, cross, share)
            lse[:, :, tail] = merged
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.segments, ctx.scale = segments, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, lse = ctx.saved_tensors
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        heads, scale = key.shape[1], ctx.scale
        for group in ctx.segments.groups:
            prompt, tail = group.prompt, group.completions
            prompt_key, prompt_value = key[:, :, prompt], value[:, :, prompt]
            of_query, of_key, of_value = _backward(
                grad_out[:, :, prompt].contiguous(), query[:, :, prompt],
                _widen(prompt_key, query), _widen(prompt_value, query),
                out[:, :, prompt], lse[:, :, prompt], 0.0, True, scale=scale,
            )  # fmt: skip
            of_key, of_value = _narrow(of_key, heads), _narrow(of_value, heads)
            if tail.start != tail.stop:
                cross = _backward(
                    _fold(grad_out[:, :, tail], heads), _fold(query[:, :, tail], heads), prompt_key, prompt_value,
                    _fold(out[:, :, tail], heads), _fold(lse[:, :, tail, None], heads)[..., 0], 0.0, False, scale=scale,
                )  # fmt: skip
                own = _backward(
                    (_rows(grad_out, group) * group.real[:, None, :, None]), _rows(query, group),
                    _widen(_rows(key, group), query), _widen(_rows(value, group), query),
                    _rows(out, group), _rows(lse[..., None], group)[..., 0], 0.0, True, scale=scale,
                )  # fmt: skip
                of_key += cross[1]
                of_value += cross[2]
                grads[0][:, :, tail] = _unfold(cross[0], query) + _flat(own[0], group)
                grads[1][:, :, tail] = _flat(_narrow(own[1], heads), group)
                grads[2][:, :, tail] = _flat(_narrow(own[2], heads), group)
            grads[0][:, :, prompt], grads[1][:, :, prompt], grads[2][:, :, prompt] = of_query, of_key, of_value
        return *grads, None, None


def _widen(states: Tensor, query: Tensor) -> Tensor:
    """Key heads repeated to the number of query heads."""
    return states.repeat_interleave(query.shape[1] // states.shape[1], 1)


def _narrow(gradient: Tensor, heads: int) -> Tensor:
    """The gradient of `_widen`."""
    batch, wide, length, size = gradient.shape
    return gradient.view(batch, heads, wide // heads, length, size).sum(2)


def _fold(states: Tensor, heads: int) -> Tensor:
    """[1, heads * r, T, D] -> [1, heads, r * T, D]: query heads of one key head become further queries of it."""
    return states.reshape(1, heads, -1, states.shape[-1])


def _unfold(states: Tensor, query: Tensor) -> Tensor:
    return states.reshape(1, query.shape[1], -1, states.shape[-1])


def _rows(states: Tensor, group: SegmentGroup) -> Tensor:
    """[1, heads, T, D] -> [G, heads, longest, D], the group's completions side by side, padded on the right."""
    return states[0][:, group.table].transpose(0, 1).contiguous()


def _flat(rows: Tensor, group: SegmentGroup) -> Tensor:
    """The inverse of `_rows`, padding left out: [1, heads, tokens, D]."""
    return rows.transpose(0, 1)[:, group.real][None]
