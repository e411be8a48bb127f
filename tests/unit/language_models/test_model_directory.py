"""What is written is what is loaded, for the right base only, and a merge equals its adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from components.errors import InputError
from components.files import write_json
from components.language_models.adapters import adapter_digest, attach_adapter
from components.language_models.base_models import holds_adapter, resolve_model, weights_digest
from components.language_models.model_card import BaseModelReference, ModelCard, read_card
from components.language_models.model_directory import load_adapter, load_base, load_model, merge_adapter, save_adapter
from components.settings import AdapterSettings

IDS = torch.tensor([[5, 80, 300, 41, 7, 7, 99]])


def _logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def _trained(base: Path, seed: int = 1):
    """A base with an adapter whose B is not zero."""
    model = attach_adapter(
        load_model(resolve_model(base), device="cpu").model, AdapterSettings(rank=4, alpha=8), seed=0
    )
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
    loaded = load_model(resolve_model(model_folder), device="cpu")
    assert adapter_digest(loaded.model) == adapter_digest(trained) == read_card(model_folder).parents["adapter"]
    assert torch.equal(_logits(loaded.model), _logits(trained))
    assert not loaded.model.training and not any(weight.requires_grad for weight in loaded.model.parameters())


def test_a_trainable_adapter_trains_and_its_base_does_not(tiny_model, model_folder):
    base = load_base(resolve_model(tiny_model), "bfloat16", "cpu")
    model = load_adapter(base, resolve_model(model_folder), trainable=True).model
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
    expected = _logits(load_model(resolve_model(model_folder), device="cpu").model)
    base = _logits(load_model(resolve_model(tiny_model), device="cpu").model)
    assert (expected - base).abs().max() > 0.05
    target = merge_adapter(resolve_model(model_folder), tmp_path / "merged", "float32")
    assert target == tmp_path / "merged"
    assert torch.allclose(_logits(load_model(resolve_model(target), device="cpu").model), expected, atol=2e-5)
    assert read_card(target) == read_card(model_folder)


def test_a_merge_is_rounded_once_to_the_saved_type_and_touches_neither_side(tiny_model, model_folder, tmp_path):
    before = {file: file.read_bytes() for folder in (tiny_model, model_folder) for file in folder.iterdir()}
    full = load_file(merge_adapter(resolve_model(model_folder), tmp_path / "full", "float32") / "model.safetensors")
    half = load_file(merge_adapter(resolve_model(model_folder), tmp_path / "half", "bfloat16") / "model.safetensors")
    assert full.keys() == half.keys() == load_file(tiny_model / "model.safetensors").keys()
    assert all(torch.equal(weight.bfloat16(), half[name]) for name, weight in full.items())
    assert before == {file: file.read_bytes() for file in before}
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_merge_into_a_bfloat16_base_starts_from_its_own_values(tiny_model, tmp_path):
    base = tmp_path / "base"
    load_model(resolve_model(tiny_model), "bfloat16", "cpu").model.save_pretrained(base)
    load_model(resolve_model(tiny_model), device="cpu").tokenizer.save_pretrained(base)
    save_adapter(_trained(base), tmp_path / "model", _card(base))
    merge_adapter(resolve_model(tmp_path / "model"), tmp_path / "merged", "float32")
    adapter = _logits(load_model(resolve_model(tmp_path / "model"), "float32", "cpu").model)
    assert torch.allclose(
        _logits(load_model(resolve_model(tmp_path / "merged"), device="cpu").model), adapter, atol=2e-5
    )


def test_the_merged_directory_has_the_tokenizer_with_its_template(tiny_model, model_folder, tmp_path):
    merged = load_model(resolve_model(merge_adapter(resolve_model(model_folder), tmp_path / "merged")), device="cpu")
    original = load_model(resolve_model(tiny_model), device="cpu").tokenizer
    assert merged.tokenizer.chat_template == original.chat_template
    assert merged.tokenizer.encode("Zürich [f()]") == original.encode("Zürich [f()]")


def test_an_adapter_of_another_base_is_refused(tiny_model, model_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_model, other)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"made for .*tiny_model.*, not for .*other"):
        load_adapter(load_model(resolve_model(other), device="cpu"), resolve_model(model_folder), trainable=False)
    card = read_card(model_folder)
    base = card.base_model.model_copy(update={"reference": str(other)})
    write_json(model_folder / "callforge.json", card.model_copy(update={"base_model": base}).model_dump())
    with pytest.raises(InputError, match=r"made for .*other.* has other weights"):
        resolve_model(model_folder)


def _weights(change):
    """Change the adapter's tensors in a model directory."""

    def spoil(folder: Path) -> None:
        file = folder / "adapter_model.safetensors"
        weights = load_file(file)
        change(weights)
        save_file(weights, file, metadata={"format": "pt"})

    return spoil


