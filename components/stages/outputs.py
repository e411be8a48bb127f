"""Where a stage writes: its folder, its curves, MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.files import atomic_write
from components.services.events import metric
from components.services.tracking import Tracker
from components.settings import RunSettings
from components.stages.catalogue import Stage
from components.stages.folder import CHECKPOINTS, METRICS


@dataclass(frozen=True)
class Outputs:
    """Where a stage writes: `folder` for its files, `log` for its curves, `log_table` for tables in MLflow."""

    folder: Path
    tracker: Tracker
    run: RunSettings
    stage: Stage
    input_digests: Mapping[str, str] = field(default_factory=dict)
    """Content of each input, by its name: what a checkpoint and a model card are tied to."""

    @property
    def checkpoints(self) -> Path:
        """Folder of the stage's checkpoints."""
        return self.folder / CHECKPOINTS

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl; the tracker sends the same numbers to MLflow, as `<stage>/<name>`."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        metric(step, metrics)

    def log_point(self, step: int, metrics: Mapping[str, float]) -> None:
        """Send numbers that few steps have to MLflow, as points of the curves `<stage>/<name>`."""
        self.tracker.log_metrics({f"{self.stage.name}/{name}": value for name, value in metrics.items()}, step)

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Send a table to MLflow, as `<stage>/<name>`."""
        self.tracker.log_table(rows, f"{self.stage.name}/{name}")

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of metrics.jsonl beyond `step`: a resumed run writes them again."""
        path = self.folder / METRICS
        if path.is_file():
            kept = [line for line in path.read_bytes().split(b"\n") if _step(line) <= step]
            with atomic_write(path, "wb") as file:
                file.writelines(line + b"\n" for line in kept)


def _step(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return float("inf")  # cut by a kill, or of another program
