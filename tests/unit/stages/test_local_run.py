"""One run in a run directory, and no step that outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import InputError
from components.stages.local_run import LOCK, RUN_FOLDER, STEPS, STOP, sole_run

PATIENCE = 100  # seconds: a test that waits for longer hangs
ROOT = Path(__file__).parents[3]
RUN = "import sys, time, pathlib; from components.stages.local_run import sole_run\n"
RUN += "with sole_run(pathlib.Path(sys.argv[1])): print('in', flush=True); time.sleep(600)"
STEP = "import time; from components.stages.local_run import join_run\njoin_run()\n"
STEP += "print('in', flush=True); time.sleep(600)"


@pytest.fixture
def start(tmp_path):
    """`start(code)`: a process in the run directory, after it said that it is in."""
    processes: list[subprocess.Popen[str]] = []

    def begin(code: str, *, ready: bool = True) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT, env={**os.environ, RUN_FOLDER: str(tmp_path)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        processes.append(process)
        if ready:
            assert process.stdout is not None and process.stdout.readline() == "in\n"
        return process

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def test_a_killed_run_takes_its_steps_with_it_before_another_begins(tmp_path, start):
    run = start(RUN)
    step = start(STEP)
    with pytest.raises(InputError, match="another process"), sole_run(tmp_path):
        pass
    assert step.poll() is None, "the refused one must not disturb the run"
    os.kill(run.pid, signal.SIGKILL)  # not waited for: a zombie is dead, too
    with sole_run(tmp_path):
        assert step.wait(PATIENCE) == -signal.SIGKILL


def test_a_step_that_begins_after_its_run_died_dies_at_once(tmp_path, start):
    (tmp_path / LOCK).touch()
    assert start(STEP, ready=False).wait(PATIENCE) == -signal.SIGKILL


def test_a_step_that_does_not_die_keeps_others_out(tmp_path, start, monkeypatch):
    monkeypatch.setattr("components.stages.local_run.DEATH_SECONDS", 0.2)
    hold = f"import fcntl, time\nfile = open('{tmp_path / STEPS}', 'w')\nfcntl.flock(file, fcntl.LOCK_SH)\n"
    start(hold + "print('in', flush=True)\ntime.sleep(600)")
    with pytest.raises(InputError, match="step of a killed run"), sole_run(tmp_path):
        pass


def test_no_step_begins_when_the_run_was_told_to_stop(tmp_path, start):
    start(RUN)
    (tmp_path / STOP).touch()
    assert start(STEP, ready=False).wait(PATIENCE) == 1


def test_the_next_run_is_not_stopped_by_the_last_ones_stop(tmp_path):
    (tmp_path / STOP).touch()
    with sole_run(tmp_path):
        assert not (tmp_path / STOP).exists()


def test_without_a_run_nothing_is_joined(monkeypatch):
    from components.stages.local_run import join_run, run_folder

    monkeypatch.delenv(RUN_FOLDER, raising=False)
    join_run()
    assert run_folder() is None
