"""A base model kept in S3: fetched whole, once, and found in the cache afterwards."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from components.errors import InputError
from components.language_models.adapters import attach_adapter
from components.language_models.base_models import cache_folder, resolve_base_model, resolve_model, weights_digest
from components.language_models.model_card import BaseModelReference, ModelCard
from components.language_models.model_directory import load_model, save_adapter
from components.services import storage
from components.settings import AdapterSettings


def test_a_model_in_s3_is_downloaded_once(
    root: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLFORGE_CACHE", str(tmp_path / "cache"))
    storage.upload_folder(tiny_model, f"{root}/base")
    path = resolve_base_model(f"{root}/base").path
    assert weights_digest(path) == weights_digest(tiny_model)
    assert {file.name for file in path.iterdir()} == {file.name for file in tiny_model.iterdir()}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")  # a second download would be refused
    assert resolve_base_model(f"{root}/base").path == path


def test_pickle_weights_in_s3_are_refused_until_they_are_replaced(
    root: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLFORGE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_model, tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").rename(tmp_path / "pickled" / "pytorch_model.bin")
    storage.upload_folder(tmp_path / "pickled", f"{root}/base")
    with pytest.raises(InputError, match="only pickle weights"):
        resolve_base_model(f"{root}/base")
    storage.upload_folder(tiny_model, f"{root}/base")
    assert resolve_base_model(f"{root}/base").sha256 == weights_digest(tiny_model)


def test_a_prefix_without_a_model_leaves_nothing_in_the_cache(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLFORGE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match="nothing below this prefix"):
        resolve_base_model(f"{root}/nothing")
    assert not [folder for folder in (cache_folder() / "models").iterdir() if not folder.name.startswith(".")]


def test_an_adapter_in_s3_is_found_with_its_base(
    root: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLFORGE_CACHE", str(tmp_path / "cache"))
    reference = BaseModelReference(reference=str(tiny_model), sha256=weights_digest(tiny_model))
    adapted = attach_adapter(load_model(resolve_model(tiny_model)).model, AdapterSettings(rank=2, alpha=4), seed=0)
    save_adapter(adapted, tmp_path / "model", ModelCard(stage="egpo_rl", base_model=reference, prompt_version="1"))
    storage.upload_folder(tmp_path / "model", f"{root}/adapter")
    found = resolve_model(f"{root}/adapter")
    assert found.base is not None and found.base.sha256 == reference.sha256
    assert found.sha256 == weights_digest(tmp_path / "model")
    with pytest.raises(InputError, match="it is an adapter"):
        resolve_base_model(f"{root}/adapter")
