"""Runs one stage in its folder, unless the same work is done there already, and publishes what it made.

It knows nothing of what a stage computes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from components.errors import CallforgeError, InputError, WorkError, is_failure, without_login
from components.files import write_json
from components.sections import Section
from components.services.events import announce
from components.services.tracking import Tracker, open_tracker
from components.settings import RunSettings
from components.stages.catalogue import Stage
from components.stages.folder import (
    CHECKPOINTS,
    CONFIG,
    ERROR,
    MANIFEST,
    METRICS,
    Config,
    describe,
    input_digest,
    read_config,
    sole_owner,
    verified_manifest,
    write_config,
    write_failure,
)
from components.stages.identity import changes, digest, goes_on, identity
from components.stages.outputs import Outputs
from components.stages.processes import Processes, joined_processes
from components.stages.publishing import fetch_finished, is_published, publish

LONGEST_REASON = 500  # characters of an unexpected error that error.json keeps


@dataclass(frozen=True)
class _Decision:
    """What the first process tells the others: the metrics of finished work, or the inputs of work to do."""

    done: dict[str, float] | None = None
    input_digests: dict[str, str] | None = None
    failure: tuple[str, int] | None = None


def execute_stage(
    stage: Stage,
    config: Section,
    inputs: Mapping[str, Path],
    folder: Path,
    run: RunSettings,
    *,
    replace: bool = False,
) -> dict[str, float]:
    """Run one stage in `folder` unless its manifest says that the same work is done there already.

    The same work means: equal identity (identity.py). A new folder gets it from S3, where the run published it. A
    folder with the same unfinished work, or with a shorter one that may be continued, is given to the stage as it is,
    so that it resumes. Under torchrun every process calls this alike, and the first one owns the folder.

    Args:
        replace: empty a folder with other work of this stage in it, as a run does whose settings were changed.

    Returns:
        The stage's final metrics.

    Raises:
        InputError: `folder` holds something that no run of this stage wrote, other work that may not be replaced, or
            another process is at work there; an input is not there, unfinished or changed.
        CallforgeError: as the stage raised it; `error.json` then holds its text and exit code.
        WorkError: anything else went wrong in the stage.
    """
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  # Path.resolve raises where links go in circles
    with joined_processes() as processes:
        if processes.size > 1 and not stage.parallel:
            raise InputError(f"{stage.name} runs in one process, not in {processes.size}; start it without torchrun")
        announce(stage.name, "started")  # each process knows what its warnings are about
        if not processes.leads:
            return _assist(stage, config, inputs, folder, run, processes)
        with ExitStack() as held:
            with _refusal_shared(processes), _readable(folder):
                held.enter_context(sole_owner(folder))
                earlier = _earlier_config(folder, stage.name)  # others' folders get no error.json either
            try:
                return _lead(stage, config, inputs, folder, earlier, run, replace, processes)
            except CallforgeError as error:
                _withdraw(folder)
                write_failure(folder, stage.name, error)
                raise
            except BaseException as error:
                if not is_failure(error):
                    raise
                failure = _unexpected(folder, error)
                write_failure(folder, stage.name, failure)
                raise failure from error


def _lead(
    stage: Stage,
    config: Section,
    inputs: Mapping[str, Path],
    folder: Path,
    earlier: Config | None,
    run: RunSettings,
    replace: bool,
    processes: Processes,
) -> dict[str, float]:
    """What the first process does."""
    with _refusal_shared(processes):
        digests = {name: input_digest(name, path) for name, path in inputs.items()}
        wanted = Config(
            stage=stage.name, settings=config.model_dump(mode="json"), identity=identity(stage, config, digests)
        )
        work = digest(stage, wanted.identity)
        finished = verified_manifest(folder)
        if finished is not None and finished.work != work:
            finished = None
        if finished is None and earlier is None and run.artifact_root:
            finished = fetch_finished(folder, run, stage.name, work)
        if finished is None:
            _prepare(folder, earlier, wanted, config, replace)
    processes.from_leader(_Decision(done=finished.metrics if finished else None, input_digests=digests))
    if finished is not None:
        (folder / ERROR).unlink(missing_ok=True)
        if run.artifact_root and not is_published(folder / MANIFEST, run, stage.name):
            publish(folder, folder / MANIFEST, run, stage.name)  # it was made for another place, or for none
        announce(stage.name, "skipped")
        return dict(finished.metrics)
    with open_tracker(run, stage.name, folder) as tracker:
        tracker.log_params({f"{stage.name}/{name}": value for name, value in wanted.settings.items()})
        outputs = Outputs(folder, tracker, run, stage, digests)
        metrics = dict(stage.function(config, inputs, outputs))
        processes.wait()  # all have ended their part
        # A table: as metrics, each of them would be a chart of one bar beside the curves.
        outputs.log_table([{"metric": name, "value": value} for name, value in metrics.items()], "final")
        for page in sorted(folder.glob("*.html")):
            tracker.log_artifact(page, stage.name)
        # The manifest takes its name when everything it names is there, in this folder and in S3.
        waiting = folder / f".{MANIFEST}"
        write_json(waiting, describe(folder, stage.name, work, stage.content, metrics).model_dump())
        if run.artifact_root:
            publish(folder, waiting, run, stage.name)
    waiting.replace(folder / MANIFEST)
    announce(stage.name, "done")
    processes.wait()
    return metrics


def _assist(
    stage: Stage,
    config: Section,
    inputs: Mapping[str, Path],
    folder: Path,
    run: RunSettings,
    processes: Processes,
) -> dict[str, float]:
    """What every process but the first does: its part of the computation."""
    decision: _Decision = processes.from_leader(None)
    if decision.failure is not None:
        text, exit_code = decision.failure
        raise (InputError if exit_code == InputError.exit_code else WorkError)(text)
    if decision.done is not None:
        return decision.done
    outputs = Outputs(folder, Tracker(), run, stage, decision.input_digests or {})
    metrics = dict(stage.function(config, inputs, outputs))
    processes.wait()  # the first may write the manifest
    processes.wait()  # it has
    return metrics


def _earlier_config(folder: Path, stage: str) -> Config | None:
    """What an earlier run of the stage was asked for in `folder`; None when there was none. Others' files stay."""
    if not os.path.lexists(folder):
        return None
    refusal = f"{folder}: it is not a folder of {stage}, and would be overwritten"
    if not folder.is_dir():
        raise InputError(f"{refusal}; name a new or empty one")
    # Before config.json has its name, a stage that was killed or refused leaves these two only.
    if all(path.name.startswith(".") or path.name == ERROR for path in folder.iterdir()):
        return None
    try:
        earlier = read_config(folder)
    except InputError as error:
        raise InputError(f"{refusal} ({error}); name a new or empty one") from None
    if earlier is None or earlier.stage != stage:
        raise InputError(f"{refusal}; name a new or empty one")
    return earlier


