"""What is written is what is loaded, for the right base only, and a merge equals its adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from components.errors import InputError
from components.language_models.adapters import adapter_digest, attach_adapter
from components.language_models.base_models import weights_digest
from components.language_models.model_directory import (
    BaseModelReference,
    ModelCard,
    holds_adapter,
    load_adapter,
    load_base,
    load_for_inference,
    merge_adapter,
    read_card,
    save_adapter,
)
from components.settings import AdapterSettings

IDS = torch.tensor([[5, 80, 300, 41, 7, 7, 99]])


def _logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def _trained(base: Path, seed: int = 1):
    """A base with an adapter whose B is not zero."""
    model = attach_adapter(load_base(base, device="cpu").model, AdapterSettings(rank=4, alpha=8), seed=0)
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.05
    return model.eval()


def _card(base: Path) -> ModelCard:
    return ModelCard(
        stage="sft_warmup",
        base_model=BaseModelReference(reference=str(base), sha256=weights_digest(base)),
        prompt_version="1",
        parents={"records": "ab" * 32},
    )


@pytest.fixture
def model_folder(tiny_model: Path, tmp_path: Path) -> Path:
    save_adapter(_trained(tiny_model), tmp_path / "model", _card(tiny_model))
    return tmp_path / "model"


def test_a_saved_adapter_loads_to_the_same_weights_and_logits(tiny_model, model_folder):
    trained = _trained(tiny_model)
    loaded = load_for_inference(model_folder, device="cpu")
    assert adapter_digest(loaded.model) == adapter_digest(trained) == read_card(model_folder).parents["adapter"]
    assert torch.equal(_logits(loaded.model), _logits(trained))
    assert not loaded.model.training and not any(weight.requires_grad for weight in loaded.model.parameters())


def test_a_trainable_adapter_trains_and_its_base_does_not(tiny_model, model_folder):
    model = load_adapter(load_base(tiny_model, "bfloat16", "cpu"), model_folder, trainable=True).model
    trainable = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert trainable and all("lora_" in name and weight.dtype is torch.float32 for name, weight in trainable.items())


def test_equal_adapters_are_equal_bytes_and_a_new_one_replaces_the_old(tiny_model, model_folder, tmp_path):
    save_adapter(_trained(tiny_model), tmp_path / "again", _card(tiny_model))
    files = {file.name: file.read_bytes() for file in model_folder.iterdir()}
    assert files == {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()}
    assert set(files) == {"adapter_config.json", "adapter_model.safetensors", "callforge.json"}
    save_adapter(_trained(tiny_model, seed=2), model_folder, _card(tiny_model))
    assert (model_folder / "adapter_model.safetensors").read_bytes() != files["adapter_model.safetensors"]


def test_merged_logits_equal_the_adapters(tiny_model, model_folder, tmp_path):
    expected = _logits(load_for_inference(model_folder, device="cpu").model)
    base = _logits(load_base(tiny_model, device="cpu").model)
    assert (expected - base).abs().max() > 0.05
    target = merge_adapter(model_folder, tmp_path / "merged", "float32")
    assert target == tmp_path / "merged"
    assert torch.allclose(_logits(load_for_inference(target, device="cpu").model), expected, atol=2e-5)
    assert read_card(target) == read_card(model_folder)


def test_a_merge_is_rounded_once_to_the_saved_type_and_touches_neither_side(tiny_model, model_folder, tmp_path):
    before = {file: file.read_bytes() for folder in (tiny_model, model_folder) for file in folder.iterdir()}
    full = load_file(merge_adapter(model_folder, tmp_path / "full", "float32") / "model.safetensors")
    half = load_file(merge_adapter(model_folder, tmp_path / "half", "bfloat16") / "model.safetensors")
    assert full.keys() == half.keys() == load_file(tiny_model / "model.safetensors").keys()
    assert all(torch.equal(weight.bfloat16(), half[name]) for name, weight in full.items())
    assert before == {file: file.read_bytes() for file in before}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_merge_into_a_bfloat16_base_starts_from_its_own_values(tiny_model, tmp_path):
    base = tmp_path / "base"
    load_base(tiny_model, "bfloat16", "cpu").model.save_pretrained(base)
    load_base(tiny_model, device="cpu").tokenizer.save_pretrained(base)
    save_adapter(_trained(base), tmp_path / "model", _card(base))
    merge_adapter(tmp_path / "model", tmp_path / "merged", "float32")
    adapter = _logits(load_for_inference(tmp_path / "model", "float32", "cpu").model)
    assert torch.allclose(_logits(load_base(tmp_path / "merged", device="cpu").model), adapter, atol=2e-5)


def test_the_merged_directory_has_the_tokenizer_with_its_template(tiny_model, model_folder, tmp_path):
    merged = load_base(merge_adapter(model_folder, tmp_path / "merged"), device="cpu")
    original = load_base(tiny_model, device="cpu").tokenizer
    assert merged.tokenizer.chat_template == original.chat_template
    assert merged.tokenizer.encode("Zürich [f()]") == original.encode("Zürich [f()]")


def test_an_adapter_of_another_base_is_refused(tiny_model, model_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"made for .*tiny_model.* has other weights"):
        load_adapter(load_base(other, device="cpu"), model_folder, trainable=False)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "callforge.json").unlink(), r"there is no callforge\.json"),
        (lambda folder: (folder / "callforge.json").write_text("{"), "callforge.json: the file: Invalid JSON"),
        (lambda folder: (folder / "callforge.json").write_text('{"stage": "a"}'), "callforge.json: base_model"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"no adapter_model\.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"cut"), "cannot be loaded"),
    ],
)
def test_a_spoiled_model_directory_is_named(model_folder, spoil, message):
    spoil(model_folder)
    with pytest.raises(InputError, match=message):
        load_for_inference(model_folder, device="cpu")


def test_a_whole_model_is_cast_and_has_nothing_to_merge(tiny_model, model_folder, tmp_path):
    full = merge_adapter(model_folder, tmp_path / "full", "float32")
    assert not holds_adapter(full) and holds_adapter(model_folder)
    cast = merge_adapter(full, tmp_path / "cast", "bfloat16")
    once = merge_adapter(model_folder, tmp_path / "once", "bfloat16")
    assert {file.name: file.read_bytes() for file in cast.iterdir()} == {
        file.name: file.read_bytes() for file in once.iterdir()
    }


def test_a_base_without_a_card_is_no_trained_model(tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"there is no callforge\.json"):
        merge_adapter(tiny_model, tmp_path / "merged")


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_base_that_transformers_cannot_read_is_named(tiny_model, tmp_path, file):
    folder = tmp_path / "cut"
    shutil.copytree(tiny_model, folder)
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    with pytest.raises(InputError, match="transformers cannot load it"):
        load_base(folder, device="cpu")
