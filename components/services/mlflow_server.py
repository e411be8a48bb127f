"""The MLflow server of the environment: is it there, does it let us in, which of its runs is ours?

The server comes from MLFLOW_TRACKING_URI. What is logged to a run is the business of components/services/tracking.py;
registration of models is that of components/model_registration.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

from components.errors import CallforgeError, InputError, without_login
from components.services.events import warn
from components.services.web import NoAnswerError, ask, trusted
from components.settings import RunSettings

RUN_TAG = "callforge.run_id"
TRAINING = {"mlflow.experimentKind": "custom_model_development"}
TRAINING_PAGES = "workflowType=machine_learning"  # without it MLflow's pages open on prompts and traces
MLFLOW_TIMEOUT = 20  # seconds that one request may take
_CERTIFICATES = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH", "REQUESTS_CA_BUNDLE")
# mlflow itself would try for minutes; here a try is short and what it carries is kept for the next one.
_MLFLOW_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": str(MLFLOW_TIMEOUT),
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # For artifacts that mlflow sends to S3 itself: as in components/services/s3.py.
    "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
}


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
    """An MLflow client for MLFLOW_TRACKING_URI, after checking that the server answers.

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
        InputError: nobody answers at `uri`, or it is not an http(s) address; a certificate that MLflow's variables name
            cannot be read.
    """
    if not uri.startswith(("http://", "https://")):
        raise InputError(
            f"MLFLOW_TRACKING_URI: {server_name(uri)!r} is not an http(s) address; set it to "
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
        raise InputError(
            f"MLFLOW_TRACKING_URI: the server at {server_name(uri)} is failing (HTTP {status}); see its log"
        )


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


def check_access(run: RunSettings) -> None:
    """Do what the stages of `run` will do: open its MLflow run, tag it, give it a file, end it.

    A server that takes no files is not an obstacle: pages and tables are in the stage folders too. One line says so.

    Raises:
        InputError: the server does not answer, or refuses.
    """
    from mlflow.entities import RunTag

    client = mlflow_client()
    _, run_id = open_run(client, run)
    try:
        client.log_batch(run_id, tags=[RunTag("callforge.preflight", "finished")])
        if not joined_run():
            client.set_terminated(run_id, "FINISHED")
    except Exception as error:
        raise refusal(error) from error
    try:
        client.log_dict(run_id, run.model_dump(mode="json"), "preflight/run.json")
    except Exception as error:  # of the store behind the server, or of its protocol
        warn(
            f"tracking: {server_name()} takes no files ({first_line(error)}): reports and tables will be in the stage "
            "folders only"
        )


def refusal(error: Exception) -> InputError:
    """The error for an MLflow server that answers, and says no."""
    code = getattr(error, "get_http_status_code", lambda: 0)()
    text = f"MLFLOW_TRACKING_URI: the MLflow server at {server_name()} refused: {first_line(error)}"
    if code in (400, 404):
        return InputError(f"{text}; is it an MLflow server, and does its log say more?")
    return InputError(  # a gateway's refusal of a login comes out of mlflow as an internal error
        f"{text}; check MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, and that they "
        "may edit the experiment"
    )


def joined_run() -> str:
    """The MLflow run that Kubeflow's plugin opened for this run, "" elsewhere."""
    return os.environ.get("MLFLOW_RUN_ID", "")


def open_run(client: Any, run: RunSettings) -> tuple[str, str]:
    """Ids of the experiment and of the MLflow run that the stages of `run` log to, made where there is none, running.

    Raises:
        InputError: the server refuses, or the experiment is deleted.
    """
    try:
        run_id = joined_run() or _own_run(client, run)
        client.set_tag(run_id, RUN_TAG, run.run_id)
        if not joined_run():
            client.update_run(run_id, status="RUNNING")
        return client.get_run(run_id).info.experiment_id, run_id
    except CallforgeError:
        raise
    except Exception as error:
        raise refusal(error) from error


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
