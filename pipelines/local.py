"""A pipeline run on this machine: kfp.local, embedded services, one run directory, and a terminal worth looking at.

Everything KFP and the stages print goes to kfp.log in the run directory; the terminal shows the stages' own lines, a
progress bar, and at the end what the run made. What the stages do is theirs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from components.services.errors import CallforgeError, InputError, WorkError
from components.services.files import write_json
from components.services.progress import PROGRESS_FILE
from components.services.stage import ERROR, PARENT_PID
from pipelines.embedded import ARTIFACT_ROOT, embedded_services
from pipelines.profiles import find_profile

HOME = Path(".callforge")
RUNS, SERVICES = HOME / "runs", HOME / "services"
REQUEST, LOG, LOCK, PROGRESS = "run.json", "kfp.log", ".lock", "progress.jsonl"
STAGES = ("preflight", "data_refine", "sft_warmup", "egpo_rl", "bfcl_eval", "model_registration")
_STAGE_LINE = re.compile(rf"^\s*(?:{'|'.join(STAGES)}): (?!')")  # a quote: KFP telling an output parameter


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked of a run; remembered in its directory, so that `--run-id` alone goes on with it."""

    profile: str = "demo"
    parameters: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


class StageFailedError(CallforgeError):
    """A stage ended the run; it has told its paragraph already."""

    def __init__(self, text: str, exit_code: int) -> None:
        super().__init__(text)
        self.exit_code = exit_code


def run_here(run_id: str, request: Request | None, console: Console) -> Path:
    """Run the pipeline `train` under kfp.local; a finished stage is not done again.

    Args:
        request: None goes on with what the run directory remembers.

    Returns:
        The run directory.

    Raises:
        InputError: nothing is remembered under that id, or another process is at it.
        CallforgeError: as the stage that failed raised it, with its exit code.
    """
    folder = (RUNS / run_id).resolve()
    with _locked(folder, run_id):
        request = _remember(folder / REQUEST, request, run_id)
        profile = find_profile(request.profile)
        console.print(f"[bold]run {run_id}[/bold]  profile {request.profile}  {_shown(folder)}")
        with embedded_services(SERVICES.resolve()) as environment:
            if environment:
                console.print(f"MLflow {_mlflow_uri(environment)}   S3 {_s3_endpoint(environment)}")
            os.environ.update(environment)
            # Tokenizers fork-warn, and hub look-ups of a model that is on disk only cost time.
            os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            root = ARTIFACT_ROOT if "AWS_ENDPOINT_URL_S3" in environment else "auto"
            _execute(folder, run_id, profile, {"artifact_root": root} | request.parameters, request.settings, console)
            _show_result(folder, run_id, console)
    return folder


def _execute(
    folder: Path, run_id: str, profile: Any, parameters: dict[str, str], settings: dict[str, Any], console: Console
) -> None:
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning, module="kfp")
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="kfp")  # "non-Python base image": it is ours
    from kfp import local

    from pipelines.train import train

    progress = folder / PROGRESS
    progress.unlink(missing_ok=True)
    os.environ[PROGRESS_FILE] = str(progress)
    os.environ[PARENT_PID] = str(os.getpid())
    # KFP starts `python3`: it has to be the one that callforge is installed in.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    with (folder / LOG).open("a", encoding="utf-8") as log, _Terminal(console, progress, log) as terminal:
        with redirect_stdout(terminal):  # type: ignore[type-var]
            local.init(
                runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(folder / "kfp"), enable_caching=False
            )
            try:
                train(profile)(
                    run_id=run_id, run_folder=str(folder), settings=json.dumps(settings, sort_keys=True), **parameters
                )
            except RuntimeError:
                raise _failure(folder, run_id) from None


def _failure(folder: Path, run_id: str) -> CallforgeError:
    """KFP says only that a task failed; the stage left its reason."""
    for stage in STAGES:
        with suppress(FileNotFoundError, ValueError):
            error = json.loads((folder / stage / ERROR).read_text("utf-8"))
            return StageFailedError(f"{stage}: {error['message']}", int(error["exit_code"]))
    return WorkError(
        f"a stage ended without saying why (killed, or a defect); the end of {_shown(folder / LOG)} has its last "
        f"words. `callforge run --run-id {run_id}` goes on where it stopped"
    )


