"""One MLflow run for one run of the pipeline: metrics, parameters, tags, tables and pages of all its stages.

The server comes from MLFLOW_TRACKING_URI; without it the tracker does nothing. Inside Kubeflow the run that KFP's
MLflow plugin opened (MLFLOW_RUN_ID) is joined and its state left to KFP. Elsewhere it is the run of the experiment
whose tag `callforge.run_id` is the run's id: created once, shared by the stages, found again on resume.

A server that is down when a stage begins is an error. One that goes away later is not: a thread does the sending, so
the work never waits, and the end of a stage waits a bounded time. What is unsent then is sent by the next stage of the
run, or by send_runs (`callforge sync`); components/services/outbox.py knows what that is.
Registration of models is not done here.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from components.errors import WorkError
from components.sections import flatten
from components.services.events import say, warn
from components.services.mlflow_server import (
    first_line,
    joined_run,
    mlflow_client,
    open_run,
    page,
    server_name,
    tracking_uri,
)
from components.services.outbox import STATE, AwayError, Entry, Outbox
from components.settings import RunSettings

LONGEST_PARAMETER = 500
SEND_SECONDS = 5.0  # between two looks at what is to be sent
LONGEST_PAUSE = 60.0  # between two tries to reach a server that went away
SYNC_SECONDS = 60.0  # that a stage waits for `callforge sync` to finish with its folder
CLOSING_SECONDS = 10.0  # without progress, until the end of a stage gives up


class Tracker:
    """A tracker that does nothing: there is no MLflow server."""

    run_id = ""
    url = ""  # the run's page of curves

    def log_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Log numbers besides those of metrics.jsonl, which are sent without being asked for."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings; nested ones as `outer.inner`, long values cut. Logging the same again does no harm."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Upload one file of at most a few megabytes."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Upload rows as the table `name`, which MLflow's page shows; it replaces one of the same name."""

    def flush(self) -> None:
        """Send what is waiting; returns when it was tried."""


class MlflowTracker(Tracker):
    """Sends to one run of an MLflow server, from a thread of its own."""

    def __init__(self, client: Any, experiment: str, outbox: Outbox, others: list[Outbox]) -> None:
        self.client, self.outbox, self.others, self.run_id = client, outbox, others, outbox.mlflow_run
        self.url = page(f"experiments/{experiment}/runs/{self.run_id}/model-metrics")
        self._wanted = threading.Condition()
        self._closing = False
        self._asked = self._tried = 0  # numbers of passes
        self._pause = 0.0
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        now = time.time_ns() // 1_000_000
        self._add("metrics", [[name, float(value), now, step or 0] for name, value in metrics.items()])

    def log_params(self, params: Mapping[str, Any]) -> None:
        self._add("params", {name: str(value)[:LONGEST_PARAMETER] for name, value in flatten(params)})

    def log_tags(self, tags: Mapping[str, str]) -> None:
        self._add("tags", {name: str(value) for name, value in tags.items()})

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self._add("file", [str(path.absolute()), folder])

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
        self._add("table", [f"{name.removesuffix('.json')}.json", table])

    def end(self, status: str) -> None:
        """The run has ended, as far as this stage knows: FINISHED or FAILED."""
        self._add("status", status)

    def _add(self, kind: str, value: Any) -> None:
        self.outbox.entries.append(Entry(kind, value))

    def flush(self) -> None:
        with self._wanted:
            self._asked += 1
            number = self._asked
            self._wanted.notify_all()
            self._wanted.wait_for(lambda: self._tried >= number, CLOSING_SECONDS)

    def close(self) -> None:
        """Send what is waiting, as long as there is progress; print what is left, and remember it."""
        with self._wanted:
            self._closing = True
            self._wanted.notify_all()
        outbox, began = self.outbox, time.monotonic()
        while self._thread.is_alive() and time.monotonic() - max(began, outbox.progressed) < CLOSING_SECONDS:
            self._thread.join(0.05)
        metrics, others = outbox.waiting()
        if metrics or others:
            warn(
                f"tracking: {server_name()} did not come back; {metrics} metrics and {others} other entries of "
                f"{outbox.stage} are not in MLflow" + (": the next stage of the run sends them, or `callforge sync`"
                if outbox.folder else "")
            )  # fmt: skip
        outbox.save()
        outbox.folder, outbox.entries = None, []  # should the thread wake up once more

    def _work(self) -> None:
        while True:
            with self._wanted:
                self._wanted.wait_for(lambda: self._closing or self._asked > self._tried, self._pause or SEND_SECONDS)
                number, closing = self._asked, self._closing
            self._send(closing)
            with self._wanted:
                self._tried = number
                self._wanted.notify_all()
            if closing and not self._pause:
                return
            if closing:
                time.sleep(min(1.0, self._pause))

    def _send(self, last: bool) -> None:
        try:
            for other in list(self.others):
                _send_rest(self.client, other)
                self.others.remove(other)
            self.outbox.send(self.client, last)
        except Exception as error:  # whatever it is, the work goes on
            if not self._pause:
                warn(
                    f"tracking: {server_name()} failed ({first_line(error)}); the work goes on, and what was to be "
                    "logged is kept and sent when the server is back"
                )
            self._pause = min(max(2 * self._pause, SEND_SECONDS), LONGEST_PAUSE)
        else:
            if self._pause:
                say(f"tracking: {server_name()} is back")
            self._pause = 0.0


