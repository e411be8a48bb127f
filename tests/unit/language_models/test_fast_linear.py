"""Packed linear layers compute what the layers compute, and notice changed weights."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config, Qwen3Config

from components.language_models.fast_linear import fast_linears

TOKENS = torch.arange(40).reshape(2, 20)


def make_model(activation: str = "silu", **options: Any) -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, attention_bias=True, hidden_act=activation,
    )  # fmt: skip
    model = get_peft_model(LlamaForCausalLM(config), LoraConfig(target_modules="all-linear", r=4, **options))
    for name, weight in model.named_parameters():
        if "lora_B" in name or name.endswith("bias"):
            nn.init.normal_(weight, std=0.1)
    return model


def logits_and_gradients(model: Any) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    logits = model(input_ids=TOKENS).logits
    logits.sin().sum().backward()
    return logits.detach(), [weight.grad for weight in model.parameters() if weight.requires_grad]


@pytest.mark.parametrize("activation", ["silu", "gelu"])
def test_logits_and_gradients_stay_the_same(activation: str) -> None:
    model = make_model(activation)
    plain, plain_gradients = logits_and_gradients(model)
    with fast_linears(model):
        fast, fast_gradients = logits_and_gradients(model)
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(fast_gradients, plain_gradients, rtol=1e-4, atol=1e-5)


def test_gradients_through_a_switched_off_adapter_stay_the_same() -> None:
    """Those of what is before the MLP, here the embeddings."""
    model = make_model()
    embeddings = model.get_base_model().model.embed_tokens.weight.requires_grad_(True)
    gradients = []
    for block in (nullcontext(), fast_linears(model)):
        model.zero_grad()
        with block, model.disable_adapter():
            model(input_ids=TOKENS).logits.sin().sum().backward()
        gradients.append(embeddings.grad)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_a_gated_mlp_keeps_two_wide_tensors_for_its_backward() -> None:
    model = make_model()
    wide = set()

    def keep(tensor: Tensor) -> Tensor:
        if tensor.numel() == TOKENS.numel() * model.config.intermediate_size:
            wide.add(tensor.data_ptr())
            alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), fast_linears(model):
        model(input_ids=TOKENS)
    assert len(wide) == 2 * model.config.num_hidden_layers


@pytest.mark.parametrize("kind", [LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
def test_every_gated_mlp_that_is_named_computes_what_it_did(kind: Any) -> None:
    torch.manual_seed(0)
    config = kind(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    mlp = AutoModelForCausalLM.from_config(config).requires_grad_(False).model.layers[0].mlp
    states = torch.randn(20, 32, requires_grad=True)
    results = []
    for block in (nullcontext(), fast_linears(mlp)):
        with block:
            assert ("forward" in vars(mlp)) is bool(results)
            out = mlp(states)
        results.append((out.detach(), *torch.autograd.grad(out.sin().sum(), states)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)


def test_an_adapter_merged_for_the_block_gives_the_same_logits_and_leaves_the_weights() -> None:
    model = make_model()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with torch.no_grad():
        plain = model(input_ids=TOKENS).logits
        with fast_linears(model, merged=True):
            torch.testing.assert_close(model(input_ids=TOKENS).logits, plain, rtol=1e-5, atol=1e-5)
        with model.disable_adapter():
            base = model(input_ids=TOKENS).logits
            with fast_linears(model, merged=True):
                torch.testing.assert_close(model(input_ids=TOKENS).logits, base, rtol=1e-5, atol=1e-5)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_layers_run_packed_inside_the_block_alone() -> None:
    model = make_model()
    layer = model.get_base_model().model.layers[0].mlp.up_proj
    with fast_linears(model):
        assert "_LinearBackward" in str(layer(torch.ones(1, 32)).grad_fn)
    assert "_LinearBackward" not in str(layer(torch.ones(1, 32)).grad_fn)


def test_an_adapter_that_is_switched_off_is_left_out() -> None:
    model = make_model()
    with torch.no_grad(), model.disable_adapter():
        plain = model(input_ids=TOKENS).logits
        with fast_linears(model):
            torch.testing.assert_close(model(input_ids=TOKENS).logits, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("how", ["in place", "new tensor"])
def test_a_changed_weight_is_packed_again(how: str) -> None:
    model = make_model()
    layer = model.get_base_model().model.layers[0].mlp.up_proj.base_layer
    with torch.inference_mode(), fast_linears(model):
        before = model(input_ids=TOKENS).logits
    with torch.no_grad():
        if how == "in place":
            layer.weight.mul_(2)
        else:
            layer.weight.data = layer.weight * 2
        plain = model(input_ids=TOKENS).logits
        with fast_linears(model):
            after = model(input_ids=TOKENS).logits
    torch.testing.assert_close(after, plain, rtol=1e-5, atol=1e-5)
    assert (after - before).abs().max() > 1e-3


def test_a_trained_layer_keeps_its_gradient() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    with fast_linears(model):
        model(torch.ones(1, 8)).sum().backward()
    assert model[0].weight.grad is not None


def test_dropout_in_the_adapter_keeps_working() -> None:
    model = make_model(lora_dropout=0.5).train()
    with fast_linears(model), torch.no_grad():
        one, two = (model(input_ids=TOKENS).logits for _ in range(2))
    assert (one - two).abs().max() > 1e-4


def test_a_sharded_model_keeps_its_own_forward() -> None:
    """Weights that are gathered anew can have the address and the version of what was packed before."""
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        model = make_model()
        fully_shard(model.get_base_model(), mesh=init_device_mesh("cpu", (1,)))
        with torch.no_grad(), fast_linears(model):
            assert not any("forward" in vars(module) for module in model.modules())
    finally:
        distributed.destroy_process_group()