class _Terminal:
    """Standard output of KFP and its stages: all of it into the log, the stages' lines and a bar onto the console."""

    def __init__(self, console: Console, progress: Path, log: TextIO) -> None:
        self.console, self.progress, self.log = console, progress, log
        self._line = ""
        self._bars: dict[tuple[str, int], Any] = {}
        self._ended = threading.Event()
        self._view = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> _Terminal:
        self._view.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._view.stop()

    def write(self, text: str) -> int:
        """File protocol: called with whole lines and pieces of them."""
        self.log.write(text)
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if _STAGE_LINE.match(line):
                self.console.print(line.strip(), markup=False, highlight=False)
        return len(text)

    def flush(self) -> None:
        """File protocol."""
        self.log.flush()

    def isatty(self) -> bool:
        """File protocol: a log is no terminal."""
        return False

    def _follow(self) -> None:
        told: dict[tuple[str, int], float] = {}
        position = 0
        while not self._ended.wait(0.3):
            with suppress(FileNotFoundError), self.progress.open("rb") as file:
                file.seek(position)
                chunk = file.read()
                whole = chunk[: chunk.rfind(b"\n") + 1]
                position += len(whole)
                for line in whole.splitlines():
                    self._show(json.loads(line), told)

    def _show(self, state: dict[str, Any], told: dict[tuple[str, int], float]) -> None:
        key = (state["label"], state["pid"])
        rate = f"{state['rate']:.3g} {state['unit']}/s"
        if self.console.is_terminal:
            if key not in self._bars:
                self._bars[key] = self._view.add_task(state["label"], total=state["total"], rate=rate)
            self._view.update(self._bars[key], completed=state["done"], total=state["total"], rate=rate)
            if state["finished"]:
                self._view.remove_task(self._bars.pop(key))
        elif time.monotonic() - told.get(key, 0.0) > 10 and state["elapsed_s"] > 2:
            told[key] = time.monotonic()
            total = f"/{state['total']:g}" if state["total"] else ""
            left = f", {state['remaining_s']:.0f} s left" if state["remaining_s"] is not None else ""
            self.console.print(f"{state['label']} {state['done']:g}{total} {state['unit']}{left}", highlight=False)


def _show_result(folder: Path, run_id: str, console: Console) -> None:
    from components.bfcl_eval.scores import summary_table

    columns, rows = summary_table(folder / "bfcl_eval")
    table = Table(title=f"BFCL accuracy, run {run_id}", title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index < 2 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    registration = json.loads((folder / "model_registration" / "registration.json").read_text("utf-8"))
    if registration["version"]:
        console.print(
            f"registered  {registration['model_name']} version {registration['version']}, "
            f"alias {registration['alias']}"
        )
    console.print(f"weights     {registration['source']}", soft_wrap=True)
    if os.environ.get("MLFLOW_TRACKING_URI"):
        console.print(f"MLflow      {_mlflow_uri(os.environ)}", soft_wrap=True)
    console.print(f"report      {_shown(folder / 'bfcl_eval' / 'report.html')}", soft_wrap=True)
    console.print(f"look again  callforge ui   (MLflow and S3 of {HOME}, until Ctrl-C)", soft_wrap=True)


def _remember(path: Path, request: Request | None, run_id: str) -> Request:
    if request is None:
        try:
            return Request(**json.loads(path.read_text("utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            raise InputError(f"run {run_id}: nothing is remembered in {_shown(path.parent)}; name its settings") from None
    write_json(
        path, {"profile": request.profile, "parameters": request.parameters, "settings": request.settings}
    )
    return request


@contextmanager
def _locked(folder: Path, run_id: str) -> Iterator[None]:
    """One process at a time works in a run directory; SIGTERM ends it as Ctrl-C does."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"run {run_id}: another process is at it ({_shown(folder)}); wait, or end that one") from None
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _shown(path: Path) -> str:
    with suppress(ValueError):
        return str(path.relative_to(Path.cwd()))
    return str(path)


def _mlflow_uri(environment: Any) -> str:
    from components.services.tracking import server_name

    return server_name(environment.get("MLFLOW_TRACKING_URI", ""))


def _s3_endpoint(environment: Any) -> str:
    return str(environment.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL_S3", "AWS")))
