"""Attention over a packed row of groups, [prompt 1 .. n | completions of 1 | .. | completions of n], no dense mask.

Every token's attention is two plain ones merged by log-sum-exp: causal within its own segment (a prompt or one
completion) and, for completion tokens, unmasked over the prompt of their group. The backward of a flash kernel needs
only the output and the log-sum-exp of the whole softmax, so handing each of the two kernels the MERGED pair gives exact
gradients: p_ij = exp(s_ij - lse) and delta_i = <dO_i, O_i> hold for any subset of the keys (FlashAttention-2,
2307.08691, algorithm 2). Keys and values of a prompt are read where they are, never copied for its completions.

Registered in transformers' attention interface; which tokens form which segment travels through the model as a keyword
argument. Models whose attention is not plain causal softmax are sorted out by `shared_prefix.sharing_obstacle`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from components.language_models.attention_kernels import Kernel, kernel_for, varlen_backward, varlen_forward

NAME = "callforge_shared_prefix"
ROUTE = "attention_route"  # keyword argument through the model: an object with `attend`


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Places of one group in the row: its prompt, all its completion tokens, and those as a padded table."""

    prompt: slice
    completions: slice
    table: Tensor  # [G, longest] place of each completion token; padding repeats the last one of its line
    real: Tensor  # [G, longest] bool, false for padding


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where consecutive segments begin and end, as varlen kernels want it."""

    edges: Tensor  # [segments + 1] int32
    longest: int

    @classmethod
    def of(cls, lengths: list[int], device: torch.device) -> Bounds:
        edges = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
        return cls(edges, max(lengths, default=0))


@dataclass(frozen=True, slots=True)
class Segments:
    """Segments of a packed row: all prompts first, then the completions in the order of the groups."""

    groups: tuple[SegmentGroup, ...]
    prompt_tokens: int
    each: Bounds  # every prompt and every completion by itself
    prompts: Bounds
    tails: Bounds  # all completions of a group together

    @classmethod
    def of(cls, lengths: list[tuple[int, list[int]]], device: torch.device) -> Segments:
        """From (prompt length, completion lengths) of each group; a completion's length may be 0."""
        prompts = [prompt for prompt, _ in lengths]
        groups = []
        start, first = 0, sum(prompts)
        for prompt, completions in lengths:
            lines = torch.tensor([length for length in completions if length], dtype=torch.long)
            heads = first + lines.cumsum(0) - lines
            steps = torch.arange(int(lines.max()) if len(lines) else 0)
            table = heads[:, None] + torch.minimum(steps, lines[:, None] - 1)
            end = first + sum(completions)
            groups.append(
                SegmentGroup(
                    slice(start, start + prompt),
                    slice(first, end),
                    table.to(device),
                    (steps < lines[:, None]).to(device),
                )
            )
            start, first = start + prompt, end
        each = prompts + [length for _, completions in lengths for length in completions if length]
        tails = [sum(completions) for _, completions in lengths]
        return cls(
            tuple(groups), sum(prompts), Bounds.of(each, device), Bounds.of(prompts, device), Bounds.of(tails, device)
        )

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """What a layer of the model calls: query [1, heads, T, D], key and value [1, key heads, T, D] -> as query."""
        function = _VarlenAttention if kernel_for(query) is None else _PaddedAttention
        return function.apply(query, key, value, self, scale)


def use_shared_attention(model: Any) -> None:
    """Let `model` attend by segments wherever a route is given, and by scaled dot-product attention elsewhere.

    It stays so: a checkpointed layer runs again in backward and must meet the same attention.
    """
    if model.config._attn_implementation != NAME:
        model.set_attn_implementation(NAME)


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    route = kwargs.pop(ROUTE, None)
    if route is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **kwargs)
    # Under autocast the rotation leaves queries and keys in float32, and autocast does not reach the kernels.
    query, key = query.to(value.dtype), key.to(value.dtype)
    return route.attend(module.layer_idx, query, key, value, scaling).transpose(1, 2), None


AttentionInterface.register(NAME, _attend)
AttentionMaskInterface.register(NAME, sdpa_mask)


