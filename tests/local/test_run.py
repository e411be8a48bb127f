"""The whole pipeline under kfp.local: it ends with everything it promises, and goes on after SIGKILL in any stage."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from components.stages.catalogue import NAMES
from components.stages.folder import verified_manifest
from components.stages.local_run import STEPS
from components.stages.publishing import resolve_published


@pytest.fixture(scope="module")
def finished(callforge, tiny_run, workplace) -> tuple[Path, str]:
    """A run that nobody disturbed: its directory and what it printed."""
    done = callforge(*tiny_run, "--run-id", "calm")
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(workplace / ".callforge/runs/calm", workplace / "untouched/calm")
    return workplace / ".callforge/runs/calm", done.stdout


def test_every_stage_leaves_a_verified_folder(finished):
    folder, _ = finished
    for stage in NAMES:
        assert verified_manifest(folder / stage) is not None, stage
        assert (folder / stage / "metrics.jsonl").exists()
    for stage in NAMES[1:]:
        assert "</html>" in (folder / stage / "report.html").read_text()


def test_the_terminal_tells_stages_scores_and_places(finished):
    folder, text = finished
    for stage in NAMES:
        assert f"{stage:<18} done in" in text
    for words in ("Evaluation, run calm", "own records: calls", "simple_python", "EGPO"):
        assert words in text
    assert "callforge-tiny version 1, alias candidate" in text
    assert "calm/index.html" in text and "ask calm" in text
    assert "/#/experiments/" in text and str(folder.name) in text
    assert "Executing task" not in text, "KFP's own chatter belongs into kfp.log"


def test_the_page_of_the_run_leads_to_all_pages(finished):
    folder, _ = finished
    found = re.findall('href="(.+?)"', (folder / "index.html").read_text())
    assert sorted(found) == sorted(path.relative_to(folder).as_posix() for path in folder.glob("*_*/**/report.html"))
    assert {f"{stage}/report.html" for stage in NAMES[1:]} <= set(found)


def test_s3_and_mlflow_hold_the_results(finished, services, monkeypatch):
    folder, _ = finished
    for name, value in services.items():
        monkeypatch.setenv(name, value)
    from components.services.mlflow_server import find_run, mlflow_client
    from components.services.storage import names_below
    from components.settings import RunSettings

    registration = json.loads((folder / "model_registration/registration.json").read_text())
    for stage in NAMES[1:]:
        assert "manifest.json" in names_below(resolve_published(f"s3://callforge/runs/calm/{stage}")), stage
    assert "model.safetensors" in names_below(registration["source"])
    client = mlflow_client()
    version = client.get_model_version_by_alias("callforge-tiny", "candidate")
    assert version.source == registration["source"]
    _, run_id = find_run(RunSettings(run_id="calm"))
    assert len(client.get_metric_history(run_id, "egpo_rl/reward")) == 2
    assert len(client.get_metric_history(run_id, "sft_warmup/loss")) == 3


def test_a_finished_run_is_not_done_again(finished, callforge):
    folder, _ = finished
    before = _state(folder, NAMES[1:])
    again = callforge("run", "--run-id", "calm")
    assert again.returncode == 0, again.stdout + again.stderr
    assert again.stdout.count("done already") == len(NAMES) - 1
    assert _state(folder, NAMES[1:]) == before


def test_a_changed_setting_is_said_and_redoes_its_stage_alone(finished, callforge):
    folder, _ = finished
    before = _state(folder, NAMES[1:5])
    request = json.loads((folder / "run.json").read_text())
    del request["settings"]["bfcl_eval"]["seed"]  # as a version left it that had no such setting
    (folder / "run.json").write_text(json.dumps(request))
    changed = callforge("run", "--run-id", "calm", "--set", "model_registration.alias=shadow")
    assert changed.returncode == 0, changed.stdout + changed.stderr
    assert "model_registration.alias was candidate, is shadow" in changed.stdout
    assert "bfcl_eval.seed is new since this run began: 0" in changed.stdout
    assert "bfcl_eval          done already" in changed.stdout and "model_registration done in" in changed.stdout
    assert "callforge-tiny version 1, alias candidate and shadow" in changed.stdout, (
        "the same weights are the same version"
    )
    assert _state(folder, NAMES[1:5]) == before


def test_killed_in_every_stage_it_ends_the_same(finished, tiny_run, workplace, environment, callforge):
    folder = workplace / ".callforge/runs/killed"
    moments: dict[str, Callable[[], bool]] = {
        "data_refine": lambda: (folder / "data_refine/config.json").exists(),
        "sft_warmup": lambda: any((folder / "sft_warmup/checkpoints").glob("*")),
        "egpo_rl": lambda: any((folder / "egpo_rl/checkpoints").glob("*")),
        "bfcl_eval": lambda: any((folder / "bfcl_eval/checkpoints").glob("*.jsonl")),
        "model_registration": lambda: (folder / "model_registration/config.json").exists(),
    }
    arguments = [*tiny_run, "--run-id", "killed"]
    before: dict[str, object] = {}
    for place, (stage, reached) in enumerate(moments.items()):
        _run_until(arguments, workplace, environment, reached)
        assert not (folder / stage / "manifest.json").exists(), f"{stage} was finished before it could be killed"
        _wait_for_steps_to_die(folder)
        assert _state(folder, before) == before, "a finished stage was touched"
        arguments = ["run", "--run-id", "killed"]  # the rest is remembered
        before = _state(folder, NAMES[1 : 1 + place])
    end = callforge(*arguments)
    assert end.returncode == 0, end.stdout + end.stderr
    calm = workplace / "untouched/calm"  # as it was before other tests changed its settings
    for stage in ("sft_warmup", "egpo_rl"):
        assert _sha(folder, stage, "model/adapter_model.safetensors") == _sha(
            calm, stage, "model/adapter_model.safetensors"
        ), stage
    assert _sha(folder, "data_refine", "qualified.jsonl.gz") == _sha(calm, "data_refine", "qualified.jsonl.gz")
    # Another run, killed five times: equal content in every stage, and a registration that differs only in what must.
    for stage in NAMES[1:-1]:
        manifests = [verified_manifest(place / stage) for place in (folder, calm)]
        assert manifests[0].content == manifests[1].content, stage
    assert _registration(folder) == _registration(calm)
    for stage, names in (("sft_warmup", ("loss",)), ("egpo_rl", ("reward", "length", "entropy_answer"))):
        assert _curves(folder / stage, names) == _curves(calm / stage, names), stage


def test_a_run_at_work_keeps_others_out_and_ends_on_ctrl_c(tiny_run, workplace, environment, callforge):
    folder = workplace / ".callforge/runs/busy"
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *tiny_run, "--run-id", "busy"],
        cwd=workplace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        # A shell's background jobs are started deaf to Ctrl-C, and their children stay so.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    _wait(lambda: (folder / "data_refine/config.json").exists(), process)
    second = callforge(*tiny_run, "--run-id", "busy")
    assert second.returncode == 2 and "another process is working on it" in second.stderr
    process.send_signal(signal.SIGINT)
    text, _ = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "callforge run --run-id busy" in text and "Traceback" not in text
    _wait_for_steps_to_die(folder)


def _registration(folder: Path) -> dict[str, object]:
    """registration.json without the run's own id, version and pages."""
    text = (folder / "model_registration/registration.json").read_text().replace(f"/runs/{folder.name}/", "/runs/RUN/")
    registration = json.loads(text)
    tags = {name: value for name, value in registration["tags"].items() if name != "callforge.run_id"}
    return {name: value for name, value in registration.items() if "page" not in name and name != "version"} | {
        "tags": tags
    }


