"""One stage by itself, as `callforge refine`, `sft`, `egpo`, `evaluate` and `register` run it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.files import exists
from components.preflight.checks import problems
from components.services.events import library_warnings
from components.services.mlflow_server import tracking_uri
from components.settings import ARTIFACT_ROOT_VARIABLE, read_assignment, resolve_settings
from components.stages.catalogue import Stage
from components.stages.execution import execute_stage
from components.stages.refined_records import with_records_file
from pipelines.console import console
from pipelines.named_models import model_folder
from pipelines.profiles import find_profile


def run_stage(
    stage: Stage,
    out: Path,
    inputs: dict[str, Path],
    profile: str,
    changes: list[str] | None,
    parameters: dict[str, Any],
    models: Mapping[str, str] | None = None,
) -> None:
    """Run one stage after the checks that concern it, and print its metrics.

    Args:
        inputs: folders by name.
        changes: settings as `--set` takes them, which win; then `parameters`, where they are not None.
        models: inputs by reference, fetched after the checks.

    Raises:
        InputError: everything that the checks found, a paragraph each.
        CallforgeError: as the stage raised it.
    """
    run_id = _own_run(stage.name, out)
    default = {"run.artifact_root": os.environ.get(ARTIFACT_ROOT_VARIABLE, ""), "run.run_id": run_id}
    given = {name: value for name, value in parameters.items() if value is not None}
    assigned = dict(read_assignment(text) for text in changes or [])
    settings = with_records_file(resolve_settings(default, find_profile(profile).settings, given, assigned))
    found = [f"{name} {path}: there is no such folder" for name, path in inputs.items() if not exists(path)]
    if found := found + problems(settings, (stage,), here=True):
        raise InputError("\n".join(found))

    if settings.run.artifact_root or tracking_uri():
        console.print(f"run {settings.run.run_id}")

    with library_warnings():
        inputs = inputs | {name: model_folder(reference) for name, reference in (models or {}).items()}
        metrics = execute_stage(stage, getattr(settings, stage.section), inputs, out, settings.run)
    for metric, value in metrics.items():
        console.print(f"{metric:<40} {value:g}")


def _own_run(stage: str, out: Path) -> str:
    """The run of a stage by itself: another for every folder and machine, lest it overwrite what others have in S3 and
    MLflow, and the same one when the command is given again."""
    place = os.fsencode(f"{os.uname().nodename}:{os.path.realpath(out)}")  # Path.resolve raises for circles of links
    return f"{stage}-{hashlib.sha256(place).hexdigest()[:8]}"
