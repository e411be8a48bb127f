"""Preflight against a real S3 store: what there is a model, and what only looks like one."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from components.files import write_json
from components.preflight.checks import problems, run
from components.preflight.disk import model_size
from components.services.storage import names_below, upload_folder
from components.settings import resolve_settings
from components.stages.catalogue import find_stage


@pytest.fixture
def stored(root: str, tiny_model: Path, tmp_path: Path) -> str:
    """A prefix with a model, the folder of a stage that wrote one, of one that wrote an adapter, of one without."""
    folder = tmp_path / "stored"
    shutil.copytree(tiny_model, folder / "base")
    shutil.copytree(tiny_model, folder / "egpo_rl" / "model")
    for stage in ("egpo_rl", "sft_warmup", "data_refine"):
        write_json(folder / stage / "config.json", {"stage": stage})
    write_json(folder / "sft_warmup" / "model" / "adapter_config.json", {"r": 2})
    (folder / "sft_warmup" / "model" / "adapter_model.safetensors").touch()
    upload_folder(folder, root)
    return root


@pytest.mark.parametrize(
    ("place", "fine"),
    [
        ("base", True),
        ("base/", True),
        ("egpo_rl/model", True),
        ("egpo_rl", False),
        ("sft_warmup/model", False),
        ("data_refine", False),
        ("bas", False),
    ],
)
def test_a_base_model_has_weights(stored: str, place: str, fine: bool) -> None:
    settings = resolve_settings({"sft_warmup.base_model": f"{stored}/{place}"})
    found = problems(settings, [find_stage("sft_warmup")], here=False)
    assert len(found) == (not fine)
    assert all(f"sft_warmup.base_model: {stored}/{place}" in text and "safetensors" in text for text in found)


@pytest.mark.parametrize("place", ["base", "egpo_rl", "egpo_rl/", "egpo_rl/model", "sft_warmup", "sft_warmup/model"])
def test_a_model_to_evaluate_may_be_an_adapter_or_a_stage(stored: str, place: str) -> None:
    assert run("{}", {}, "{}", f"{stored}/{place}")


def test_a_stage_without_a_model_is_not_evaluated(stored: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run("{}", {}, "{}", f"{stored}/data_refine")
    assert caught.value.code == 2
    assert f"model: {stored}/data_refine" in capsys.readouterr().out


def test_the_size_of_a_model_is_read_from_the_listing(stored: str, tiny_model: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in tiny_model.iterdir() if path.is_file()}
    found = model_size(f"{stored}/base")
    assert found is not None
    assert found == replace(model_size(str(tiny_model)) or found, to_fetch=sum(sizes.values()))


def test_names_below_a_prefix_are_those_of_its_own_files(stored: str, tmp_path: Path) -> None:
    for place in (f"{stored}/sft_warmup", str(tmp_path / "stored" / "sft_warmup")):
        assert names_below(place) == {"config.json"}
        assert names_below(f"{place}/nothing") == set()