def _prepare(folder: Path, earlier: Config | None, decided: Config, config: Section, replace: bool) -> None:
    """Make `folder` ready for the work: as it is where it may be continued, else new."""
    # A folder that is replaced is renamed before it is deleted: a kill must not leave it half there under its name.
    doomed = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    if earlier is not None and not goes_on(earlier.identity, decided.identity, config):
        if not replace:
            raise InputError(
                f"{folder}: it holds other work of {earlier.stage} ({changes(earlier.identity, decided.identity)}); "
                "name a new folder, or remove this one"
            )
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / ERROR).unlink(missing_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    write_config(folder, decided)
    (folder / METRICS).touch()


@contextmanager
def _refusal_shared(processes: Processes) -> Iterator[None]:
    """What ends the work before it is decided on ends it in every process, with the same text."""
    try:
        yield
    except Exception as error:
        exit_code = error.exit_code if isinstance(error, CallforgeError) else WorkError.exit_code
        processes.from_leader(_Decision(failure=(str(error), exit_code)))
        raise


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """A folder that cannot be one: a name too long, links in circles, no permission."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: cannot be a stage folder ({error.strerror}); name another one") from None


def _withdraw(folder: Path) -> None:
    """A refused attempt that left nothing claims nothing: the corrected one is not other work."""
    with suppress(OSError):
        left = {path.name for path in folder.iterdir() if not path.name.startswith(".")} - {CONFIG, METRICS, ERROR}
        if not left and not (folder / METRICS).stat().st_size:
            (folder / CONFIG).unlink(missing_ok=True)
            (folder / METRICS).unlink(missing_ok=True)


class UnexpectedError(WorkError):
    """An unforeseen error in one line; its cause has the traceback."""


def _unexpected(folder: Path, error: BaseException) -> UnexpectedError:
    text = without_login(" ".join(str(error).split()))[:LONGEST_REASON]
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnexpectedError(f"the disk of {folder} is full ({text}); make room and start it again")
    if isinstance(error, MemoryError):
        return UnexpectedError(f"out of memory ({text}); use a larger machine, or smaller batches")
    return UnexpectedError(f"{type(error).__name__}: {text}")


def remove_checkpoints(folder: Path) -> None:
    """Drop what a finished stage would resume from: KFP uploads a folder whole, and every later step downloads it."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
