"""The catalogue agrees with itself, with the settings and with the KFP steps."""

from __future__ import annotations

import re

import pytest

from components.settings import Settings
from components.stages.catalogue import NAMES, STAGES, Stage
from pipelines.steps import kfp_step


def test_names_tell_stages_apart_and_fit_wherever_they_are_written() -> None:
    assert len(set(NAMES)) == len(NAMES)
    # A folder, an S3 key, a metric's prefix in MLflow, a step of KFP.
    assert all(re.fullmatch(r"[a-z][a-z0-9_-]{0,40}", name) for name in NAMES)


@pytest.mark.parametrize("place", range(len(STAGES)), ids=NAMES[1:])
def test_a_stage_takes_what_stages_before_it_leave(place: int) -> None:
    before = {stage.name for stage in STAGES[:place]}
    assert set(STAGES[place].inputs.values()) <= before


@pytest.mark.parametrize("stage", STAGES, ids=NAMES[1:])
def test_a_stages_step_has_its_image_and_takes_its_inputs(stage: Stage) -> None:
    assert stage.section in Settings.model_fields
    component = kfp_step(stage).component_spec
    assert component.implementation.container.image == stage.image
    taken = {name for name, item in component.inputs.items() if item.is_artifact_list or "system" in str(item.type)}
    assert taken == stage.inputs.keys() and stage.output in component.outputs