class _VarlenAttention(torch.autograd.Function):
    """Two varlen kernels: all segments causally, and every group's completions over its prompt."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float) -> Tensor:
        query, key, value = (states[0].transpose(0, 1).contiguous() for states in (query, key, value))  # [T, heads, D]
        split = segments.prompt_tokens
        out, lse = varlen_forward(query, key, value, segments.each, segments.each, True, scale)  # lse [heads, T]
        if split < len(query):
            cross, cross_lse = varlen_forward(
                query[split:], key[:split], value[:split], segments.tails, segments.prompts, False, scale
            )
            own_lse = lse[:, split:]
            share = torch.sigmoid(cross_lse - own_lse).T[..., None].to(out.dtype)
            out[split:] = torch.lerp(out[split:], cross, share)
            lse[:, split:] = torch.logaddexp(cross_lse, own_lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.segments, ctx.scale = segments, scale
        return out.transpose(0, 1)[None]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        segments, split = ctx.segments, ctx.segments.prompt_tokens
        grad = grad[0].transpose(0, 1).contiguous()
        grads = varlen_backward(grad, query, key, value, out, lse, segments.each, segments.each, True, ctx.scale)
        if split < len(query):
            cross = varlen_backward(
                grad[split:], query[split:], key[:split], value[:split], out[split:], lse[:, split:].contiguous(),
                segments.tails, segments.prompts, False, ctx.scale,
            )  # fmt: skip
            grads[0][split:] += cross[0]
            grads[1][:split] += cross[1]
            grads[2][:split] += cross[2]
        return *(states.transpose(0, 1)[None] for states in grads), None, None


class _PaddedAttention(torch.autograd.Function):
    """The same group by group with plain kernels; a group's completions side by side, padded on the right."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float) -> Tensor:
        kernel = kernel_for(query)
        assert kernel is not None
        out = torch.empty_like(query)
        lse = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
        for group in segments.groups:
            prompt, tail = group.prompt, group.completions
            out[:, :, prompt], lse[:, :, prompt] = kernel.forward(
                query[:, :, prompt], _widen(key[:, :, prompt], query), _widen(value[:, :, prompt], query), True, scale
            )
            if tail.start == tail.stop:
                continue
            folded = _fold(query[:, :, tail], key)
            cross, cross_lse = kernel.forward(folded, key[:, :, prompt], value[:, :, prompt], False, scale)
            cross, cross_lse = _fold(cross, query), _fold(cross_lse[..., None], query)[..., 0]
            own, own_lse = kernel.forward(
                _rows(query, group), _widen(_rows(key, group), query), _widen(_rows(value, group), query), True, scale
            )
            own, own_lse = _flat(own, group), _flat(own_lse[..., None], group)[..., 0]
            share = torch.sigmoid(cross_lse - own_lse)[..., None].to(own.dtype)  # of the prompt in the whole softmax
            out[:, :, tail] = torch.lerp(own, cross, share)
            lse[:, :, tail] = torch.logaddexp(cross_lse, own_lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.segments, ctx.scale = segments, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, lse = ctx.saved_tensors
        kernel: Kernel = kernel_for(query)  # type: ignore[assignment]  # there was one for the forward pass
        of_query, of_key, of_value = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        lse = lse[..., None]
        for group in ctx.segments.groups:
            prompt, tail = group.prompt, group.completions
            prompt_key, prompt_value = key[:, :, prompt], value[:, :, prompt]
            of_query[:, :, prompt], wide_key, wide_value = kernel.backward(
                grad[:, :, prompt], query[:, :, prompt], _widen(prompt_key, query), _widen(prompt_value, query),
                out[:, :, prompt], lse[:, :, prompt, 0], True, ctx.scale,
            )  # fmt: skip
            of_key[:, :, prompt], of_value[:, :, prompt] = _narrow(wide_key, key), _narrow(wide_value, key)
            if tail.start == tail.stop:
                continue
            folded = (_fold(states[:, :, tail], key) for states in (grad, query, out, lse))
            grad_tail, query_tail, out_tail, lse_tail = folded
            cross_query, cross_key, cross_value = kernel.backward(
                grad_tail, query_tail, prompt_key, prompt_value, out_tail, lse_tail[..., 0], False, ctx.scale
            )
            of_key[:, :, prompt] += cross_key
            of_value[:, :, prompt] += cross_value
            # Padding repeats a real token, so its probabilities are finite; its gradient is zero.
            own_query, wide_key, wide_value = kernel.backward(
                _rows(grad, group) * group.real[:, None, :, None], _rows(query, group),
                _widen(_rows(key, group), query), _widen(_rows(value, group), query),
                _rows(out, group), _rows(lse, group)[..., 0], True, ctx.scale,
            )  # fmt: skip
            of_query[:, :, tail] = _flat(own_query, group) + _fold(cross_query, query)
            of_key[:, :, tail] = _flat(_narrow(wide_key, key), group)
            of_value[:, :, tail] = _flat(_narrow(wide_value, key), group)
        return of_query, of_key, of_value, None, None


def _widen(states: Tensor, query: Tensor) -> Tensor:
    """Key heads repeated to the number of query heads."""
    return states.repeat_interleave(query.shape[1] // states.shape[1], 1)


def _narrow(gradient: Tensor, key: Tensor) -> Tensor:
    """The gradient of `_widen`."""
    return gradient.unflatten(1, (key.shape[1], -1)).sum(2)


def _fold(states: Tensor, like: Tensor) -> Tensor:
    """[1, heads * r, T, D] -> [1, heads, r * T, D] or back: query heads of one key head as further queries of it."""
    return states.reshape(1, like.shape[1], -1, states.shape[-1])


def _rows(states: Tensor, group: SegmentGroup) -> Tensor:
    """[1, heads, T, D] -> [G, heads, longest, D], the group's completions side by side."""
    return states[0][:, group.table].transpose(0, 1).contiguous()


def _flat(rows: Tensor, group: SegmentGroup) -> Tensor:
    """The inverse of `_rows`, padding left out: [1, heads, tokens, D]."""
    return rows.transpose(0, 1)[:, group.real][None]
