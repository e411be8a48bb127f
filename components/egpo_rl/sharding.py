"""A model split over the processes of a run (fully_shard): each holds a part of every weight, and gathers those of a
layer when it is computed.

Gathering is a collective, so all processes must make the same passes; shared_prefix.py makes empty ones where a process
has fewer. The policy is sampled from and saved as a whole copy: generation needs no lockstep then.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from components.language_models.shared_prefix import model_parts


def shard_model(model: Any, device: str, dtype: str) -> None:
    """Split the weights of `model` over the processes, in place, each decoder layer by itself and the rest together.

    An adapter stays whole in every process: it is small, of another type than its base, and its gradients are summed
    over the processes anyhow. Gradients of sharded weights are sums as well, where fully_shard by itself makes means.

    Args:
        device: where each process keeps its part; the model itself may be elsewhere.
        dtype: what layers are gathered and computed in; the parts keep their type, and gradients are float32.
    """
    adapter = {item for item in model.parameters() if item.requires_grad} if isinstance(model, PeftModel) else set()
    for item in adapter:
        item.data = item.data.to(device)
    policy = MixedPrecisionPolicy(getattr(torch, dtype), torch.float32, cast_forward_inputs=False)
    causal_model, _ = model_parts(model)
    layers = [module for module in model.modules() if type(module).__name__ in (causal_model._no_split_modules or ())]
    for module in (*layers, causal_model):
        # The root is freed after its forward too: gathered, it would not see what an optimizer step changes.
        fully_shard(module, reshard_after_forward=True, mp_policy=policy, ignored_params=adapter)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo has no other


class WholeCopy:
    """A copy of a model, made before that is sharded, whose weights take memory only while it is `filled`."""

    def __init__(self, model: Any, device: str) -> None:
        self.model = copy.deepcopy(model).to(device)
        self._empty()

    @contextmanager
    def filled(self, sharded: Any) -> Iterator[None]:
        """The weights of the sharded model, as they are now, within. Every process takes part."""
        with torch.no_grad():
            for own, parts in zip(self.model.parameters(), sharded.parameters(), strict=True):
                own.data = torch.empty(parts.shape, dtype=own.dtype, device=own.device)
                own.copy_(whole(parts))
        try:
            yield
        finally:
            self._empty()

    def _empty(self) -> None:
        for own in self.model.parameters():
            own.data = own.data.new_empty(0)


def is_sharded(tensor: Tensor) -> bool:
    """Whether processes hold parts of it."""
    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of `tensor`, gathered where processes hold parts of it: then every one of them must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part_like(tensor: Tensor, value: Tensor) -> Tensor:
    """This process's part of `value`, which every process has whole, split as `tensor` is."""
    if not isinstance(tensor, DTensor):
        return value
    return distribute_tensor(value, tensor.device_mesh, tensor.placements, src_data_rank=None)
