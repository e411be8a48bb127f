"""A fresh adapter changes nothing, depends only on its seed, and its digest tells adapters apart."""

from __future__ import annotations

import torch

from components.language_models.adapters import adapter_digest, attach_adapter
from components.language_models.base_models import resolve_model
from components.language_models.model_directory import load_model
from components.settings import AdapterSettings

IDS = torch.tensor([[5, 80, 300, 41]])


def _attached(path, seed: int, dtype="float32"):
    return attach_adapter(load_model(resolve_model(path), dtype, "cpu").model, AdapterSettings(rank=4, alpha=8), seed)


def test_a_fresh_adapter_leaves_the_logits_as_they_were(tiny_model):
    base = load_model(resolve_model(tiny_model), device="cpu").model(input_ids=IDS).logits
    assert torch.equal(_attached(tiny_model, 0)(input_ids=IDS).logits, base)


def test_all_linear_layers_but_the_head_are_adapted_without_dropout_in_float32(tiny_model):
    model = _attached(tiny_model, 0, "bfloat16")
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert len(trainable) == 2 * 7 * 2  # layers x linear layers of a block x (A, B)
    assert not any("lm_head" in name or "embed" in name for name in trainable)
    assert {weight.dtype for weight in trainable.values()} == {torch.float32}
    assert not any(isinstance(module, torch.nn.Dropout) for name, module in model.named_modules() if "lora" in name)


def test_the_initial_weights_depend_on_the_seed_and_nothing_else(tiny_model):
    torch.manual_seed(1)
    first = adapter_digest(_attached(tiny_model, 3))
    state = torch.get_rng_state()
    second = adapter_digest(_attached(tiny_model, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert first == second != adapter_digest(_attached(tiny_model, 4))


def test_the_digest_sees_one_changed_weight(tiny_model):
    model = _attached(tiny_model, 0)
    before = adapter_digest(model)
    next(weight for name, weight in model.named_parameters() if "lora_B" in name).data[0, 0] = 1e-30
    assert adapter_digest(model) != before


def test_the_digest_asks_no_hub_for_the_base_model(tiny_model, monkeypatch):
    model = _attached(tiny_model, 0)
    model.peft_config["default"].base_model_name_or_path = "org/model"
    asked = []
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", lambda *names: asked.append(names))
    adapter_digest(model)
    assert asked == []
