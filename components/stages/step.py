"""What every KFP step does: settings from JSON, artifacts to paths, the stage, its page and metrics back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.errors import CallforgeError
from components.sections import read_section
from components.services.events import announce, library_warnings, trace
from components.settings import RunSettings, Settings
from components.stages.catalogue import Stage
from components.stages.execution import UnexpectedError, execute_stage, remove_checkpoints
from components.stages.local_run import join_run, run_folder


def run_step(
    stage: Stage,
    settings: str,
    run: str,
    inputs: Mapping[str, Any],
    output: Any,
    report: Any = None,
    metrics: Any = None,
) -> None:
    """Run `stage` for a KFP step.

    Args:
        settings: JSON of the stage's section; `run`: JSON of RunSettings.
        inputs: KFP input artifacts by name, each the folder of an earlier stage.
        output: KFP output artifact that stands for the stage folder; in a local run that is in the run directory.
        report, metrics: KFP HTML and Metrics artifacts, filled when given.

    Raises:
        SystemExit: with the error's exit code, after printing its paragraph.
    """
    join_run()
    section: Any = Settings.model_fields[stage.section].annotation
    try:
        if (run_directory := run_folder()) is not None:
            output.uri = str(run_directory / stage.name)
        folder = Path(output.path)
        with library_warnings():
            result = execute_stage(
                stage,
                read_section(section, json.loads(settings), stage.section),
                {name: Path(item.path) for name, item in inputs.items()},
                folder,
                read_section(RunSettings, json.loads(run), "run"),
                replace=True,
            )
    except CallforgeError as error:
        if isinstance(error, UnexpectedError) and error.__cause__ is not None:
            trace(error.__cause__)
        announce(stage.name, "failed", str(error))
        raise SystemExit(error.exit_code) from None
    if metrics is not None:
        for name, value in result.items():
            metrics.log_metric(name, value)
    if run_directory is None:
        remove_checkpoints(folder)
    page = folder / "report.html"
    if report is not None and page.exists():
        Path(report.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, report.path)
