"""A run on this machine before and after its stages: what is in the run directory, and how a failure is reported."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest

from components.errors import InputError
from components.services.events import PROGRESS_FILE, read_event
from components.settings import Settings, resolve_settings
from components.stages.local_run import RUN_FOLDER
from pipelines.console import Console
from pipelines.local import RUNS, Request, changes, failure, run_here, this_command

ROOT = Path(__file__).parents[3]
RUN_ID = "broken"
JUNK = {
    "no JSON": b"{",
    "other bytes": b"\xff\xfe\x00",
    "a list of pairs": b'[["profile", "demo"], ["settings", {}]]',
    "a number": b"3",
    "null": b"null",
    "nested": b"[" * 200_000,
    "no settings": b'{"profile": "demo"}',
    "settings of another type": b'{"profile": "demo", "settings": [1]}',
    "profile of another type": b'{"profile": {"a": 1}, "settings": {}}',
    "an unknown profile": b'{"profile": "huge", "settings": {}}',
    "unknown settings": b'{"profile": "demo", "settings": {"egpo_rl": {"stepz": 1}}}',
    "values of another type": b'{"profile": "demo", "settings": {"egpo_rl": {"steps": {"a": [[[]]]}}}}',
    "a number that is too long": b'{"profile": "demo", "settings": {"egpo_rl": {"steps": 1' + b"0" * 5000 + b"}}}",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the run directory will be."""
    monkeypatch.chdir(tmp_path)
    return tmp_path / RUNS / RUN_ID


def refused(run_id: str = RUN_ID) -> str:
    console = Console(file=io.StringIO())
    with pytest.raises(InputError) as caught:
        run_here(Request(run_id=run_id), console)
    assert not Path(".callforge/services").exists(), "nothing may be started for this"
    return str(caught.value)


@pytest.mark.parametrize("content", JUNK.values(), ids=JUNK.keys())
def test_junk_in_a_runs_request_is_refused(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(content)
    assert len(refused()) < 1000


def test_a_run_begun_before_settings_were_renamed_says_how_to_begin_it_again(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"profile": "demo", "settings": {"egpo_rl": {"group_size": 8}}}')
    text = refused()
    assert "egpo_rl.group_size is now egpo_rl.rollout.group_size" in text and "--profile demo" in text


@pytest.mark.parametrize(
    ("change", "lines"),
    [
        ({}, []),
        ({"egpo_rl.checkpoint.every": 7}, ["egpo_rl.checkpoint.every was 10, is 7"]),
        (
            {"egpo_rl.update.learning_rate": 1e-6, "bfcl_eval.batch_size": 1},
            [
                "egpo_rl.update.learning_rate was 2e-05, is 1e-06",
                "bfcl_eval.batch_size was 8, is 1",
                "so egpo_rl and what follows from it is done again",
            ],
        ),
        (
            {"egpo_rl.steps": 300},
            [
                "egpo_rl.steps was 200, is 300",
                "so egpo_rl goes on from its last checkpoint, and what follows from it is done again",
            ],
        ),
        (
            {"egpo_rl.steps": 100},
            ["egpo_rl.steps was 200, is 100", "so egpo_rl and what follows from it is done again"],
        ),
        (
            {"egpo_rl.steps": 300, "egpo_rl.seed": 1},
            [
                "egpo_rl.steps was 200, is 300",
                "egpo_rl.seed was 0, is 1",
                "so egpo_rl and what follows from it is done again",
            ],
        ),
    ],
)
def test_a_run_that_goes_on_with_other_settings_says_what_they_cost(change: dict, lines: list[str]) -> None:
    remembered = Settings().model_dump(mode="json")
    assert list(changes(remembered, resolve_settings(change))) == lines


def _circle(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.symlink_to(folder)


def _file(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    folder.touch()


def _folder_for(name: str) -> None:
    (RUNS / RUN_ID / name).mkdir(parents=True)


@pytest.mark.parametrize(
    "make",
    [
        _circle,
        _file,
        *(lambda _, name=name: _folder_for(name) for name in ("run.json", "progress.jsonl", ".lock", ".steps")),
        lambda folder: (folder.mkdir(parents=True), (folder / "egpo_rl").touch()),
        lambda folder: (folder.mkdir(parents=True), (folder / "run.json").symlink_to("run.json")),
    ],
)
def test_what_cannot_be_a_run_directory_is_refused_by_its_name(folder: Path, make) -> None:
    make(folder)
    assert str(folder) in refused()


def test_a_run_id_that_no_file_system_takes_is_refused() -> None:
    assert "run.run_id" in refused("x" * 300)


def test_a_failed_stage_has_the_last_word(folder: Path) -> None:
    (folder / "egpo_rl").mkdir(parents=True)
    (folder / "egpo_rl" / "error.json").write_text('{"stage": "egpo_rl", "message": "no rollouts", "exit_code": 2}')
    error = failure(folder, "egpo_rl", "something else")
    assert (str(error), error.exit_code) == ("egpo_rl: no rollouts", 2)


@pytest.mark.parametrize("content", [*JUNK.values(), b'{"message": "x", "exit_code": "many"}'])
def test_junk_in_the_place_of_a_reason_is_passed_over(folder: Path, content: bytes) -> None:
    (folder / "egpo_rl").mkdir(parents=True)
    (folder / "egpo_rl" / "error.json").write_bytes(content)
    error = failure(folder, "egpo_rl", "why it was")
    assert str(error).startswith("egpo_rl: why it was; its log is ") and error.exit_code == 1


def test_a_full_disk_is_named_where_nothing_could_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir(parents=True)
    assert "killed (out of memory?)" in str(failure(folder, "egpo_rl", ""))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(10**9, 10**9, 1000 if place == folder else 10**9))
    error = str(failure(folder, "egpo_rl", ""))
    assert "the disk is full (0 MB free in " in error and str(folder) in error and "out of memory" not in error


def test_what_fails_in_kfp_itself_is_told(folder: Path) -> None:
    """KFP's local runner takes such a text for one of its own placeholders."""
    folder.mkdir(parents=True)
    request = {"profile": "tiny", "settings": {"data_refine.data": "{{$.inputs}}"}}
    (folder / "run.json").write_text(json.dumps(request))
    (folder / ".lock").touch()
    progress = folder / "progress.jsonl"
    environment = {RUN_FOLDER: str(folder), PROGRESS_FILE: str(progress), "PYTHONPATH": str(ROOT)}
    holder = "import fcntl, subprocess, sys; lock = open(sys.argv[1] + '/.lock', 'r+')\n"
    holder += "fcntl.flock(lock, fcntl.LOCK_EX)\n"
    holder += "sys.exit(subprocess.call([sys.executable, '-m', 'pipelines.local_pipeline', sys.argv[1]]))"
    done = subprocess.run(
        [sys.executable, "-c", holder, str(folder)], env=os.environ | environment, capture_output=True, text=True
    )
    assert done.returncode == 1 and "Traceback" in done.stdout
    events = [read_event(line) for line in progress.read_bytes().splitlines()]
    assert events[-1].event == "failed" and events[-1].stage == "pipeline" and "IndexError" in events[-1].text


def test_commands_are_named_as_they_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = tmp_path / "env" / "callforge", tmp_path / "other" / "callforge"
    for path in (ours, other):
        path.parent.mkdir()
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(ours.with_name("python")))
    for found, typed in ((ours, "callforge"), (other, "env/callforge"), (tmp_path / "none", "env/callforge")):
        monkeypatch.setenv("PATH", str(found.parent))
        assert this_command() == typed
