"""One MLflow run for one run of the pipeline: metrics, parameters, tags, tables and pages of all its stages.

The server comes from MLFLOW_TRACKING_URI; without it the tracker does nothing. Inside Kubeflow the run that KFP's
MLflow plugin opened (MLFLOW_RUN_ID) is joined and its state left to KFP. Elsewhere it is the run of the experiment
whose tag `callforge.run_id` is the run's id: created once, shared by the stages, found again on resume.

A server that is down when a stage begins is an error. One that goes away later is not: everything that is tracked
also lies in the stage folder, so the tracker says it once, keeps what it could not send and tries again.
Registration of models is not done here.
"""

from __future__ import annotations

import json
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import CallforgeError, InputError
from components.services.events import say, warn
from components.services.web import NoAnswerError, ask, trusted, without_login
from components.settings import RunSettings

RUN_TAG = "callforge.run_id"
TABLES_TAG = "mlflow.loggedArtifacts"  # makes MLflow's page show an artifact as a table
TRAINING = {"mlflow.experimentKind": "custom_model_development"}
TRAINING_PAGES = "workflowType=machine_learning"  # without it MLflow's pages open on prompts and traces
LONGEST_PARAMETER = 500
BATCH_METRICS, BATCH_PARAMETERS, BATCH_TAGS = 1000, 100, 100  # limits of one log-batch request
FLUSH_METRICS, FLUSH_SECONDS = 500, 5.0
LONGEST_PAUSE = 120.0  # seconds between two tries to reach a server that went away
LAST_TRIES = 4
_CERTIFICATES = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH", "REQUESTS_CA_BUNDLE")
# mlflow itself would try for minutes; here a try is short and what it carries is kept for the next one.
_MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class Tracker:
    """A tracker that does nothing: there is no MLflow server."""

    run_id = ""
    url = ""  # the run's page of curves

    def log_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        """Log numbers, in order; they are sent in batches."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log settings; nested ones as `outer.inner`, long values cut. Logging the same again does no harm."""

    def log_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Upload one file of at most a few megabytes."""

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        """Upload rows as the table `name`, which MLflow's page shows; it replaces one of the same name."""

    def flush(self) -> None:
        """Send what is waiting."""