def _settings(**changes):
    """Change what the adapter declares."""
    return lambda folder: write_json(
        folder / "adapter_config.json", json.loads((folder / "adapter_config.json").read_text()) | changes
    )


A = "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"
B = A.replace("lora_A", "lora_B")
NORM = "base_model.model.model.norm.weight"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "callforge.json").unlink(), r"there is no callforge\.json"),
        (lambda folder: (folder / "callforge.json").write_text("{"), "callforge.json: not JSON"),
        (lambda folder: (folder / "callforge.json").write_bytes(b"\xff\x00"), "callforge.json: not JSON"),
        (lambda folder: (folder / "callforge.json").write_text("[1]"), "a JSON object is expected"),
        (lambda folder: (folder / "callforge.json").write_text('{"a":' * 10**5), "nested too deeply"),
        (lambda folder: (folder / "callforge.json").write_text('{"stage": "a"}'), "callforge.json: base_model"),
        (lambda folder: (folder / "adapter_config.json").write_bytes(b"\xff"), "adapter_config.json: not JSON"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "peft_type is None; only 'LORA'"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), r"no adapter_model\.safetensors"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"cut"), "not a whole safetensors file"),
        (_weights(dict.clear), "lacks 28 weights"),
        (_weights(lambda weights: weights.pop(A)), f"lacks 1 weights, first {A}"),
        (
            _weights(lambda weights: weights.update({A.replace("0", "7"): weights[A].clone()})),
            "no place for, 1 weights",
        ),
        (_weights(lambda weights: weights.update({NORM: torch.zeros(64)})), f"{NORM}, which is not an adapter's"),
        (_weights(lambda weights: weights.update({B: weights[A].clone()})), "cannot be loaded"),
        (_weights(lambda weights: weights[A].fill_(float("nan"))), f"the weight {A} is not finite"),
        (_weights(lambda weights: weights[A].fill_(3e38)), "overflows float32"),
        (_weights(lambda weights: weights[A].add_(1e-3)), "not the one that was saved here"),
        (_settings(lora_alpha=float("inf")), "overflows float32"),
        (_settings(lora_alpha=10**400), "cannot be loaded: OverflowError"),
        (_settings(r=0), "r is 0; a rank"),
        (_settings(r="four"), "r is four; a rank"),
        (_settings(r=None), "r is None; a rank"),
        (_settings(modules_to_save=["norm"]), "modules_to_save is"),
        (_settings(use_dora=True), "use_dora is True; only plain LoRA is read"),
        (_settings(peft_type="IA3"), "peft_type is 'IA3'"),
        (_settings(target_modules=["x" * 5000]), "cannot be loaded"),
    ],
)
def test_a_spoiled_model_directory_is_named(model_folder, spoil, message):
    spoil(model_folder)
    with pytest.raises(InputError, match=message):
        load_model(resolve_model(model_folder), device="cpu")


def test_a_whole_model_is_cast_and_has_nothing_to_merge(tiny_model, model_folder, tmp_path):
    full = merge_adapter(resolve_model(model_folder), tmp_path / "full", "float32")
    assert not holds_adapter(full) and holds_adapter(model_folder)
    cast = merge_adapter(resolve_model(full), tmp_path / "cast", "bfloat16")
    once = merge_adapter(resolve_model(model_folder), tmp_path / "once", "bfloat16")
    assert {file.name: file.read_bytes() for file in cast.iterdir()} == {
        file.name: file.read_bytes() for file in once.iterdir()
    }


def test_a_base_without_a_card_is_no_trained_model(tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"there is no callforge\.json"):
        merge_adapter(resolve_model(tiny_model), tmp_path / "merged")


