"""The command in this process: exit codes, and what a stage by itself takes from the environment."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.evaluations.directory import read_evaluation, write_evaluation
from components.function_calls.record import Record, record_to_json
from pipelines import clean, cli
from tests.evaluation_support import evaluation

Call = Callable[..., tuple[int, str]]
TOO_LONG = "x" * 300


@pytest.fixture
def callforge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """`callforge("doctor")`: exit code and everything that was printed."""
    monkeypatch.chdir(tmp_path)
    for name in ("CALLFORGE_ARTIFACT_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["callforge", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        printed = capsys.readouterr()
        return int(caught.value.code or 0), printed.out + printed.err

    return call


def test_the_artifact_root_of_the_environment_is_that_of_a_lone_stage(
    callforge: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALLFORGE_ARTIFACT_ROOT", "/no/s3")
    code, told = callforge("refine", "--out", "refined")
    assert code == 2 and "run.artifact_root" in told and "/no/s3" in told


@pytest.mark.parametrize(
    "command",
    [
        ["refine"],
        ["sft", "--records", "x"],
        ["egpo", "--records", "x", "--model", "x"],
        ["evaluate", "x"],
        ["register", "--model", "x"],
    ],
    ids=lambda command: command[0],
)
def test_every_stage_can_be_told_its_run_and_its_place_in_s3(callforge: Call, command: list[str]) -> None:
    code, told = callforge(*command, "--out", "out", "--run-id", "no/run", "--artifact-root", "/no/s3")
    assert code == 2 and "run.run_id" in told and "no/run" in told and "run.artifact_root" in told and "/no/s3" in told


@pytest.mark.parametrize(
    "command",
    [
        ["ask", TOO_LONG, "hi", "--tools", "tools.json"],
        ["evaluate", TOO_LONG, "--out", "out"],
        ["evaluate", "x", "--out", "out", "--records", TOO_LONG],
        ["sft", "--out", "out", "--records", TOO_LONG],
        ["compare", TOO_LONG, "x"],
        ["sync", TOO_LONG],
    ],
    ids=" ".join,
)
def test_a_name_that_no_file_can_have_is_bad_input(
    callforge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "tools.json").write_text('[{"name": "f", "parameters": {}}]')
    code, told = callforge(*command)
    assert code == 2 and TOO_LONG[:100] in told and "Errno" not in told


def test_a_lone_refinement_takes_the_layout_of_its_records(callforge: Call) -> None:
    code, told = callforge("refine", "--out", "refined", "--data-format", "xlsx")
    assert code == 2 and "data_refine.data_format" in told and "'xlsx'" in told


def test_the_help_names_debug_and_the_version_its_commit(callforge: Call) -> None:
    code, told = callforge("--help")
    assert code == 0 and "--debug" in told
    code, told = callforge("--version")
    assert code == 0 and re.fullmatch(r"callforge \d+\.\d+\.\d+, commit [0-9a-f]{40}(-dirty)?\n", told)


def test_commands_that_need_a_registry_say_how_to_name_one(callforge: Call) -> None:
    Path("tools.json").write_text('[{"name": "f"}]')
    for command in (
        ["promote", "m", "1"],
        ["rollback", "m"],
        ["sync"],
        ["ask", "models:/m@a", "?", "--tools", "tools.json"],
    ):
        code, told = callforge(*command)
        assert code == 2 and "MLFLOW_TRACKING_URI: set it to your MLflow server" in told


TWO = {"multiple": "0011", "irrelevance": "11"}


def test_evaluations_are_compared_with_a_page(callforge: Call, tmp_path: Path) -> None:
    write_evaluation(tmp_path / "a", evaluation(TWO))
    write_evaluation(tmp_path / "b", evaluation(TWO | {"multiple": "0111"}, own=evaluation({"own_calls": "1"})))
    code, told = callforge("compare", "a", "b", "--page", "changed.html")
    assert code == 0 and "b against a" in told and "+25.0" in told and "page changed.html" in told
    assert "not compared: own records were asked of b only" in told
    assert "multiple_1" in Path("changed.html").read_text()


@pytest.mark.parametrize(
    ("places", "words"),
    [
        (["a"], "name two evaluation directories or more"),
        (["a", "nowhere"], "nowhere: not an evaluation directory"),
        (["a", "c"], "c and a cannot be compared, because they were not measured in the same way (prompt version"),
        (["a", "s3://ab/x"], "s3://ab/x: not an S3 address"),
    ],
)
def test_what_cannot_be_compared_is_named(callforge: Call, tmp_path: Path, places: list[str], words: str) -> None:
    write_evaluation(tmp_path / "a", evaluation(TWO))
    write_evaluation(tmp_path / "c", evaluation(TWO, prompt_version="2"))
    code, told = callforge("compare", *places)
    assert code == 2 and words in " ".join(told.split()) and not Path("comparison.html").exists()


def test_models_are_evaluated_on_own_records_and_compared(
    callforge: Call, tmp_path: Path, tiny_model: Path, make_records: Callable[[int], list[Record]]
) -> None:
    records = tmp_path / "own.jsonl"
    records.write_text("".join(json.dumps(record_to_json(record)) + "\n" for record in make_records(3)))
    shutil.copytree(tiny_model, tmp_path / "two")
    shutil.copytree(tiny_model, tmp_path / "one")
    command = ["evaluate", "one", "two", "--out", "out", "--records", str(records), "--profile", "tiny"]
    code, told = callforge(*command)
    assert code == 0, told
    assert "own records: calls" in told and "BFCL: calls" in told and "two against one" in told
    for name in ("one", "two"):
        assert read_evaluation(Path("out") / name).own.scores.questions.asked == 3
    assert "own records" in Path("out/report.html").read_text()
    code, again = callforge(*command)
    assert code == 0 and "two against one" in again, "what is done already is shown again"
    records.write_text("{}\n")
    code, told = callforge(*command[:-2], "--set", "bfcl_eval.sample_per_category=1")
    assert code == 2 and "bfcl_eval.records:" in told and "own.jsonl" in told


def test_a_run_that_went_on_keeps_no_other_from_being_removed(
    callforge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / ".callforge" / "runs"
    for name in ("one", "two", "not a run"):
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").write_text("{}")
    look = clean.look

    def look_and_wait(*arguments: Any, **options: Any) -> list[clean.Held]:
        found = look(*arguments, **options)
        (runs / "one" / "weights").write_text("made since")
        return found

    monkeypatch.setattr(clean, "look", look_and_wait)
    code, told = callforge("clean", "--yes")
    assert code == 2 and "run one: it changed since it was looked at" in told and "removed two" in told
    assert sorted(path.name for path in runs.iterdir()) == ["not a run", "one"]
    assert (runs / "one" / "weights").exists()


def test_debug_shows_the_traceback_and_keeps_the_exit_code(callforge: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:private@127.0.0.1:9")
    plain, debug = callforge("promote", "model", "1"), callforge("--debug", "promote", "model", "1")
    assert plain[0] == debug[0] == 2
    assert "Traceback" not in plain[1] and "Traceback" in debug[1]
    assert plain[1].strip() in debug[1] and "private" not in debug[1]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    Path("file").touch()
    code, told = callforge("--debug", "refine", "--out", "file/refined", "--set", "data_refine.sample_size=5")
    assert code == 2 and "Traceback" in told and "file/refined: cannot be a stage folder (File exists)" in told