class MlflowTracker(Tracker):
    """Sends to one run of an MLflow server."""

    def __init__(self, client: Any, run_id: str) -> None:
        self.client, self.run_id = client, run_id
        experiment = client.get_run(run_id).info.experiment_id
        self.url = page(f"experiments/{experiment}/runs/{run_id}/model-metrics")
        self._metrics: list[Any] = []
        self._late: list[Callable[[], Any]] = []  # calls that failed and are made again
        self._sent = time.monotonic()
        self._pause = 0.0

    def log_metrics(self, metrics: Mapping[str, float], step: int | None) -> None:
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        self._metrics += [Metric(name, float(value), now, step or 0) for name, value in metrics.items()]
        due = FLUSH_SECONDS if self._pause == 0 else self._pause
        waited = time.monotonic() - self._sent
        if waited >= due or (len(self._metrics) >= FLUSH_METRICS and self._pause == 0):
            self.flush()

    def log_params(self, params: Mapping[str, Any]) -> None:
        values = {name: str(value)[:LONGEST_PARAMETER] for name, value in _flat(params)}
        self._send(lambda: self._log_params(values))

    def _log_params(self, values: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        known = self.client.get_run(self.run_id).data.params
        new = [Param(name, value) for name, value in values.items() if name not in known]
        for start in range(0, len(new), BATCH_PARAMETERS):
            self.client.log_batch(self.run_id, params=new[start : start + BATCH_PARAMETERS])
        changed = [
            RunTag(f"changed.{name}", value) for name, value in values.items() if known.get(name, value) != value
        ]
        if changed:
            names = ", ".join(tag.key[8:] for tag in changed)
            warn(f"tracking: MLflow keeps the first value of {names}; the new ones are tags changed.*")
            self.client.log_batch(self.run_id, tags=changed[:BATCH_TAGS])

    def log_tags(self, tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        values = [RunTag(name, str(value)) for name, value in tags.items()]
        self._send(lambda: self.client.log_batch(self.run_id, tags=values))

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self._send(lambda: self.client.log_artifact(self.run_id, str(path), folder or None))

    def log_table(self, rows: Sequence[Mapping[str, Any]], name: str) -> None:
        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = {"columns": columns, "data": [[row.get(column) for column in columns] for row in rows]}
        path = f"{name.removesuffix('.json')}.json"
        self._send(lambda: self._log_table(table, path))

    def _log_table(self, table: Mapping[str, Any], path: str) -> None:
        self.client.log_dict(self.run_id, table, path)
        listed = json.loads(self.client.get_run(self.run_id).data.tags.get(TABLES_TAG, "[]"))
        entry = {"path": path, "type": "table"}
        if entry not in listed:
            self.client.set_tag(self.run_id, TABLES_TAG, json.dumps([*listed, entry]))

    def flush(self) -> None:
        self._sent = time.monotonic()
        try:
            while self._late:
                self._try(self._late[0])
                self._late.pop(0)
            while self._metrics:
                batch = self._metrics[:BATCH_METRICS]
                self._try(lambda: self.client.log_batch(self.run_id, metrics=batch))  # noqa: B023
                del self._metrics[: len(batch)]
        except Exception as error:  # whatever it is, the work goes on
            if not self._pause:
                warn(
                    f"tracking: {server_name()} failed ({first_line(error)}); the work goes on, and what was to be "
                    f"logged is kept and sent when the server is back"
                )
            self._pause = min(max(2 * self._pause, FLUSH_SECONDS), LONGEST_PAUSE)
        else:
            if self._pause:
                say(f"tracking: {server_name()} is back")
            self._pause = 0.0

    def _try(self, call: Callable[[], Any]) -> None:
        """Make a call; what the server refuses for good is given up, so that it does not block the rest."""
        from mlflow.exceptions import RestException

        try:
            call()
        except RestException as error:
            if error.get_http_status_code() >= 500:
                raise
            warn(f"tracking: {server_name()} refused an entry: {first_line(error)}")

    def close(self) -> None:
        """Send what is waiting, with a few more tries; say what is given up."""
        for attempt in range(LAST_TRIES):
            self.flush()
            if not self._pause:
                return
            time.sleep(2**attempt)
        warn(
            f"tracking: {server_name()} did not come back; {len(self._metrics)} metrics and {len(self._late)} other "
            "entries are in the stage folder and not in MLflow"
        )

    def _send(self, call: Callable[[], Any]) -> None:
        self._late.append(call)
        if not self._pause:
            self.flush()


@contextmanager
def open_tracker(run: RunSettings, stage: str) -> Iterator[Tracker]:
    """The tracker of one stage of `run`.

    Raises:
        InputError: the server that MLFLOW_TRACKING_URI names does not answer or refuses.
    """
    if not tracking_uri():
        yield Tracker()
        return
    client = mlflow_client()
    joined = os.environ.get("MLFLOW_RUN_ID", "")
    try:
        run_id = joined or _own_run(client, run)
        client.set_tag(run_id, RUN_TAG, run.run_id)
        if not joined:
            client.update_run(run_id, status="RUNNING")
        tracker = MlflowTracker(client, run_id)
    except CallforgeError:
        raise
    except Exception as error:
        raise refusal(error) from error
    tracker.log_tags({f"callforge.{stage}": "running"})
    status = "FAILED"
    try:
        yield tracker
        status = "FINISHED"
    finally:
        tracker.log_tags({f"callforge.{stage}": status.lower()})
        if not joined:
            tracker._send(lambda: client.set_terminated(run_id, status))
        tracker.close()


def find_run(run: RunSettings) -> tuple[str, str]:
    """Ids of the experiment and of the MLflow run that the stages of `run` log to.

    Raises:
        InputError: the server does not answer, or has no such run.
    """
    client = mlflow_client()
    try:
        experiment_id = _experiment(client, run.experiment)
        return experiment_id, _runs_of(client, experiment_id, run.run_id)[0]
    except IndexError:
        raise InputError(f"run.run_id: {server_name()} has no run {run.run_id} in {run.experiment}") from None
    except CallforgeError:
        raise
    except Exception as error:
        raise refusal(error) from error


def mlflow_client() -> Any:
    """An MLflow client for MLFLOW_TRACKING_URI, after a look whether the server answers.

    Raises:
        InputError: it does not.
    """
    for name, value in _MLFLOW_DEFAULTS.items():
        os.environ.setdefault(name, value)
    check_server(tracking_uri())
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking_uri())


def check_server(uri: str) -> None:
    """Ask an MLflow server for a sign of life, in seconds; any answer counts, also one that wants a login.

    Raises:
        InputError: nobody answers at `uri`, or it is no http(s) address; a certificate that MLflow's variables name
            cannot be read.
    """
    if not uri.startswith(("http://", "https://")):
        raise InputError(
            f"MLFLOW_TRACKING_URI: {server_name(uri)!r} is no http(s) address; set it to "
            f"http(s)://host:port, or unset it"
        )
    try:
        trust = _mlflow_trust() if uri.startswith("https://") else None
        token = os.environ.get("MLFLOW_TRACKING_TOKEN", "")
        status = ask(f"{uri.rstrip('/')}/health", token=token, trust=trust).status
    except NoAnswerError as error:
        raise InputError(
            f"MLFLOW_TRACKING_URI: no MLflow server answers at {server_name(uri)} ({error}); start it, correct the "
            f"address (or MLFLOW_TRACKING_TOKEN), or unset the variable to do without"
        ) from None
    if status >= 500:
        raise InputError(f"MLFLOW_TRACKING_URI: the server at {server_name(uri)} is ill (HTTP {status}); see its log")


def _mlflow_trust() -> ssl.SSLContext:
    """Whom MLflow will trust over https, and the certificate it will show, by the variables that it reads itself."""
    unchecked = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1")
    files = {name: os.environ[name] for name in _CERTIFICATES if os.environ.get(name)}
    authorities, own = files.get("MLFLOW_TRACKING_SERVER_CERT_PATH", ""), files.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
    try:
        context = ssl.create_default_context() if unchecked else trusted(authorities)
        if own:
            context.load_cert_chain(own)
    except OSError as error:
        named = ", ".join(f"{name}={path}" for name, path in files.items())
        raise InputError(f"{named}: not all of it can be used ({error}); name PEM files that can be read") from None
    if unchecked:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def check_access() -> None:
    """The server that MLFLOW_TRACKING_URI names answers, and lets us in.

    Raises:
        InputError: it does not.
    """
    client = mlflow_client()
    try:
        client.search_experiments(max_results=1)
    except Exception as error:
        raise refusal(error) from error


def refusal(error: Exception) -> InputError:
    """The error for an MLflow server that answers, and says no."""
    return InputError(
        f"MLFLOW_TRACKING_URI: the MLflow server at {server_name()} refused: {first_line(error)}; check "
        f"MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and the experiment"
    )


def _own_run(client: Any, run: RunSettings) -> str:
    experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID") or _experiment(client, run.experiment)
    found = _runs_of(client, experiment_id, run.run_id)
    if not found:
        client.create_run(experiment_id, tags={RUN_TAG: run.run_id}, run_name=run.run_id)
        found = _runs_of(client, experiment_id, run.run_id)  # two at once: both take the older one
    return found[0]


def _runs_of(client: Any, experiment_id: str, run_id: str) -> list[str]:
    query = f"tags.`{RUN_TAG}` = '{run_id}'"
    runs = client.search_runs([experiment_id], query, order_by=["attributes.start_time ASC"], max_results=1)
    return [run.info.run_id for run in runs]


def _experiment(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            return str(client.create_experiment(name, tags=TRAINING))
        except MlflowException:  # somebody else just did
            experiment = client.get_experiment_by_name(name)
    if experiment.lifecycle_stage != "active":
        raise InputError(
            f"run.experiment: {name!r} is deleted on {server_name()}; name another one, or bring it back with "
            f"`mlflow experiments restore --experiment-id {experiment.experiment_id}`"
        )
    return str(experiment.experiment_id)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def tracking_uri() -> str:
    """The MLflow server of the environment; "" when there is none."""
    return os.environ.get("MLFLOW_TRACKING_URI", "")


def server_name(uri: str = "") -> str:
    """The address of the server, without a user and password that somebody may have written into it."""
    return without_login(uri or tracking_uri())


def page(path: str) -> str:
    """The address of one of MLflow's pages, e.g. `models/NAME/versions/3`."""
    return f"{server_name().rstrip('/')}/#/{path}?{TRAINING_PAGES}"


def first_line(error: Exception) -> str:
    """What an error says, in short; mlflow's quote the address of the server as it was given."""
    return without_login((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]
