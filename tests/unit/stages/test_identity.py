"""Which change of a setting keeps finished work, which goes on from its checkpoint, and which does it again."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.sections import Section, is_section
from components.settings import RunSettings, Settings, resolve_settings
from components.stages.catalogue import STAGES, find_stage
from components.stages.execution import execute_stage
from components.stages.identity import checkpoint_key
from components.stages.outputs import Outputs

KEEPS = {
    "data_refine.max_lines",
    "data_refine.max_unpacked_mb",
    "sft_warmup.micro_batch_size",
    "sft_warmup.checkpoint.every",
    "sft_warmup.checkpoint.keep",
    "egpo_rl.processes",
    "egpo_rl.shard_model",
    "egpo_rl.rollout.sampler_urls",
    "egpo_rl.update.unique_tokens_per_pass",
    "egpo_rl.update.gradient_checkpointing",
    "egpo_rl.update.max_bad_steps",
    "egpo_rl.checkpoint.every",
    "egpo_rl.checkpoint.keep",
    "bfcl_eval.batch_size",
    "bfcl_eval.sampler_urls",
}
"""Changing one of these finds the stage done."""
GOES_ON = {"egpo_rl.steps"}
"""Raising one of these goes on from the checkpoint."""
# Every other setting empties the folder and does the work again.


def leaves(section: type[Section], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in section.model_fields.items():
        if is_section(field.annotation):
            yield from leaves(field.annotation, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", field


ALL = dict(item for stage in STAGES for item in leaves(Settings.model_fields[stage.section].annotation, stage.section))


def other_value(name: str, field: Any, path: Path) -> Any:
    """Another allowed value of the setting."""
    value = field.default
    if name in ("data_refine.data", "bfcl_eval.records"):
        path.write_text("{}\n")
        return str(path)
    if typing.get_origin(field.annotation) is typing.Literal:
        return next(item for item in typing.get_args(field.annotation) if item != value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * 0.9 if value else 0.5
    if isinstance(value, tuple):
        return list(value[1:]) or ["http://other:8000"]
    return f"{value}2"


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_changed_setting_keeps_or_redoes_what_it_must(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found: list[bool] = []  # for each time the stage worked: whether a checkpoint was there

    def function(config: Section, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
        found.append(outputs.checkpoints.exists())
        outputs.checkpoints.mkdir(exist_ok=True)
        (outputs.checkpoints / "state").touch()
        (outputs.folder / "result").write_text("made")
        return {}

    section = name.partition(".")[0]
    stage = dataclasses.replace(find_stage(section), function=function, content=("result",))
    values: dict[str, Any] = {}
    for _ in range(2):
        config = getattr(resolve_settings(values), section)
        execute_stage(stage, config, {}, tmp_path / "stage", RunSettings(), replace=True)
        values = {name: other_value(name, ALL[name], tmp_path / "records.jsonl")}
    assert found == ([False] if name in KEEPS else [False, name in GOES_ON])


def test_the_table_names_settings_that_exist() -> None:
    assert ALL.keys() >= KEEPS | GOES_ON


def test_fewer_steps_are_other_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    found: list[int] = []

    def function(config: Section, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
        found.append(len(list(outputs.folder.glob("checkpoints/*"))))
        outputs.checkpoints.mkdir(exist_ok=True)
        (outputs.checkpoints / "state").touch()
        return {}

    stage = dataclasses.replace(find_stage("egpo_rl"), function=function, content=())
    for steps in (5, 3):
        config = resolve_settings({"egpo_rl.steps": steps}).egpo_rl
        execute_stage(stage, config, {}, tmp_path / "stage", RunSettings(), replace=True)
    assert found == [0, 0]


@pytest.mark.parametrize("change", ["version", "prompt"])
def test_another_version_of_stage_or_prompt_is_other_work(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    calls: list[str] = []

    def function(*_: Any) -> dict[str, float]:
        calls.append("worked")
        return {}

    stage = dataclasses.replace(find_stage("sft_warmup"), function=function, content=())
    config = Settings().sft_warmup
    execute_stage(stage, config, {}, tmp_path / "stage", RunSettings(), replace=True)
    if change == "version":
        stage = dataclasses.replace(stage, version=stage.version + 1)
    else:
        monkeypatch.setattr("components.stages.identity.PROMPT_VERSION", "another")
    execute_stage(stage, config, {}, tmp_path / "stage", RunSettings(), replace=True)
    assert len(calls) == 2


@pytest.mark.parametrize("change", ["version", "prompt", "input", "setting", "length"])
def test_a_checkpoint_is_of_the_same_work_but_for_its_length(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stage, settings, inputs = find_stage("egpo_rl"), {"egpo_rl.steps": 5}, {"model": "of one"}
    before = checkpoint_key(stage, resolve_settings(settings).egpo_rl, inputs)
    if change == "version":
        stage = dataclasses.replace(stage, version=stage.version + 1)
    elif change == "prompt":
        monkeypatch.setattr("components.stages.identity.PROMPT_VERSION", "another")
    elif change == "input":
        inputs = {"model": "of another"}
    else:
        settings |= {"egpo_rl.steps": 6} if change == "length" else {"egpo_rl.seed": 1}
    after = checkpoint_key(stage, resolve_settings(settings).egpo_rl, inputs)
    assert (before == after) == (change == "length")
