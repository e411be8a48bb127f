"""A pipeline run on this machine: the run directory, embedded services, the pipeline under kfp.local, the result.

The pipeline runs in a process of its own (pipelines/local_pipeline.py), whose output goes to kfp.log; what the person
sees is drawn by pipelines/terminal.py from the events in progress.jsonl. What the stages do, and whether one is done
already, is theirs.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from components.errors import CallforgeError, InputError, WorkError
from components.files import read_json, write_json
from components.sections import deciding_settings, extendable_setting, flatten, read_section
from components.services.events import PROGRESS_FILE
from components.settings import ARTIFACT_ROOT_VARIABLE, RunSettings, Settings, resolve_settings
from components.stages.catalogue import NAMES, STAGES
from components.stages.folder import ERROR, read_failure
from components.stages.local_run import RUN_FOLDER, STOP, sole_run
from pipelines.console import Console, print_table
from pipelines.embedded import embedded_services
from pipelines.local_pipeline import KFP_ROOT, PIPELINE, REQUEST
from pipelines.profiles import Profile, find_profile
from pipelines.run_page import INDEX, write_run_page
from pipelines.seaweedfs import ARTIFACT_ROOT
from pipelines.terminal import Terminal

HOME = Path(".callforge")
RUNS, SERVICES = HOME / "runs", HOME / "services"
LOG, PROGRESS = "kfp.log", "progress.jsonl"
DEFAULT_PROFILE = "demo"
URI = "MLFLOW_TRACKING_URI"
FULL = 50e6  # bytes that are left on a full disk
STOP_SECONDS = 60.0  # a stage that is told to stop may be in a long step


@dataclass(frozen=True, kw_only=True)
class Request:
    """What is asked of a run. Without a profile, it continues with what the run directory remembers."""

    run_id: str
    profile: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


class StageFailedError(CallforgeError):
    """A stage ended the run, with the exit code it chose."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def run_here(request: Request, console: Console) -> Path:
    """Run the pipeline `train` under kfp.local; a finished stage is not done again. Returns the run directory.

    Raises:
        InputError: wrong settings, or another process is working on the same run.
        CallforgeError: as the stage that failed raised it, with its exit code.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the stage at work was asked to stop, and waited for.
    """
    read_section(RunSettings, {"run_id": request.run_id}, "run")  # it becomes a path
    folder = Path(os.path.realpath(RUNS / request.run_id))  # Path.resolve raises for links that go in circles
    profile, settings = _resolve(folder, request)  # before anything is written or started
    with _own(folder), _terminated_as_interrupted():
        for line in changes(_remembered(folder).get("settings", settings.model_dump(mode="json")), settings):
            console.print(line)
        console.print(f"run {request.run_id}  profile {profile.name}  {shown(folder)}", style="bold")
        with embedded_services(SERVICES) as environment:
            if "AWS_ENDPOINT_URL_S3" in environment and not settings.run.artifact_root:
                settings = resolve_settings(settings.model_dump(mode="json"), {"run.artifact_root": ARTIFACT_ROOT})
            values = settings.model_dump(mode="json")
            write_json(folder / REQUEST, {"profile": profile.name, "settings": values})
            try:
                _run_pipeline(folder, _step_environment(folder, environment), console)
            finally:
                with suppress(OSError):  # a full disk: what ended the run says more
                    write_run_page(folder, profile.name)
            _show_result(folder, settings, {**os.environ, **environment}, console)
    return folder


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Hold the run directory exclusively, without what an earlier attempt left for those who watched it."""
    with ExitStack() as held:
        try:
            held.enter_context(sole_run(folder))
            for name in (PROGRESS, *(f"{stage}/{ERROR}" for stage in NAMES)):
                (folder / name).unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: it cannot be the directory of a run ({error.strerror}: {error.filename}); name another run "
                "id, or remove what is there"
            ) from None
        yield


def shown(path: Path) -> str:
    """A path as short as it can be given."""
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _resolve(folder: Path, request: Request) -> tuple[Profile, Settings]:
    """Profile and settings: of the profile when one is named, else those remembered; single settings on top."""
    remembered = _remembered(folder)
    name = request.profile or remembered.get("profile", DEFAULT_PROFILE)
    profile = find_profile(name)
    base = profile.settings if request.profile else remembered.get("settings", profile.settings)
    default = {"run.artifact_root": os.environ.get(ARTIFACT_ROOT_VARIABLE, "")}
    try:
        resolve_settings(base)
    except InputError as error:
        raise InputError(
            f"{folder / REQUEST}: the run was begun with settings that this version does not accept ({error}); name a "
            f"profile (--profile {name}) to begin it again, or another run id"
        ) from None
    settings = resolve_settings(default, base, request.settings, {"run.run_id": request.run_id})
    if any(step.gpus for step in profile.resources.values()) and not any(Path("/dev").glob("nvidia[0-9]*")):
        raise InputError(f"profile {name}: it needs a GPU and this machine has none; --profile demo needs none")
    return profile, settings


def _remembered(folder: Path) -> dict[str, Any]:
    try:
        request = read_json(folder / REQUEST)
        if isinstance(request.get("profile"), str) and isinstance(request.get("settings"), dict):
            return request
        reason = f"{folder / REQUEST}: it does not hold a run's profile and settings"
    except FileNotFoundError:
        return {}
    except InputError as error:
        reason = str(error)
    raise InputError(f"{reason}; name another run id, or remove it")


def changes(remembered: Mapping[str, Any], settings: Settings) -> Iterator[str]:
    """What changed since a run began with the settings `remembered`, and which stages are done again for it.

    A stage is, when a setting changed that decides its result, and so are those after it.
    """
    now = dict(flatten(settings.model_dump(mode="json")))
    before = {name: value for name in now for value in _found(remembered, name.split("."))}
    changed = [name for name in now if (name, now[name]) not in before.items() and name != "run.artifact_root"]
    for name in changed:
        earlier = f"was {before[name]}, is" if name in before else "is new since this run began:"
        yield f"{name} {earlier} {now[name]}"
    for stage in STAGES:
        section = getattr(settings, stage.section)
        deciding = [name for name, _ in flatten(deciding_settings(section), f"{stage.section}.") if name in changed]
        if deciding:
            name = deciding[0]
            only_length = deciding == [f"{stage.section}.{extendable_setting(section)}"] and name in before
            longer = only_length and before[name] < now[name]
            begin = f"{stage.name} goes on from its last checkpoint, and" if longer else f"{stage.name} and"
            yield f"so {begin} what follows from it is done again"
            return


def _found(values: Any, names: list[str]) -> list[Any]:
    """The value at that place of nested objects, in a list; an empty one where there is none."""
    for name in names:
        if not isinstance(values, dict) or name not in values:
            return []
        values = values[name]
    return [values]


def _step_environment(folder: Path, services: Mapping[str, str]) -> dict[str, str]:
    """What the pipeline and its steps see: the services, the run directory, and this very Python first."""
    ours = {RUN_FOLDER: str(folder), PROGRESS_FILE: str(folder / PROGRESS), "PYTHONUNBUFFERED": "1"}
    quiet = {"TOKENIZERS_PARALLELISM": "false"}  # which would warn when forked
    paths = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH")])),
    }
    return {**quiet, **os.environ, **services, **ours, **paths}


def _run_pipeline(folder: Path, environment: dict[str, str], console: Console) -> None:
    shutil.rmtree(folder / KFP_ROOT, ignore_errors=True)  # KFP's own files: copies of pages, parameters
    with (folder / LOG).open("a", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.local_pipeline", str(folder)],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,  # Ctrl-C is ours to handle: the stage at work is asked to stop, not killed
        )  # fmt: skip
    try:
        with Terminal(console, folder / PROGRESS) as terminal:
            process.wait()
        if process.returncode:
            raise failure(folder, terminal.stage, terminal.failure)
    except KeyboardInterrupt:
        (folder / STOP).touch()
        _stop(process, console)
        raise
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _stop(process: subprocess.Popen[bytes], console: Console) -> None:
    """Ask the stage at work to stop: it may write a checkpoint first."""
    console.print(f"stopping (at most {STOP_SECONDS:.0f} s; Ctrl-C again stops at once)")
    with suppress(ProcessLookupError, subprocess.TimeoutExpired, KeyboardInterrupt):
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(STOP_SECONDS)


def failure(folder: Path, stage: str, reason: str) -> CallforgeError:
    """What ended a run. KFP knows only which task failed; the stage left its reason in error.json, unless it was killed
    or had no disk to write to.

    Args:
        stage, reason: of the last event, "" where there was none.
    """
    for name in NAMES:
        with suppress(InputError):
            if (error := read_failure(folder / name)) is not None:
                return StageFailedError(f"{name}: {error.message}", error.exit_code)
    stage = stage or PIPELINE
    log = f"its log is {shown(folder / LOG)}"
    if reason:
        return WorkError(f"{stage}: {reason}; {log}")
    for place in (folder, Path(tempfile.gettempdir())):
        if (free := shutil.disk_usage(place).free) < FULL:
            return WorkError(f"{stage}: the disk is full ({free / 1e6:.0f} MB free in {place}); make room, and {log}")
    return WorkError(f"{stage}: it ended without saying why: killed (out of memory?), or a defect of callforge; {log}")


def _show_result(folder: Path, settings: Settings, environment: Mapping[str, str], console: Console) -> None:
    from components.bfcl_eval.evaluate import MODELS
    from components.evaluations.tables import scores_table

    folders = {label: folder / _last("bfcl_eval") / name for name, label in MODELS.items()}
    print_table(console, scores_table(folders), f"Evaluation, run {settings.run.run_id}")
    with _environment(environment):
        for name, text in _places(folder, settings):
            console.print(f"{name:<11} {text}")
    if environment.get(URI) != os.environ.get(URI):
        console.print(f"look at it  {this_command()} ui (starts this MLflow and S3 again, and prints the login)")


def _last(section: str) -> str:
    """The stage whose result is the run's, of those with that section of the settings."""
    return [stage.name for stage in STAGES if stage.section == section][-1]


