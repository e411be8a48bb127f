"""One stage of a run: its folder, its metrics, its manifest, and the rule that a finished stage is not redone.

A stage folder holds `config.json` (settings and the digests of its inputs), `metrics.jsonl` (one object a line),
`manifest.json` (size and sha256 of every output, written last) and the outputs. What the stage computes is none
of this module's business.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from components.errors import CallforgeError, InputError
from components.files import atomic_write, sha256_of_file, sha256_of_json, write_json
from components.sections import Section, read_section
from components.services.events import announce, library_warnings, metric
from components.services.storage import content_tag, files_of, upload_file, upload_folder
from components.services.tracking import Tracker, open_tracker
from components.settings import RunSettings
from components.stages.local_run import join_run, run_folder

CONFIG, METRICS, MANIFEST, ERROR = "config.json", "metrics.jsonl", "manifest.json", "error.json"
CHECKPOINTS = "checkpoints"  # state to go on from, not an output: neither in the manifest nor uploaded
AnyConfig = TypeVar("AnyConfig", bound=Section)


@dataclass(frozen=True)
class Outputs:
    """Where a stage writes: `folder` for its files, `log` for its curves, `tracker` for tables and pages."""

    folder: Path
    tracker: Tracker
    run: RunSettings
    stage: str

    @property
    def checkpoints(self) -> Path:
        """Folder of the stage's checkpoints."""
        return self.folder / CHECKPOINTS

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to metrics.jsonl and send the same numbers to MLflow as `<stage>/<name>`."""
        with (self.folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        self.tracker.log_metrics({f"{self.stage}/{name}": value for name, value in metrics.items()}, step)
        metric(step, metrics)

    def forget_metrics_after(self, step: int) -> None:
        """Drop the lines of metrics.jsonl beyond `step`: a resumed run writes them again."""
        path = self.folder / METRICS
        if path.exists():
            kept = [line for line in path.read_text("utf-8").splitlines() if _step(line) <= step]
            with atomic_write(path) as file:
                file.writelines(line + "\n" for line in kept)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return float("inf")  # a line cut by a kill


StageFunction = Callable[[AnyConfig, Mapping[str, Path], Outputs], Mapping[str, float]]


def execute_stage(
    stage: str,
    function: StageFunction[AnyConfig],
    config: AnyConfig,
    inputs: Mapping[str, Path],
    folder: Path,
    run: RunSettings,
    *,
    replace: bool = False,
) -> dict[str, float]:
    """Run one stage in `folder` unless its manifest says that the same work is done there already.

    The same work means: equal settings and inputs of equal content, those that settings name included. A folder with
    the same unfinished work is handed to the stage as it is, so that it resumes.

    Args:
        replace: empty a folder with other work of this stage in it, as a run does whose settings were changed.

    Returns:
        The stage's final metrics.

    Raises:
        InputError: `folder` holds something that no run of this stage wrote, or other work that may not be replaced.
        CallforgeError: as the stage raised it; `error.json` then holds its text and exit code.
    """
    announce(stage, "started")
    earlier = _earlier_config(folder, stage)
    try:
        config_value: dict[str, Any] = {
            "stage": stage,
            "settings": config.model_dump(mode="json"),
            "inputs": {name: content_digest(path) for name, path in inputs.items()}
            | {name: content_tag(uri) for name, uri in config.inputs().items()},
        }
        manifest = verified_manifest(folder, config_value)
        if manifest is not None:
            (folder / ERROR).unlink(missing_ok=True)
            announce(stage, "skipped")
            return dict(manifest["metrics"])
        # A folder that is replaced is renamed before it is deleted: a kill must not leave it half there under its name.
        doomed = folder.with_name(f".{folder.name}.old")
        shutil.rmtree(doomed, ignore_errors=True)
        if earlier is not None and earlier != config_value:
            if not replace:
                raise InputError(
                    f"{folder}: it holds other work of {stage} ({_changes(earlier, config_value)}); name a new folder, "
                    "or remove this one"
                )
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ERROR).unlink(missing_ok=True)
        write_json(folder / CONFIG, config_value)
        (folder / METRICS).touch()
        with open_tracker(run, stage) as tracker:
            tracker.log_params({f"{stage}/{name}": value for name, value in config_value["settings"].items()})
            metrics = dict(function(config, inputs, Outputs(folder, tracker, run, stage)))
            tracker.log_metrics({f"{stage}/final/{name}": value for name, value in metrics.items()}, None)
            for page in sorted(folder.glob("*.html")):
                tracker.log_artifact(page, stage)
            # The manifest takes its name here, and its place in S3, when everything it names is there.
            manifest_path = folder / f".{MANIFEST}"
            write_json(manifest_path, {"stage": stage, "files": file_table(folder), "metrics": metrics})
            if run.artifact_root:
                uri = f"{run.artifact_root}/{run.run_id}/{stage}"
                upload_folder(folder, uri, skip=(CHECKPOINTS, MANIFEST))
                upload_file(manifest_path, f"{uri}/{MANIFEST}")
    except CallforgeError as error:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / ERROR, {"stage": stage, "message": str(error), "exit_code": error.exit_code})
        raise
    manifest_path.replace(folder / MANIFEST)
    announce(stage, "done")
    return metrics


def _earlier_config(folder: Path, stage: str) -> Any:
    """The config.json of an earlier run of the stage in `folder`; None when there was none. Others' files stay."""
    # Before config.json has its name, a stage that was killed or refused leaves these two alone.
    ours_alone = folder.is_dir() and all(path.name.startswith(".") or path.name == ERROR for path in folder.iterdir())
    if ours_alone or not folder.exists():
        return None
    earlier = _read_json(folder / CONFIG) if folder.is_dir() else None
    if not isinstance(earlier, dict) or earlier.get("stage") != stage:
        raise InputError(f"{folder}: it is not a folder of {stage}, and would be overwritten; name a new or empty one")
    return earlier


