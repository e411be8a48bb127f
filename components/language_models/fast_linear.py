"""Linear layers on a CPU in oneDNN's own weight layout, each with its LoRA adapter in one autograd function.

MKL, which torch calls for float32 on a CPU, packs a weight again for every product; for the few rows of a decode step
that is most of the work. Here the frozen weight is packed once and kept beside the model, once for x W' and, on the
first backward, once for g W: memory for speed (docs/benchmarks.md has both). For many small products without a
gradient, as in decoding, the adapter may be added to a copy of the weight for the time of the block; the weight itself
is never changed.

A gated MLP, down(silu(gate(x)) * up(x)), keeps two wide tensors for its backward here, not four: the activation and the
product are made again.

Other devices, other types and layers that are not plain keep the forward they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")  # transformers' names for that MLP
ROWS = 64  # oneDNN lays a weight out for about this many rows; measured best from 8 to 1,112

_packs: WeakKeyDictionary[nn.Linear, dict[str, tuple[Any, Tensor]]] = WeakKeyDictionary()


@contextmanager
def fast_linears(model: nn.Module, *, merged: bool = False) -> Iterator[None]:
    """Run the linear layers of `model` from packed weights inside the block; gradients may be taken after it.

    Not where activations are recomputed: those layers run again in backward, outside the block. Nor where the model is
    sharded: a gathered weight does not show that it has changed.

    Args:
        merged: add each adapter to a copy of its layer's weight first, in float32; then there is no gradient.
    """
    recomputed = any(getattr(module, "gradient_checkpointing", False) and module.training for module in model.modules())
    if recomputed or any(isinstance(module, FSDPModule) for module in model.modules()):
        yield
        return
    replaced = []
    inner: set[nn.Module] = set()
    for module in model.modules():
        if module in inner or "forward" in vars(module):  # inside an adapter, or in an outer block already
            continue
        forward: Callable[[Tensor], Tensor] | None = None
        if type(module) is LoraLinear:
            inner.update(module.modules())
        if _is_fast(module):
            forward = (_merged_forward if merged else _fast_forward)(module)
        elif not merged and type(module).__name__ in GATED and _is_gated_by_silu(module):
            forward = _gated_forward(module)
        if forward is not None:
            module.forward = forward
            replaced.append(module)
    try:
        yield
    finally:
        for module in replaced:
            del module.forward


def _is_packable(layer: nn.Linear) -> bool:
    weight = layer.weight
    frozen = not (weight.requires_grad and torch.is_grad_enabled())
    usable = weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    return frozen and usable and not torch.is_autocast_enabled("cpu")  # which does not reach these products


def _is_fast(layer: Any) -> bool:
    """A packable layer, bare or with one active LoRA adapter without dropout or variant."""
    if type(layer) is not LoraLinear:
        return type(layer) is nn.Linear and _is_packable(layer)
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    return (
        len(names) == 1
        and type(layer.base_layer) is nn.Linear
        and _is_packable(layer.base_layer)
        and not layer.merged
        and not layer.lora_variant
        and layer.lora_B[names[0]].bias is None
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
        and layer.lora_A[names[0]].weight.dtype == torch.float32
    )


def _is_gated_by_silu(mlp: Any) -> bool:
    return mlp.config.hidden_act == "silu" and _is_fast(mlp.down_proj)


def _weights(layer: Any) -> tuple[nn.Linear, Tensor | None, Tensor | None, float]:
    """The frozen layer, and A, B and scale of the adapter that is on now."""
    if type(layer) is nn.Linear:
        return layer, None, None, 0.0
    if layer.disable_adapters:
        return layer.base_layer, None, None, 0.0
    name = next(name for name in layer.active_adapters if name in layer.lora_A)
    return layer.base_layer, layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]


def _fast_forward(layer: Any) -> Callable[[Tensor], Tensor]:
    return lambda states: _Linear.apply(states, *_weights(layer))


def _gated_forward(mlp: Any) -> Callable[[Tensor], Tensor]:
    return lambda states: _GatedLinear.apply(mlp.gate_proj(states), mlp.up_proj(states), *_weights(mlp.down_proj))


def _merged_forward(layer: Any) -> Callable[[Tensor], Tensor]:
    base, down, up, scale = _weights(layer)
    if down is None or up is None:
        return _fast_forward(base)
    weight = torch.addmm(base.weight.detach(), up.detach(), down.detach(), alpha=scale)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return lambda states: _product(states.reshape(-1, states.shape[-1]), packed, base.bias).view(*states.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """y = x W' + b + s (x A') B', with gradients to x, A [r, in] and B [out, r]; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, layer: nn.Linear, down: Tensor | None, up: Tensor | None, scale: float
    ) -> Tensor:
        flat = states.reshape(-1, states.shape[-1])
        out, narrow = _adapted_product(flat, layer, down, up, scale)
        ctx.layer, ctx.scale = layer, scale
        ctx.save_for_backward(*(() if narrow is None else (flat, narrow, down, up)))
        return out.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        saved = ctx.saved_tensors or (None, None, None, None)
        of_states, of_down, of_up = _gradients(grad, ctx.layer, ctx.scale, ctx.needs_input_grad[0], *saved)
        return None if of_states is None else of_states.view(*grad.shape[:-1], -1), None, of_down, of_up, None