@contextmanager
def open_tracker(run: RunSettings, stage: str, folder: Path | None = None) -> Iterator[Tracker]:
    """The tracker of one stage of `run`.

    Args:
        folder: the stage folder; the lines of its metrics.jsonl are sent as they are written, as `<stage>/<name>`.

    Raises:
        InputError: the server that MLFLOW_TRACKING_URI names does not answer or refuses.
    """
    if not tracking_uri():
        yield Tracker()
        return
    client = mlflow_client()
    fresh = Outbox(run.run_id, run.experiment, stage, folder=folder)
    with fresh.held(SYNC_SECONDS):  # before its state is read: `callforge sync` may be sending from this folder
        outbox = (folder and Outbox.read(folder)) or fresh
        experiment, mlflow_run = open_run(client, run)
        outbox.follow(mlflow_run)
        outbox.save()
        tracker = MlflowTracker(client, experiment, outbox, _unsent_beside(outbox))
        tracker.log_tags({f"callforge.{stage}": "running"})
        status = "FAILED"
        try:
            yield tracker
            status = "FINISHED"
        finally:
            tracker.log_tags({f"callforge.{stage}": status.lower()})
            if not joined_run():
                tracker.end(status)
            tracker.close()


def _unsent_beside(outbox: Outbox) -> list[Outbox]:
    """What earlier stages of the same run could not send."""
    if outbox.folder is None:
        return []
    beside: list[Path] = []
    with suppress(OSError):  # a stage by itself may be in a folder whose parent may not be read
        beside = [path for path in outbox.folder.parent.iterdir() if path != outbox.folder]
    found = filter(None, map(Outbox.read, beside))
    return [other for other in found if other.mlflow_run == outbox.mlflow_run and any(other.waiting())]


def _send_rest(client: Any, outbox: Outbox, going_on: bool = True) -> int | None:
    """Send what a stage could not; returns the number of metrics, None where the stage is at work.

    Args:
        going_on: the run goes on, so that it has not ended as the stage would say.
    """
    with outbox.held() as free:
        if not free:
            return None
        if going_on:
            outbox.entries = [entry for entry in outbox.entries if entry.kind != "status"]
        try:
            return outbox.send(client)
        finally:
            outbox.save()


def send_runs(root: Path) -> Iterator[str]:
    """Send what MLflow does not have of the stage folders in and below `root`; yields a line for each.

    Raises:
        InputError: no server is named, or it does not answer.
        WorkError: it went away, or has no such run.
    """
    client = mlflow_client()
    states = [path for pattern in (STATE, f"*/{STATE}", f"*/*/{STATE}") for path in root.glob(pattern)]
    for state in sorted(states, key=lambda path: path.stat().st_mtime):  # the last one says how its run ended
        outbox = Outbox.read(state.parent)
        if outbox is None or not (outbox.entries or any(outbox.waiting())):
            continue
        what = f"{outbox.stage} of run {outbox.run_id}"
        try:
            sent = _send_rest(client, outbox, going_on=False)
        except AwayError as error:
            raise WorkError(f"{what}: not all could be sent to {server_name()}: {error}; try again later") from error
        yield f"{what}: " + ("at work, and sends by itself" if sent is None else f"{sent:,} metrics sent")
