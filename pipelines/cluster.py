"""The cluster side of the command line: compile and upload the pipelines, start a run, follow it.

Talks only to the Kubeflow Pipelines API (kfp.Client): no kubectl, no rights beyond those of the API. Credentials are
those of kfp.Client: a kubeconfig, a service account in the cluster, or KFP_TOKEN. Tested against a small fake of the
API; never yet run against a real one (docs/kubeflow.md).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from components.errors import CallforgeError, InputError, WorkError, without_login
from components.preflight.checks import named_settings
from components.services.web import NoAnswerError, ask
from components.settings import AUTO, read_layer, resolve_settings
from pipelines.compiled_files import compiled_name, write_pipelines
from pipelines.profiles import CLUSTER_PROFILES, find_profile

TOKEN = "KFP_TOKEN"  # noqa: S105  # the name of a variable
POLL_SECONDS = 10.0
LONGEST_SILENCE = 600.0  # an API server may restart while a long run goes on
ENDED = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}


def upload_pipelines(endpoint: str, namespace: str | None = None) -> Iterator[tuple[str, str]]:
    """Upload a version of every pipeline, named by the time; yields names of pipeline and version.

    Raises:
        InputError: nobody answers at `endpoint`, it refuses, or the images have no valid names.
    """
    version = time.strftime("%Y%m%d-%H%M%S")
    with tempfile.TemporaryDirectory() as folder, _client(endpoint) as client:
        for path in sorted(write_pipelines(Path(folder))):
            name = f"callforge-{path.stem}"
            pipeline_id = _pipeline_id(client, name, namespace)
            if pipeline_id is None:
                client.upload_pipeline(str(path), pipeline_name=name, namespace=namespace)
            else:
                client.upload_pipeline_version(
                    str(path), pipeline_version_name=f"{name}-{version}", pipeline_id=pipeline_id
                )
            yield name, version


def _pipeline_id(client: Any, name: str, namespace: str | None) -> str | None:
    """The pipeline's id; kfp.Client.get_pipeline_id does not see those of a namespace."""
    named = {"predicates": [{"operation": "EQUALS", "key": "display_name", "stringValue": name}]}
    found = client.list_pipelines(filter=json.dumps(named), namespace=namespace).pipelines or []
    return found[0].pipeline_id if found else None


def submit_run(
    endpoint: str,
    profile: str,
    parameters: dict[str, str],
    settings: dict[str, Any],
    run_name: str | None,
    namespace: str | None,
    tell: Callable[[str], None],
    service_account: str | None = None,
) -> str:
    """Compile the training pipeline of `profile` and start it; returns the id of the Kubeflow run.

    Args:
        parameters: run parameters by name, as the Kubeflow form shows them.
        settings: further settings, dotted; they become the parameter `settings`.
        service_account: identity of the run's pods (manifests/base has one); None is the cluster's default.

    Raises:
        InputError: an unknown profile, parameter or setting, or an endpoint that refuses.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = _package(profile, Path(folder))
        arguments = _arguments(package, profile, parameters, settings)
        name = run_name or f"callforge-{profile}-{time.strftime('%Y%m%d-%H%M%S')}"
        with _client(endpoint) as client:
            run = client.create_run_from_pipeline_package(
                str(package), arguments=arguments, run_name=name, experiment_name="callforge", namespace=namespace,
                service_account=service_account,
            )  # fmt: skip
    tell(f"started {name}: {endpoint.rstrip('/')}/#/runs/details/{run.run_id}")
    return str(run.run_id)


def _arguments(package: Path, profile: str, parameters: dict[str, str], settings: dict[str, Any]) -> dict[str, str]:
    """The run's arguments, checked: what preflight would find on the cluster is found before a pod is asked for."""
    known = _parameter_names(package)
    for name in parameters:
        if name not in known:
            raise InputError(f"--parameter {name}: the pipeline has no such parameter; known are {', '.join(known)}")
    arguments = {name: value for name, value in parameters.items() if value != AUTO}
    given = read_layer(parameters.get("settings", "{}"), "--parameter settings")
    resolve_settings(find_profile(profile).settings, named_settings(arguments), given, settings)
    if "data" not in arguments:
        raise InputError("--parameter data: say what to train on, e.g. --parameter data=s3://bucket/records.jsonl.gz")
    if settings:
        arguments["settings"] = json.dumps(given | settings, sort_keys=True)
    return arguments