def _spoiled(tiny_model: Path, folder: Path, change) -> Path:
    """A copy of the base with other tensors."""
    shutil.copytree(tiny_model, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda weights: [weights.pop(name) for name in list(weights) if "layers" in name],
            "weight files lack 18 weights of the model, first model.layers.0.input_layernorm.weight",
        ),
        (lambda weights: weights.pop("model.norm.weight"), "weight files lack 1 weights"),
        (lambda weights: weights["model.norm.weight"].fill_(float("inf")), "model.norm.weight is not finite"),
        (lambda weights: weights["model.embed_tokens.weight"][7].fill_(float("nan")), "embed_tokens.weight is not fin"),
        (lambda weights: weights.update(another=torch.zeros(3)), "not its config.json have 1 weights .*first another"),
        (
            lambda weights: weights.update({"model.embed_tokens.weight": weights["model.embed_tokens.weight"][:200]}),
            "vocab_size is 512|transformers cannot load it",
        ),
    ],
)
def test_a_base_whose_weights_are_not_whole_is_refused(tiny_model, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        load_model(resolve_model(_spoiled(tiny_model, tmp_path / "base", change)), device="cpu")


def test_a_base_of_fewer_layers_than_its_files_have_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text()) | {"num_hidden_layers": 1}
    write_json(tmp_path / "base" / "config.json", config)
    with pytest.raises(InputError, match=r"and not its config\.json have 9 weights"):
        load_model(resolve_model(tmp_path / "base"), device="cpu")


def test_weights_too_large_for_the_type_are_refused(tiny_model, tmp_path):
    folder = _spoiled(tiny_model, tmp_path / "base", lambda weights: weights["model.norm.weight"].fill_(1e6))
    load_model(resolve_model(folder), "float32", "cpu")
    with pytest.raises(InputError, match=r"not finite in torch\.float16"):
        load_model(resolve_model(folder), "float16", "cpu")


def test_a_tokenizer_larger_than_the_embedding_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["<extra>"])
    tokenizer.save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"token 512 \('<extra>'\), and the model's embedding 512 rows"):
        load_model(resolve_model(tmp_path / "base"), device="cpu")


@pytest.mark.parametrize(
    ("file", "changes", "why"),
    [
        ("tokenizer_config.json", {"model_max_length": "long"}, "cannot load it: TypeError"),
        (
            "tokenizer.json",
            {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
            "cannot load it: PanicException",
        ),
        (
            "tokenizer.json",
            {"normalizer": {"type": "Replace", "pattern": {"Regex": "."}, "content": ""}},
            "makes no tokens of a text",
        ),
    ],
)
def test_a_tokenizer_that_fails_only_when_it_is_used_is_refused(tiny_model, tmp_path, file, changes, why):
    shutil.copytree(tiny_model, tmp_path / "base")
    write_json(tmp_path / "base" / file, json.loads((tmp_path / "base" / file).read_text()) | changes)
    with pytest.raises(InputError, match=why):
        load_model(resolve_model(tmp_path / "base"), device="cpu")


HOSTILE = "import pathlib\npathlib.Path({mark!r}).write_text('ran')\n"


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}),
        ("tokenizer_config.json", {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": [None, "evil.T"]}}),
    ],
)
def test_code_that_a_model_brings_along_is_never_run(tiny_model, tmp_path, monkeypatch, file, changes):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base" / "evil.py").write_text(HOSTILE.format(mark=str(tmp_path / "mark")))
    config = json.loads((tmp_path / "base" / file).read_text()) | changes
    write_json(tmp_path / "base" / file, config)
    with pytest.raises(InputError, match=f"it wants to run code of its own \\({file}: auto_map"):
        load_model(resolve_model(tmp_path / "base"), device="cpu")
    assert not (tmp_path / "mark").exists()


def test_a_model_that_transformers_knows_is_loaded_without_the_code_beside_it(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    shutil.copytree(tiny_model, tmp_path / "base")
    (tmp_path / "base" / "evil.py").write_text(HOSTILE.format(mark=str(tmp_path / "mark")))
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    write_json(tmp_path / "base" / "config.json", config | {"auto_map": {"AutoConfig": "evil.C"}})
    (tmp_path / "base" / "custom_generate").mkdir()
    (tmp_path / "base" / "custom_generate" / "generate.py").write_text(HOSTILE.format(mark=str(tmp_path / "mark")))
    load_model(resolve_model(tmp_path / "base"), device="cpu")
    assert not (tmp_path / "mark").exists()


def test_a_base_that_transformers_cannot_read_is_named(tiny_model, tmp_path):
    folder = tmp_path / "cut"
    shutil.copytree(tiny_model, folder)
    (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()[:100])
    with pytest.raises(InputError, match="transformers cannot load it"):
        load_model(resolve_model(folder), device="cpu")