def _changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two config.json, in words."""
    before, after = earlier["settings"], now["settings"]
    changed = [f"{name} was {before.get(name)}, is {after[name]}" for name in after if before.get(name) != after[name]]
    other_inputs = [f"other {name}" for name in now["inputs"] if earlier["inputs"].get(name) != now["inputs"][name]]
    return "; ".join(changed + other_inputs) or "of another version"


def verified_manifest(folder: Path, config_value: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """The manifest when every file it names is there unchanged (and config.json equals `config_value`), else None."""
    manifest = _read_json(folder / MANIFEST)
    if manifest is None or (config_value is not None and _read_json(folder / CONFIG) != config_value):
        return None
    return manifest if manifest["files"] == file_table(folder) else None


def content_digest(path: Path) -> str:
    """What identifies an input: a stage folder by its manifest's files, another folder or file by its bytes."""
    if not path.exists():
        raise InputError(f"input {path}: there is no such file or folder")
    if path.is_file():
        return sha256_of_file(path)
    return sha256_of_json((_read_json(path / MANIFEST) or {}).get("files") or file_table(path))


def file_table(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and sha256 of every output of a stage folder, by relative path: what a manifest holds."""
    return {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": sha256_of_file(path)}
        for path in files_of(folder, skip=(CHECKPOINTS,))
        if path.name not in (MANIFEST, METRICS, ERROR)
    }


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def run_component(
    stage: str,
    function: StageFunction[AnyConfig],
    section: type[AnyConfig],
    settings: str,
    run: str,
    inputs: Mapping[str, Any],
    output: Any,
    report: Any = None,
    metrics: Any = None,
) -> None:
    """What every KFP step does: settings from JSON, artifacts to paths, the stage, its page and metrics back.

    Args:
        settings: JSON of the stage's section; `run`: JSON of RunSettings.
        inputs: KFP input artifacts by name, each the folder of an earlier stage.
        output: KFP output artifact that stands for the stage folder; in a local run that is in the run directory.
        report, metrics: KFP HTML and Metrics artifacts, filled when given.

    Raises:
        SystemExit: with the error's exit code, after printing its paragraph; never a traceback for a CallforgeError.
    """
    join_run()
    try:
        if (run_directory := run_folder()) is not None:
            output.uri = str(run_directory / stage)
        folder = Path(output.path)
        with library_warnings():
            result = execute_stage(
                stage,
                function,
                read_section(section, json.loads(settings), stage),
                {name: Path(item.path) for name, item in inputs.items()},
                folder,
                read_section(RunSettings, json.loads(run), "run"),
                replace=True,
            )
    except CallforgeError as error:
        announce(stage, "failed", str(error))
        raise SystemExit(error.exit_code) from None
    if metrics is not None:
        for name, value in result.items():
            metrics.log_metric(name, value)
    if run_folder() is None:  # KFP uploads the folder whole, and every later step would download it
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    page = folder / "report.html"
    if report is not None and page.exists():
        Path(report.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(page, report.path)