def follow_run(endpoint: str, run_id: str, tell: Callable[[str], None]) -> None:
    """Print the states of the run and of its steps until it ends. An API that is away for a while is waited for.

    Raises:
        InputError: nobody answers at `endpoint`, or there is no such run.
        WorkError: the run did not succeed, the login ended meanwhile, or the API stayed away.
    """
    shown: dict[str, str] = {}
    heard = time.monotonic()
    with _client(endpoint) as client:
        while True:
            try:
                run = client.get_run(run_id)
                if run.run_id != run_id:  # made of a page of something else
                    raise NoAnswerError("what answers is not the Kubeflow Pipelines API")
                heard = time.monotonic()
            except Exception as error:  # the API client raises urllib3's errors and its own
                if (refusal := _for_good(endpoint, run_id, error)) is not None:
                    raise refusal from error
                if time.monotonic() - heard > LONGEST_SILENCE:
                    raise WorkError(
                        f"{endpoint}: no answer for {LONGEST_SILENCE:.0f} s ({_short(error)}); "
                        f"{_goes_on(endpoint, run_id)}"
                    ) from error
                time.sleep(POLL_SECONDS)
                continue
            for task in (run.run_details.task_details if run.run_details else None) or []:
                if task.display_name and shown.get(task.display_name) != task.state:
                    shown[task.display_name] = task.state
                    tell(f"{task.display_name}: {str(task.state).lower()}")
            if run.state in ENDED:
                if run.state != "SUCCEEDED":
                    reason = f": {run.error.message}" if run.error else ""
                    raise WorkError(f"run {run_id}: {str(run.state).lower()}{reason}; its page has the steps' logs")
                tell("succeeded")
                return
            time.sleep(POLL_SECONDS)


def _goes_on(endpoint: str, run_id: str) -> str:
    return f"the run goes on in the cluster, and `callforge follow {run_id} --endpoint {endpoint}` follows it again"


def _for_good(endpoint: str, run_id: str, error: Exception) -> CallforgeError | None:
    """The error where no patience helps. A gateway answers with its login page, which the client cannot read: so the
    answer itself is looked at."""
    status = getattr(error, "status", None)
    if status in (None, 404):
        with suppress(NoAnswerError):
            url = f"{endpoint.rstrip('/')}/apis/v2beta1/runs/{run_id}"
            answer = ask(url, token=os.environ.get(TOKEN, ""))
            is_page = answer.status == 200 and answer.body.lstrip().startswith(b"<")
            status = 401 if is_page else answer.status
    if status == 404:
        return InputError(f"{endpoint}: there is no run {run_id}; its page in Kubeflow shows the id")
    if status in (301, 302, 303, 307, 308, 401, 403):
        return WorkError(
            f"{endpoint}: the login has ended, or may not see the run (HTTP {status}); {_goes_on(endpoint, run_id)} "
            f"after you logged in, or set {TOKEN} to a new token"
        )
    return None


def _package(profile: str, folder: Path) -> Path:
    find_profile(profile)
    if profile not in CLUSTER_PROFILES:
        raise InputError(
            f"profile {profile}: it is for this machine; for a cluster there are {', '.join(CLUSTER_PROFILES)}"
        )
    write_pipelines(folder)
    return folder / compiled_name("train", profile)


def _parameter_names(package: Path) -> list[str]:
    import yaml

    with package.open(encoding="utf-8") as file:
        specification = next(yaml.safe_load_all(file))
    return sorted(specification["root"]["inputDefinitions"]["parameters"])


@contextmanager
def _client(endpoint: str) -> Iterator[Any]:
    """A client of the Pipelines API; what it raises becomes one paragraph."""
    check_api(endpoint)
    import kfp

    silence = logging.NullHandler()  # the client logs tracebacks of what it then raises
    logging.getLogger().addHandler(silence)
    try:
        yield kfp.Client(host=endpoint, existing_token=os.environ.get(TOKEN))
    except CallforgeError:
        raise
    except Exception as error:  # kfp_server_api.ApiException, urllib3 errors, ValueError of the client
        raise _refusal(endpoint, _short(error), getattr(error, "status", None)) from error
    finally:
        logging.getLogger().removeHandler(silence)


def check_api(endpoint: str) -> None:
    """Somebody answers: the client itself would try for half a minute.

    Raises:
        InputError: nobody does, or we are not let in.
    """
    if endpoint != without_login(endpoint):  # the client would leave it out, and the run's address would show it
        raise _refusal(without_login(endpoint), "a user and password in the address are not used", 401)
    if not endpoint.startswith(("http://", "https://")):
        raise InputError(f"endpoint {endpoint!r}: an http(s) address of the Kubeflow Pipelines API is expected")
    try:
        answer = ask(f"{endpoint.rstrip('/')}/apis/v2beta1/healthz", token=os.environ.get(TOKEN, ""))
    except NoAnswerError as error:
        raise _refusal(endpoint, f"nobody answers ({error})", None) from None
    if answer.status >= 400:
        raise _refusal(endpoint, f"it answers {answer.status} {answer.reason}", answer.status)


def _refusal(endpoint: str, reason: str, status: int | None) -> InputError:
    if status in (401, 403):
        remedy = f"log in, or set {TOKEN} to a token that may use the namespace"
    elif status and status >= 500:
        remedy = "see the log of ml-pipeline in the cluster"
    else:
        remedy = "is it the address of the Kubeflow Pipelines API, and can it be reached from here?"
    return InputError(f"endpoint {endpoint}: {reason}; {remedy}")


def _short(error: Exception) -> str:
    body = getattr(error, "body", None)
    if body:
        try:
            return without_login(str(json.loads(body).get("error") or json.loads(body).get("message")))[:300]
        except (ValueError, AttributeError):
            return without_login(str(body))[:300]
    return without_login(" ".join(str(error).split()))[:300] or type(error).__name__
