"""Bad input through the real command: exit code 2, or 1 when a service fails later; one paragraph, no traceback."""

from __future__ import annotations

import gzip
import subprocess
from pathlib import Path

import pytest

RECORD = '{"id": "1", "source": "x", "messages": [{"role": "user", "content": "hi"}], "tools": [], "answers": []}\n'
NOBODY = "http://127.0.0.1:9"


def imports_of(done: subprocess.CompletedProcess[str]) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """What a command that ran with PYTHONPROFILEIMPORTTIME printed but for that, and the modules it imported."""
    printed, imported = [], set()
    for line in done.stderr.splitlines(keepends=True):
        if line.startswith("import time:"):
            imported.add(line.rpartition("|")[2].strip())
        else:
            printed.append(line)
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, "".join(printed)), imported


def check(done: subprocess.CompletedProcess[str], code: int, *words: str) -> None:
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert "Traceback" not in text and "pydantic" not in text, text
    for word in words:
        assert word in text, f"{word!r} is missing in: {text}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "egpo_rl.stepz=3"], ["egpo_rl.stepz", "did you mean steps?"]),
        (["--set", "egpo_rl.steps=many"], ["egpo_rl.steps", "integer", "many"]),
        (["--set", "egpo_rl.rollout.group_size=1"], ["egpo_rl.rollout.group_size", "greater than or equal to 2"]),
        (["--set", "egpo_rl.steps"], ["section.name=value"]),
        (["--set", "egpo_rl.steps=" + "[" * 5000], ["egpo_rl.steps", "integer"]),
        (["--data", "{{$.inputs}}"], ["data_refine.data", "placeholder of Kubeflow's"]),
        (["--profile", "huge"], ["huge", "demo, tiny, gpu"]),
        (["--profile", "gpu"], ["GPU", "--profile demo"]),
        (["--run-id", "a/b"], ["run.run_id", "a/b"]),
        (["--run-id", "x" * 300], ["run.run_id"]),
        (["--data", "~no-such-user/x"], ["data_refine.data", "~no-such-user/x"]),
        (["--artifact-root", "/tmp"], ["run.artifact_root", "s3://"]),
        (["--data-format", "parquet"], ["data_refine.data_format", "callforge", "xlam", "parquet"]),
        (["--unknown"], ["--unknown"]),
    ],
    ids=lambda value: " ".join(value) if value and value[0].startswith("--") else "",
)
def test_wrong_arguments_end_at_once(callforge, workplace, arguments, words):
    if arguments == ["--profile", "gpu"] and any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("this machine has a GPU")
    done, imported = imports_of(callforge("run", *arguments, PYTHONPROFILEIMPORTTIME="1"))
    check(done, 2, *words)
    assert not imported & {"torch", "mlflow", "kfp"}, "nothing may be started for this"
    assert not (workplace / ".callforge/services").exists()


def test_everything_wrong_is_told_at_once(callforge, tiny_run, tmp_path):
    done = callforge(
        *tiny_run, "--data", "nowhere.jsonl", "--base-model", "/nowhere/model", "--run-id", "wrong",
        MLFLOW_TRACKING_URI=NOBODY, AWS_ENDPOINT_URL_S3=NOBODY, MLFLOW_S3_ENDPOINT_URL=NOBODY,
    )  # fmt: skip
    check(done, 2, "nowhere.jsonl", "/nowhere/model", f"MLflow server answers at {NOBODY}", "s3://callforge/runs")
    assert "sft_warmup" not in done.stdout, "no stage begins"


def test_wrong_keys_for_s3_are_refused_before_the_work(callforge, tiny_run):
    done = callforge(*tiny_run, "--run-id", "keys", AWS_SECRET_ACCESS_KEY="wrong")
    check(done, 2, "s3://callforge/runs", "writing is refused", "AWS_SECRET_ACCESS_KEY does not fit")
    assert "wrong" not in (done.stdout + done.stderr).replace("is wrong", ""), "no secret in a message"


def test_a_gzip_that_breaks_later_ends_the_refinement(callforge, tiny_run, tmp_path):
    """Preflight reads only the first records."""
    data = tmp_path / "broken.jsonl.gz"
    data.write_bytes(gzip.compress(RECORD.encode() * 99)[:-12])
    check(
        callforge(*tiny_run, "--data", str(data), "--run-id", "gzip"),
        2,
        "data_refine        failed",
        "broken gzip",
        str(data),
    )


def test_records_of_which_none_is_good_end_the_refinement(callforge, tiny_run, workplace, tmp_path):
    """The first record is well-formed, so preflight lets it pass; no rule does."""
    data = tmp_path / "useless.jsonl"
    data.write_text(RECORD.replace('"answers": []', '"answers": [{"name": "no_such_tool", "arguments": {}}]'))
    done = callforge(*tiny_run, "--data", str(data), "--run-id", "useless")
    check(done, 2, "data_refine        failed", "useless.jsonl")
    assert not (workplace / ".callforge/runs/useless/data_refine/manifest.json").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sft", "--out", "o", "--records", "nowhere"], ["records", "nowhere"]),
        (["evaluate", "nowhere", "--out", "o"], ["model", "nowhere"]),
        (["promote", "no-such-model", "1"], ["no-such-model"]),
        (["rollback", "no-such-model"], ["no-such-model"]),
        (["submit", "--endpoint", NOBODY, "--profile", "demo"], ["demo", "gpu, gpu8, paper"]),
        (["submit", "--endpoint", NOBODY, "--parameter", "date=x"], ["date", "data"]),
        (["submit", "--endpoint", NOBODY], ["--parameter data"]),
        (["submit", "--endpoint", NOBODY, "--parameter", "data=sample"], [NOBODY]),
        (["upload", "--endpoint", "nonsense"], ["nonsense", "http(s)"]),
    ],
    ids=lambda value: " ".join(value) if value and "-" in " ".join(value) else "",
)
def test_other_commands(callforge, arguments, words):
    check(callforge(*arguments), 2, *words)


def test_a_folder_of_something_else_is_left_alone(callforge, workplace):
    precious = workplace / "precious"
    precious.mkdir()
    (precious / "notes.txt").write_text("mine")
    check(callforge("refine", "--out", str(precious)), 2, "not a folder of data_refine", "new or empty")
    assert (precious / "notes.txt").read_text() == "mine"


def test_a_defect_shows_its_traceback_with_debug_alone(callforge):
    check(callforge("run", "--profile", "huge"), 2)
    assert "Traceback" in callforge("--debug", "run", "--profile", "huge").stderr


def test_help_is_fast_and_tells_every_command(callforge):
    done, imported = imports_of(callforge("--help", PYTHONPROFILEIMPORTTIME="1"))
    for command in (
        "run", "refine", "sft", "egpo", "evaluate", "compare", "register", "compile", "upload", "submit", "promote",
        "rollback", "doctor", "ui",
    ):  # fmt: skip
        assert f" {command} " in done.stdout, command
    assert "typer" in imported
    assert not imported & {"torch", "mlflow", "kfp", "boto3"}, "start-up imports are heavy"
