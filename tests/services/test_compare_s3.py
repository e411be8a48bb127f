"""Evaluations in S3: compared where registration put them, and where a stage was published."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.errors import InputError
from components.evaluations.compare import compare_places
from components.evaluations.directory import read_evaluation, write_evaluation
from components.files import write_json
from components.model_registration.evidence import publish_evaluation
from components.settings import RunSettings
from components.stages.catalogue import find_stage
from components.stages.folder import MANIFEST, describe
from components.stages.publishing import publish
from pipelines import cli
from tests.evaluation_support import evaluation

MARKS = {"multiple": "0011", "irrelevance": "11"}


@pytest.fixture
def places(root: str, tmp_path: Path) -> list[str]:
    """The base as registration keeps it; EGPO inside a published stage."""
    own = evaluation({"own_calls": "01"})
    write_evaluation(tmp_path / "bfcl_eval" / "base", evaluation(MARKS, own=own))
    write_evaluation(tmp_path / "bfcl_eval" / "egpo_rl", evaluation(MARKS | {"multiple": "0111"}, own=own))
    folder, run = tmp_path / "bfcl_eval", RunSettings(run_id="r", artifact_root=root)
    stage = find_stage("bfcl_eval")
    write_json(folder / MANIFEST, describe(folder, stage.name, "work", stage.content, {}).model_dump())
    publish(folder, folder / MANIFEST, run, stage.name)
    return [publish_evaluation(folder / "base", root), f"{root}/r/bfcl_eval/egpo_rl"]


def test_evaluations_in_s3_are_those_that_were_put_there(places: list[str], tmp_path: Path) -> None:
    with compare_places(places) as found:
        found.write_page(tmp_path / "page.html")
        assert [len(compared.pairs) for compared, _ in found.benchmarks] == [1, 1]
        (_, folders) = found.benchmarks[-1]
        for name, folder in zip(("base", "egpo_rl"), folders.values(), strict=True):
            assert read_evaluation(folder) == read_evaluation(tmp_path / "bfcl_eval" / name)
    assert "multiple_1" in (tmp_path / "page.html").read_text()


def test_the_command_finds_them_in_the_embedded_store(
    places: list[str], forget_services: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    forget_services()
    monkeypatch.setattr(sys, "argv", ["callforge", "compare", *places])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code and Path("comparison.html").exists()
    assert "egpo_rl against " in capsys.readouterr().out


def test_what_is_wrong_in_s3_is_named_by_its_address(places: list[str], root: str, tmp_path: Path) -> None:
    whole_stage = f"{root}/r/bfcl_eval"
    for place, words in (
        (whole_stage, f"{whole_stage}/[0-9a-f]{{16}}: not an evaluation directory"),
        (f"{root}/nothing", f"{root}/nothing: there is nothing"),
    ):
        with pytest.raises(InputError, match=words), compare_places([places[0], place]):
            pass
