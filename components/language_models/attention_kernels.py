"""Attention kernels that also give the log-sum-exp of each query, and whose backward takes it from outside.

Three are used: torch's flash kernel for CPUs, FlashAttention-2 for variable lengths (bfloat16 and float16 on CUDA,
the kernel behind torch.nn.attention.varlen), and plain products for the rest (float32 on CUDA).
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.attention import varlen  # noqa: F401  # registers the operators used in varlen_forward

aten = torch.ops.aten


class Forward(Protocol):
    """query [B, heads, T, D], key and value [B, heads, S, D] -> output like query, log-sum-exp [B, heads, T].

    `causal` aligns the first query with the first key.
    """

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float
    ) -> tuple[Tensor, Tensor]: ...


class Backward(Protocol):
    """Gradients to query, key and value, given the output and log-sum-exp of the WHOLE softmax of each query."""

    def __call__(
        self, grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, causal: bool,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        ...


class Kernel(NamedTuple):
    """A forward and the backward that belongs to it."""

    forward: Forward
    backward: Backward


def kernel_for(states: Tensor) -> Kernel | None:
    """The kernel for this device and type; None where variable lengths have their own (`varlen_forward`)."""
    if states.device.type == "cpu":
        return FLASH_CPU
    if states.is_cuda and states.dtype in (torch.bfloat16, torch.float16):
        return None
    return PLAIN


def _flash_cpu_forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, scale=scale)


def _flash_cpu_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return aten._scaled_dot_product_flash_attention_for_cpu_backward(
        grad, query, key, value, out, lse, 0.0, causal, scale=scale
    )


FLASH_CPU = Kernel(_flash_cpu_forward, _flash_cpu_backward)


def _plain_scores(query: Tensor, key: Tensor, causal: bool, scale: float) -> Tensor:
    scores = (query @ key.mT).mul_(scale)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        scores.masked_fill_(future, -torch.inf)
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _plain_forward(query: Tensor, key: Tensor, value: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    scores = _plain_scores(query, key, causal, scale)
    lse = scores.logsumexp(-1)
    return scores.sub_(lse[..., None]).exp_().to(value.dtype) @ value, lse


def _plain_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    shares = _plain_scores(query, key, causal, scale).sub_(lse[..., None]).exp_().to(query.dtype)
    delta = (grad * out).sum(-1, keepdim=True)
    of_scores = (grad @ value.mT).sub_(delta).mul_(shares).mul_(scale)
    return of_scores @ key, of_scores.mT @ query, shares.mT @ grad


PLAIN = Kernel(_plain_forward, _plain_backward)


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Unmasked attention of a decode step, without gradient: shapes as in `Forward`."""
    kernel = kernel_for(query)
    if kernel is not None:
        return kernel.forward(query, key, value, False, scale)
    return aten._scaled_dot_product_flash_attention(query, key, value, 0.0, False, False, scale=scale)[:2]


def varlen_forward(
    query: Tensor, key: Tensor, value: Tensor, queries: Any, keys: Any, causal: bool, scale: float
) -> tuple[Tensor, Tensor]:
    """query [T, heads, D], key and value [S, key heads, D] -> output like query, log-sum-exp [heads, T] in float32.

    Args:
        queries, keys: `edges` [n + 1] (int32, on the device) and `longest` of the n segments on either side.
    """
    out, lse, _ = torch.ops.torch_attn._varlen_attn(
        query,
        key,
        value,
        queries.edges,
        keys.edges,
        queries.longest,
        keys.longest,
        causal,
        scale,
        _window(causal),
        True,
    )
    return out, lse


def varlen_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, queries: Any, keys: Any,
    causal: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The backward of `varlen_forward`."""
    no_dropout = torch.zeros(2, dtype=torch.uint64, device=query.device)
    return torch.ops.torch_attn._varlen_attn_backward(
        grad, query, key, value, out, lse, queries.edges, keys.edges, queries.longest, keys.longest, causal, no_dropout,
        scale, _window(causal),
    )  # fmt: skip


def _window(causal: bool) -> list[int]:
    """How many keys before and after its own place a query sees; -1: all."""
    return [-1, 0] if causal else [-1, -1]
