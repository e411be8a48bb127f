"""Linear layers on a CPU in oneDNN's own weight layout, each with its LoRA adapter in one autograd function.

MKL, which torch calls for float32 on a CPU, packs a weight again for every product; for the few rows of a decode step
that is most of the work. Here the frozen weight is packed once and kept beside the model, once for x W' and, on the
first backward, once for g W: memory for speed (docs/benchmarks.md has both). For many small products without a
gradient, as in decoding, the adapter may be added to a copy of the weight for the time of the block; the weight itself
is never changed.

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

ROWS = 64  # oneDNN lays a weight out for about so many rows; measured best from 8 to 1,112

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
            if _is_plain_adapter(module):
                forward = (_merged_forward if merged else _adapted_forward)(module)
        elif type(module) is nn.Linear and _is_packable(module):
            forward = _plain_forward(module)
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


def _is_plain_adapter(layer: LoraLinear) -> bool:
    """One active LoRA adapter without dropout or variant on a packable layer."""
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


def _plain_forward(layer: nn.Linear) -> Callable[[Tensor], Tensor]:
    return lambda states: _Linear.apply(states, layer, None, None, 0.0)


def _adapted_forward(layer: Any) -> Callable[[Tensor], Tensor]:
    name = next(name for name in layer.active_adapters if name in layer.lora_A)
    base, down, up, scale = layer.base_layer, layer.lora_A[name], layer.lora_B[name], layer.scaling[name]

    def forward(states: Tensor) -> Tensor:
        if layer.disable_adapters:
            return _Linear.apply(states, base, None, None, 0.0)
        return _Linear.apply(states, base, down.weight, up.weight, scale)

    return forward


def _merged_forward(layer: Any) -> Callable[[Tensor], Tensor]:
    if layer.disable_adapters:
        return _plain_forward(layer.base_layer)
    name = next(name for name in layer.active_adapters if name in layer.lora_A)
    down, up = layer.lora_A[name].weight.detach(), layer.lora_B[name].weight.detach()
    base = layer.base_layer
    weight = torch.addmm(base.weight.detach(), up, down, alpha=layer.scaling[name])
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
    return lambda states: _product(states.reshape(-1, states.shape[-1]), packed, base.bias).view(*states.shape[:-1], -1)


class _Linear(torch.autograd.Function):
    """y = x W' + b + s (x A') B', with gradients to x, A [r, in] and B [out, r]; W and b are frozen."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, layer: nn.Linear, down: Tensor | None, up: Tensor | None, scale: float
    ) -> Tensor:
        flat = states.reshape(-1, states.shape[-1])
        out = _product(flat, _packed(layer, "forward"), layer.bias)
        ctx.layer, ctx.scale = layer, scale
        if down is None or up is None:
            ctx.save_for_backward()
        else:
            narrow = flat @ down.T
            out.addmm_(narrow, up.T, alpha=scale)
            ctx.save_for_backward(flat, narrow, down, up)
        return out.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, Tensor | None, None]:
        flat_grad = grad.reshape(-1, grad.shape[-1])
        of_states = of_down = of_up = None
        if ctx.needs_input_grad[0]:
            of_states = _product(flat_grad, _packed(ctx.layer, "backward"), None)
        if ctx.saved_tensors:
            flat, narrow, down, up = ctx.saved_tensors
            of_narrow = (flat_grad @ up).mul_(ctx.scale)
            of_down = of_narrow.T @ flat
            of_up = (narrow.T @ flat_grad).mul_(ctx.scale).T  # in this order MKL is twice as fast
            if of_states is not None:
                of_states.addmm_(of_narrow, down)
        return None if of_states is None else of_states.view(*grad.shape[:-1], -1), None, of_down, of_up, None


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
