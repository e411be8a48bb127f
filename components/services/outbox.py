"""What of one stage is not in MLflow yet: lines of its metrics.jsonl, and a few entries that were logged as well.

The stage folder is the truth, and MLflow is made to agree with it: `.tracking.json` beside metrics.jsonl remembers the
MLflow run, how many lines were sent, and what could not be. So whatever a kill or a server that was away left behind is
sent by whoever comes next, and nothing twice: lines that are about to be sent are noted with their timestamp first, and
MLflow takes the same value of the same time once.

An entry is refused when the server takes a tag right after it: then it is given up by itself, and printed once for all
of its kind. Otherwise the server is away (AwayError), whatever its reason, and everything is kept.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from components.errors import InputError
from components.files import lock_within, read_json, write_json
from components.services.events import warn
from components.services.mlflow_server import RUN_TAG, first_line, server_name

METRICS = "metrics.jsonl"  # of a stage folder: one JSON object a line, `step` and numbers by name
STATE, LOCK = ".tracking.json", ".tracking.lock"
TABLES_TAG = "mlflow.loggedArtifacts"  # makes MLflow's page show an artifact as a table
BATCH_METRICS, BATCH_PARAMETERS, BATCH_TAGS = 1000, 100, 100  # limits of one log-batch request
KINDS = ("params", "tags", "status", "file", "table")  # in the order in which they are sent, metrics first
TRIES = 2  # of a lone entry, which may have met a hiccup of the server


class AwayError(Exception):
    """The server does not answer, is not well, or no longer lets us in; the text says which."""


@dataclass(eq=False)
class Entry:
    """Something to log: `value` is JSON as the method of Outbox takes it that is named like `kind`."""

    kind: str
    value: Any
    failed: bool = False


@dataclass
class Outbox:
    """What waits to be sent to `mlflow_run`, and its place in `folder` (None: nowhere)."""

    run_id: str
    experiment: str
    stage: str
    mlflow_run: str = ""
    sent: int = 0  # lines of metrics.jsonl
    sending: int = 0  # lines that may have been sent, with the timestamp `time`
    time: int = 0  # milliseconds since the epoch
    entries: list[Entry] = field(default_factory=list)
    folder: Path | None = None

    def __post_init__(self) -> None:
        self._refused: set[tuple[str, str]] = set()  # kind and name of what need not be tried again
        self._place = (0, 0, 0)  # of line `sent`: inode, line, byte
        self.progressed = time.monotonic()

    # What is remembered.

    @classmethod
    def read(cls, folder: Path) -> Outbox | None:
        """The one that was remembered in a stage folder; None when there is none that can be read."""
        try:
            found = replace(_STATE.validate_python(read_json(folder / STATE)), folder=folder)
            for entry in found.entries:
                _VALUES[entry.kind].validate_python(entry.value)
        except (OSError, InputError, ValueError, KeyError):
            return None
        return found

    def save(self) -> None:
        """Remember it. A disk that is full is for others to report: then it is sent again."""
        if self.folder is None:
            return
        value = {key: value for key, value in asdict(self).items() if key != "folder"}
        try:
            write_json(self.folder / STATE, value)
        except OSError:
            return

    def follow(self, mlflow_run: str) -> None:
        """Send to this run from now on: all of it, where it is another run than before."""
        if self.mlflow_run != mlflow_run:
            self.mlflow_run, self.sent, self.sending = mlflow_run, 0, 0

    @contextmanager
    def held(self, patience: float = 0.0) -> Iterator[bool]:
        """Whether no other process sends from this folder, until the block ends.

        Args:
            patience: seconds to wait for one that does.
        """
        if self.folder is None:
            yield True
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / LOCK).open("w") as lock:
            yield lock_within(lock, patience)

    # What is sent.

    def send(self, client: Any, last: bool = True) -> int:
        """Send all that waits; returns the number of metrics sent. A file that is not taken stays.

        Args:
            last: try files again that were not taken before.

        Raises:
            AwayError: the server is away; what was not sent is kept.
        """
        count = self._send_lines(client)
        loose = [entry for entry in self.entries if entry.kind == "metrics"]
        values = [value for entry in loose for value in entry.value]
        self._metrics(client, values)
        for entry in loose:
            self.entries.remove(entry)
        for kind in KINDS:
            for entry in [entry for entry in self.entries if entry.kind == kind and (last or not entry.failed)]:
                entry.failed = not getattr(self, f"_{kind}")(client, entry.value)
                if not entry.failed:
                    self.entries.remove(entry)
                self.progressed = time.monotonic()
        return count + len(values)

    def waiting(self) -> tuple[int, int]:
        """Numbers of metrics, and of other entries, that wait; files that were not taken do not."""
        waiting = [entry for entry in self.entries if not entry.failed]
        metrics = sum(len(entry.value) for entry in waiting if entry.kind == "metrics")
        metrics += sum(len(numbers) for _, numbers in self._lines(self.sent))
        return metrics, sum(entry.kind != "metrics" for entry in waiting)

    def _send_lines(self, client: Any) -> int:
        count = 0
        while True:
            again = self.sending > self.sent  # a kill before it was known whether they arrived
            batch: list[list[Any]] = []
            number = self.sent
            stamp = self.time if again else time.time_ns() // 1_000_000
            for step, metrics in self._lines(self.sent):
                if number > self.sent and len(batch) + len(metrics) > BATCH_METRICS:
                    break
                batch += [[f"{self.stage}/{name}", value, stamp, step] for name, value in metrics.items()]
                number += 1
                if again and number == self.sending:
                    break
            if number == self.sent:
                return count
            if not again:
                self.sending, self.time = number, stamp
                self.save()
            self._metrics(client, batch)
            self.sent = self.sending = number
            self.save()
            count += len(batch)

    def _lines(self, first: int) -> Iterator[tuple[int, Mapping[str, float]]]:
        """Step and numbers of the whole lines from number `first` on; nothing for one that is not such a line."""
        try:
            file = (self.folder / METRICS).open("rb") if self.folder and (self.folder / METRICS).is_file() else None
        except OSError:
            return
        if file is None:
            return
        with file:
            inode = os.fstat(file.fileno()).st_ino
            known, number, offset = self._place
            if known != inode or number > first:
                number, offset = 0, 0
            file.seek(offset)
            while (line := file.readline()).endswith(b"\n"):
                if number == first:
                    self._place = (inode, number, file.tell() - len(line))
                number += 1
                if number > first:
                    yield _numbers(line)

    def _metrics(self, client: Any, values: Sequence[Sequence[Any]]) -> None:
        """`values`: name, value, timestamp, step."""
        from mlflow.entities import Metric

        metrics = [Metric(*value) for value in values]
        for start in range(0, len(metrics), BATCH_METRICS):
            part = metrics[start : start + BATCH_METRICS]
            self._in_halves(client, "metrics", part, lambda some: client.log_batch(self.mlflow_run, metrics=some))

    def _params(self, client: Any, values: Mapping[str, str]) -> bool:
        """Log parameters; MLflow keeps the first value of each, so others become tags."""
        from mlflow.entities import Param

        known: dict[str, str] = {}
        self._try(client, "params", lambda: known.update(client.get_run(self.mlflow_run).data.params), "all")
        new = [Param(name, value) for name, value in values.items() if name not in known]
        for start in range(0, len(new), BATCH_PARAMETERS):
            part = new[start : start + BATCH_PARAMETERS]
            self._in_halves(client, "params", part, lambda some: client.log_batch(self.mlflow_run, params=some))
        changed = {name: value for name, value in values.items() if known.get(name, value) != value}
        if changed:
            warn(f"tracking: MLflow keeps the first value of {', '.join(changed)}; the new ones are tags changed.*")
            self._tags(client, {f"changed.{name}": value for name, value in changed.items()})
        return True

    def _tags(self, client: Any, values: Mapping[str, str]) -> bool:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value) for name, value in values.items()]
        for start in range(0, len(tags), BATCH_TAGS):
            part = tags[start : start + BATCH_TAGS]
            self._in_halves(client, "tags", part, lambda some: client.log_batch(self.mlflow_run, tags=some))
        return True

    def _status(self, client: Any, value: str) -> bool:
        self._try(client, "status", lambda: client.set_terminated(self.mlflow_run, value), value)
        return True

    def _file(self, client: Any, value: Sequence[str]) -> bool:
        """`value`: path, folder among the run's artifacts."""
        path, folder = value

        def log() -> None:
            client.log_artifact(self.mlflow_run, path, folder or None)

        return self._try(client, "files", log, Path(path).name, tries=1)

    def _table(self, client: Any, value: Sequence[Any]) -> bool:
        """`value`: path among the run's artifacts, table."""
        path, table = value

        def log() -> None:
            client.log_dict(self.mlflow_run, table, path)
            listed = json.loads(client.get_run(self.mlflow_run).data.tags.get(TABLES_TAG, "[]"))
            entry = {"path": path, "type": "table"}
            if entry not in listed:
                client.set_tag(self.mlflow_run, TABLES_TAG, json.dumps([*listed, entry]))

        return self._try(client, "files", log, path, tries=1)

    # What is refused.

    def _in_halves(self, client: Any, kind: str, items: Sequence[Any], call: Callable[[Sequence[Any]], Any]) -> None:
        """One request for all items; where it is refused, halves of them, down to the single one that is given up."""
        items = [item for item in items if (kind, item.key) not in self._refused]
        if len(items) <= 1:
            if items:
                self._try(client, kind, lambda: call(items), items[0].key)
            return
        try:
            call(items)
            self.progressed = time.monotonic()
        except Exception as error:
            self._unless_away(client, error)
            middle = len(items) // 2
            self._in_halves(client, kind, items[:middle], call)
            self._in_halves(client, kind, items[middle:], call)

    def _try(self, client: Any, kind: str, call: Callable[[], Any], name: str, tries: int = TRIES) -> bool:
        """Make a call; whether it was taken. What is refused is printed, once for all of its kind."""
        for attempt in range(1, tries + 1):
            try:
                call()
                self.progressed = time.monotonic()
                return True
            except Exception as error:
                self._unless_away(client, error)
                if attempt < tries:
                    continue
                if kind not in {kind for kind, _ in self._refused}:
                    why = f"{name}: {first_line(error)}"
                    warn(
                        f"tracking: {server_name()} does not take {kind} of {self.stage} ({why}); the work goes on, "
                        "and the stage folder has them"
                    )
                self._refused.add((kind, name))
        return False

    def _unless_away(self, client: Any, error: Exception) -> None:
        """Raise AwayError where it is the server that fails, and not what was sent to it."""
        from mlflow.exceptions import RestException

        status = error.get_http_status_code() if isinstance(error, RestException) else 0
        if status == 400:
            return
        try:
            if status != 429:  # it takes no more for a while
                client.set_tag(self.mlflow_run, RUN_TAG, self.run_id)
                return
        except Exception as canary:
            error = canary
        raise AwayError(first_line(error)) from error


_STATE = TypeAdapter(Outbox)
_VALUES: dict[str, TypeAdapter[Any]] = {
    "metrics": TypeAdapter(list[tuple[str, float, int, int]]),
    "params": TypeAdapter(dict[str, str]),
    "tags": TypeAdapter(dict[str, str]),
    "status": TypeAdapter(str),
    "file": TypeAdapter(tuple[str, str]),
    "table": TypeAdapter(tuple[str, dict[str, Any]]),
}


def _numbers(line: bytes) -> tuple[int, Mapping[str, float]]:
    """Step and numbers of a line of metrics.jsonl; no numbers for a line that a kill cut."""
    try:
        value = json.loads(line)
        step = int(value.pop("step"))
        return step, {name: float(number) for name, number in value.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return 0, {}