def _places(folder: Path, settings: Settings) -> Iterator[tuple[str, str]]:
    """Where the results are, by what they are; the environment leads to S3 and MLflow."""
    registration = json.loads((folder / _last("model_registration") / "registration.json").read_text("utf-8"))
    if registration["version"]:
        name, version = registration["model_name"], registration["version"]
        yield "registered", f"{name} version {version}{_aliases_now(name, version)}"
    yield "weights", registration["source"]
    if settings.run.artifact_root:
        yield "artifacts", f"{settings.run.artifact_root}/{settings.run.run_id}/"
    if os.environ.get(URI):
        yield "MLflow", _mlflow_page(settings.run)
    yield "reports", f"{shown(folder / INDEX)}"
    yield "ask it", f'{this_command()} ask {folder.name} "..." --tools tools.json'


def _aliases_now(model: str, version: int) -> str:
    """What the version is called by now, e.g. `, alias champion`; "" where the registry cannot be asked."""
    from components.model_registration.registry import aliases_of, registry_client, registry_faults

    try:
        with registry_faults(model):
            found = aliases_of(registry_client(), model, version)
    except CallforgeError:
        return ""
    return f", alias {' and '.join(found)}" if found else ""


def _mlflow_page(run: RunSettings) -> str:
    """Address of the run's page, of its curves; the server's where it cannot be asked any more."""
    from components.services.mlflow_server import find_run, page, server_name

    try:
        experiment_id, run_id = find_run(run)
        return page(f"experiments/{experiment_id}/runs/{run_id}/model-metrics")
    except CallforgeError:
        return server_name()


@contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(added)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def this_command() -> str:
    """What the user types for `callforge`: that, where it is the one on the PATH, else its path."""
    ours = Path(sys.executable).with_name("callforge")
    found = shutil.which("callforge")
    if not ours.exists() or (found and os.path.realpath(found) == os.path.realpath(ours)):
        return "callforge"
    return shown(ours)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does."""

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