class _GatedLinear(torch.autograd.Function):
    """The same of x = silu(g) * u, with gradients to g and u; x is made again in backward."""

    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, value: Tensor, layer: nn.Linear, down: Tensor | None, up: Tensor | None, scale: float
    ) -> Tensor:
        states = nn.functional.silu(gate).mul_(value)
        out, narrow = _adapted_product(states.view(-1, states.shape[-1]), layer, down, up, scale)
        ctx.layer, ctx.scale = layer, scale
        ctx.save_for_backward(gate, value, *(() if narrow is None else (narrow, down, up)))
        return out.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, value, *adapter = ctx.saved_tensors
        active = nn.functional.silu(gate)
        flat = (active * value).view(-1, active.shape[-1]) if adapter else None
        of_states, of_down, of_up = _gradients(grad, ctx.layer, ctx.scale, True, flat, *(adapter or (None, None, None)))
        assert of_states is not None
        of_states = of_states.view_as(gate)
        of_gate = torch.ops.aten.silu_backward(of_states * value, gate)
        return of_gate, of_states.mul_(active), None, of_down, of_up, None


def _adapted_product(
    flat: Tensor, layer: nn.Linear, down: Tensor | None, up: Tensor | None, scale: float
) -> tuple[Tensor, Tensor | None]:
    """x W' + b + s (x A') B', and x A' where there is an adapter."""
    out = _product(flat, _packed(layer, "forward"), layer.bias)
    if down is None or up is None:
        return out, None
    narrow = flat @ down.T
    return out.addmm_(narrow, up.T, alpha=scale), narrow


def _gradients(
    grad: Tensor,
    layer: nn.Linear,
    scale: float,
    wanted: bool,
    flat: Tensor | None,
    narrow: Tensor | None,
    down: Tensor | None,
    up: Tensor | None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to x (where `wanted`), A and B of `_adapted_product`; the last four are None without an adapter."""
    flat_grad = grad.reshape(-1, grad.shape[-1])
    of_states = _product(flat_grad, _packed(layer, "backward"), None) if wanted else None
    if flat is None or narrow is None or down is None or up is None:
        return of_states, None, None
    of_narrow = (flat_grad @ up).mul_(scale)
    if of_states is not None:
        of_states.addmm_(of_narrow, down)
    of_up = (narrow.T @ flat_grad).mul_(scale).T  # in this order MKL is twice as fast
    return of_states, of_narrow.T @ flat, of_up


def _packed(layer: nn.Linear, direction: str) -> Tensor:
    """The weight in oneDNN's layout, packed again when it has changed since."""
    weight = layer.weight.detach()
    state = (weight.data_ptr(), weight._version)
    packs = _packs.setdefault(layer, {})
    if direction not in packs or packs[direction][0] != state:
        source = weight if direction == "forward" else weight.T.contiguous()
        packs[direction] = (state, torch.ops.mkldnn._reorder_linear_weight(source, ROWS))
    return packs[direction][1]


def _product(states: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(states, packed, bias, "none", [], "")
