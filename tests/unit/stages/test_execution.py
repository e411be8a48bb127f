"""The stage contract: done work is not done again, other work is, and an unfinished stage goes on."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.errors import InputError, WorkError
from components.files import atomic_write, write_json
from components.settings import DataRefineSettings, RunSettings
from components.stages.catalogue import find_stage
from components.stages.execution import UnexpectedError, execute_stage
from components.stages.folder import describe, input_digest, sole_owner, verified_manifest
from components.stages.outputs import Outputs

Stage = Callable[..., dict[str, float]]


@pytest.fixture(autouse=True)
def _no_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def calls() -> list[int]:
    return []


@pytest.fixture
def stage(tmp_path: Path, calls: list[int]) -> Stage:
    """`stage(seed=.., inputs=.., fail=.., replace=..)` runs a stage that counts its calls and leaves a checkpoint."""

    def call(
        inputs: Mapping[str, Path] | None = None,
        fail: BaseException | None = None,
        replace: bool = True,
        **settings: Any,
    ) -> dict[str, float]:
        def function(config: DataRefineSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
            calls.append(len(list(outputs.folder.glob("checkpoints/*"))))
            outputs.log(1, {"loss": 0.5})
            outputs.checkpoints.mkdir(exist_ok=True)
            (outputs.checkpoints / f"{len(calls)}").touch()
            (outputs.folder / "result.txt").write_text(f"seed {config.seed}")
            if fail:
                raise fail
            return {"accepted": 3.0}

        config, folder = DataRefineSettings(**settings), tmp_path / "stage"
        stage = dataclasses.replace(find_stage("data_refine"), function=function, content=("result.txt",))
        return execute_stage(stage, config, inputs or {}, folder, RunSettings(), replace=replace)

    return call


@pytest.mark.parametrize("config", [None, '{"model_type": "llama"}', '{"stage": "sft_warmup"}', "no json"])
def test_a_folder_of_something_else_is_left_alone(stage: Stage, tmp_path: Path, config: str | None) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage/precious.txt").write_text("mine")
    if config is not None:
        (tmp_path / "stage/config.json").write_text(config)
    with pytest.raises(InputError, match="not a folder of data_refine"):
        stage()
    assert (tmp_path / "stage/precious.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe", b"null", b"[]", b"[" * 100_000, b'{"stage": "data_refine"}', b'{"stage": ["data_refine"]}'],
    ids=["empty", "bytes", "null", "list", "deep", "missing keys", "wrong type"],
)
def test_junk_in_config_is_not_ours_and_says_why(stage: Stage, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage/config.json").write_bytes(content)
    with pytest.raises(InputError, match=r"not a folder of data_refine, .*config\.json: "):
        stage()
    assert (tmp_path / "stage/config.json").read_bytes() == content
    assert [path.name for path in (tmp_path / "stage").iterdir()] == ["config.json"]


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[]",
        b"[" * 100_000,
        b"{}",
        b'{"files": [], "stage": 1}',
        b'{"stage":"data_refine","work":"","content":"","files":{"x":{"size":"1","sha256":null}},"metrics":{}}',
    ],
    ids=["bytes", "list", "deep", "empty", "types", "entry"],
)
def test_junk_in_the_manifest_means_not_finished(
    stage: Stage, calls: list[int], tmp_path: Path, content: bytes
) -> None:
    stage()
    (tmp_path / "stage/manifest.json").write_bytes(content)
    stage()
    assert len(calls) == 2 and verified_manifest(tmp_path / "stage") is not None


@pytest.mark.parametrize("name", ["x" * 300, "loop/stage"])
def test_a_folder_that_cannot_be_one_is_refused_in_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(InputError, match="cannot be a stage folder"):
        execute_stage(find_stage("data_refine"), DataRefineSettings(), {}, tmp_path / name, RunSettings())


@pytest.mark.parametrize("target", ["stage", "nowhere"])
def test_a_link_that_leads_nowhere_is_no_folder(stage: Stage, tmp_path: Path, target: str) -> None:
    (tmp_path / "stage").symlink_to(tmp_path / target)
    with pytest.raises(InputError, match="not a folder of data_refine"):
        stage()


def test_a_folder_has_one_owner(stage: Stage, tmp_path: Path) -> None:
    with sole_owner(tmp_path / "stage"), pytest.raises(InputError, match="another process is at work there"):
        stage()
    assert stage() == {"accepted": 3.0}


def test_a_file_in_the_place_of_the_folder_is_left_alone(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "stage").write_text("mine")
    with pytest.raises(InputError, match="not a folder of data_refine"):
        stage()


def test_a_finished_stage_is_not_done_again(stage: Stage, calls: list[int]) -> None:
    assert stage() == {"accepted": 3.0}
    assert stage() == {"accepted": 3.0}
    assert len(calls) == 1


@pytest.mark.parametrize("damage", ["changed", "missing", "cut manifest"])
def test_a_damaged_stage_is_done_again(stage: Stage, calls: list[int], tmp_path: Path, damage: str) -> None:
    stage()
    folder = tmp_path / "stage"
    if damage == "changed":
        (folder / "result.txt").write_text("seed 1")
    elif damage == "missing":
        (folder / "result.txt").unlink()
    else:
        (folder / "manifest.json").write_text('{"files"')
    stage()
    assert len(calls) == 2
    assert verified_manifest(folder) is not None


def test_other_settings_start_from_an_empty_folder(stage: Stage, calls: list[int], tmp_path: Path) -> None:
    stage(seed=0)
    stage(seed=1)
    assert calls == [0, 0]  # no checkpoint of the other work
    assert (tmp_path / "stage" / "result.txt").read_text() == "seed 1"
    assert len((tmp_path / "stage" / "metrics.jsonl").read_text().splitlines()) == 1


def test_other_work_is_not_lost_unless_asked(stage: Stage, calls: list[int], tmp_path: Path) -> None:
    stage(seed=0)
    with pytest.raises(InputError, match=r"other work of data_refine \(seed was 0, is 1\); name a new folder"):
        stage(seed=1, replace=False)
    assert stage(seed=0, replace=False) == {"accepted": 3.0}
    assert len(calls) == 1


@pytest.mark.parametrize("left", [".config.json.x7", "error.json"])
def test_what_a_kill_before_the_start_leaves_stops_nobody(stage: Stage, tmp_path: Path, left: str) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "stage" / left).write_text("")
    assert stage() == {"accepted": 3.0}


def test_a_removal_that_was_killed_is_no_folder_half_there(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, **_: Any) -> None:
        if path.exists():
            (path / "config.json").unlink()
            raise KeyboardInterrupt

    stage(seed=0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("shutil.rmtree", killed)
        stage(seed=1)
    assert stage(seed=1) == {"accepted": 3.0}
    assert [path.name for path in tmp_path.iterdir()] == ["stage"]


def test_an_input_is_known_by_its_content(stage: Stage, calls: list[int], tmp_path: Path) -> None:
    for name, text in (("one", "a"), ("two", "a"), ("three", "b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(text)
        stage(inputs={"records": tmp_path / name})
    assert len(calls) == 2


def test_data_that_settings_name_is_known_by_its_content(
    stage: Stage, calls: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("a", "a", "b"):
        (tmp_path / "records.jsonl").write_text(text)
        stage(data="~/records.jsonl")
    assert len(calls) == 2
    with pytest.raises(InputError, match="missing: cannot be read"):
        stage(data=str(tmp_path / "missing"))


def test_a_failed_stage_says_so_and_goes_on_from_its_checkpoint(stage: Stage, calls: list[int], tmp_path: Path) -> None:
    with pytest.raises(WorkError):
        stage(fail=WorkError("the store went away"))
    error = json.loads((tmp_path / "stage" / "error.json").read_text())
    assert error == {"stage": "data_refine", "message": "the store went away", "exit_code": 1}
    assert verified_manifest(tmp_path / "stage") is None
    stage()
    assert calls == [0, 1]
    assert not (tmp_path / "stage" / "error.json").exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "added", "no manifest"])
def test_an_input_that_is_not_what_its_stage_wrote_is_refused(
    stage: Stage, calls: list[int], tmp_path: Path, damage: str
) -> None:
    stage()
    source = tmp_path / "records"
    (tmp_path / "stage").rename(source)
    if damage == "cut":
        (source / "result.txt").write_text("se")
    elif damage == "changed":
        (source / "result.txt").write_text("seed 9")
    elif damage == "added":
        (source / "more.txt").write_text("more")
    else:
        (source / "manifest.json").unlink()
    with pytest.raises(InputError, match=r"not what data_refine wrote|has not finished"):
        stage(inputs={"records": source})
    assert len(calls) == 1


def test_finished_work_on_an_input_that_was_cut_since_is_not_done_already(stage: Stage, tmp_path: Path) -> None:
    stage()
    source = tmp_path / "records"
    (tmp_path / "stage").rename(source)
    stage(inputs={"records": source})
    (source / "result.txt").write_text("")
    with pytest.raises(InputError, match=r"result\.txt has 0 bytes instead of 6"):
        stage(inputs={"records": source})


def test_pages_and_places_are_no_part_of_an_input(stage: Stage, tmp_path: Path) -> None:
    """The same work in two folders, whose reports draw other timings, is the same input."""
    digests = []
    for name in ("one", "two"):
        stage()
        (tmp_path / "stage/report.html").write_text(f"took {name} seconds")
        manifest = describe(tmp_path / "stage", "data_refine", "work", ("result.txt",), {})
        write_json(tmp_path / "stage/manifest.json", manifest.model_dump())
        (tmp_path / "stage").rename(tmp_path / name)
        digests.append(input_digest("records", tmp_path / name))
    assert digests[0] == digests[1]


def test_a_stage_that_leaves_nothing_has_not_finished(tmp_path: Path) -> None:
    stage = dataclasses.replace(find_stage("data_refine"), function=lambda *_: {}, content=("model/**/*",))
    with pytest.raises(WorkError, match=r"ended without leaving model"):
        execute_stage(stage, DataRefineSettings(), {}, tmp_path / "stage", RunSettings())
    assert verified_manifest(tmp_path / "stage") is None


def test_an_attempt_that_left_nothing_claims_nothing(tmp_path: Path) -> None:
    """A wrong model is refused by the stage itself; the corrected command is not other work."""

    def refuse(*_: Any) -> dict[str, float]:
        raise InputError("model: there is none")

    stage, folder = find_stage("data_refine"), tmp_path / "stage"
    with pytest.raises(InputError, match="there is none"):
        execute_stage(
            dataclasses.replace(stage, function=refuse), DataRefineSettings(seed=1), {}, folder, RunSettings()
        )
    assert {path.name for path in folder.iterdir()} == {"error.json"}
    works = dataclasses.replace(stage, function=lambda *_: {"accepted": 1.0}, content=())
    assert execute_stage(works, DataRefineSettings(seed=2), {}, folder, RunSettings()) == {"accepted": 1.0}


class PanicException(BaseException):
    """As a panic of a library in Rust reaches Python."""


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk of .* is full"),
        (ValueError("two\nlines"), "^ValueError: two lines"),
        (MemoryError(), "out of memory"),
        (RecursionError("maximum recursion depth exceeded"), "RecursionError"),
        (PanicException("called `unwrap()`"), "PanicException: called"),
    ],
    ids=["disk", "value", "memory", "recursion", "panic"],
)
def test_any_exception_reaches_error_json_in_one_line(
    stage: Stage, tmp_path: Path, error: BaseException, words: str
) -> None:
    with pytest.raises(UnexpectedError, match=words) as caught:
        stage(fail=error)
    assert caught.value.__cause__ is error, "the log gets its traceback"
    reason = json.loads((tmp_path / "stage" / "error.json").read_text())
    assert reason["exit_code"] == 1 and "\n" not in reason["message"]
    assert stage() == {"accepted": 3.0}


def test_a_missing_input_is_named(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        stage(inputs={"records": tmp_path / "missing"})
    assert json.loads((tmp_path / "stage/error.json").read_text())["exit_code"] == 2
    assert stage() == {"accepted": 3.0}


def test_the_manifest_counts_outputs_and_not_checkpoints(stage: Stage, tmp_path: Path) -> None:
    stage()
    manifest = verified_manifest(tmp_path / "stage")
    assert manifest is not None
    assert set(manifest.files) == {"result.txt"}


def test_metrics_beyond_a_checkpoint_are_forgotten(tmp_path: Path) -> None:
    from components.services.tracking import Tracker

    outputs = Outputs(tmp_path, Tracker(), RunSettings(), find_stage("egpo_rl"))
    for step in (1, 2, 3):
        outputs.log(step, {"reward": step / 10})
    others = [b"\xff", b"3", b"{}", b'{"step": null}', b'{"step": ' + b"9" * 400 + b"}", b"[" * 100_000]
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.writelines(line + b"\n" for line in others)
        file.write(b'{"step": 4, "rew')  # a kill in the middle of a line
    outputs.forget_metrics_after(2)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_write(path) as file:
        file.write("new")
        raise KeyError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