def _run_until(arguments: list[str], workplace: Path, environment: dict[str, str], reached: Callable[[], bool]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.cli", *arguments],
        cwd=workplace, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _wait(reached, process)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def _wait(reached: Callable[[], bool], process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600
    while not reached():
        assert process.poll() is None, "the run ended before the moment came"
        assert time.monotonic() < deadline, "the moment did not come"
        time.sleep(0.01)


def _wait_for_steps_to_die(folder: Path) -> None:
    """Nobody may work in the directory of a killed run."""
    deadline = time.monotonic() + 100
    with (folder / STEPS).open() as file:
        while True:
            try:
                return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                assert time.monotonic() < deadline, "a step outlived its run"
                time.sleep(0.02)


def _state(folder: Path, stages) -> dict[str, object]:
    """Inode and modification time of every file of the stages."""
    return {
        stage: sorted(
            (str(path), path.stat().st_ino, path.stat().st_mtime_ns)
            for path in (folder / stage).rglob("*")
            if path.is_file()
        )
        for stage in stages
    }


def _curves(folder: Path, names) -> list[list[float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [[line.get(name) for name in ("step", *names)] for line in lines]


def _sha(folder: Path, stage: str, name: str) -> str:
    return json.loads((folder / stage / "manifest.json").read_text())["files"][name]["sha256"]
