"""The MLflow registry: versions by number or alias, and where their weights are. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from components.errors import InputError, WorkError
from components.services.mlflow_server import first_line, mlflow_client, server_name, tracking_uri

MODELS = "models:/"
_REFERENCE = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>[^/@]+))")


def registry_client() -> Any:
    """A client of the server that MLFLOW_TRACKING_URI names.

    Raises:
        InputError: it is not set, or nobody answers there.
    """
    if not tracking_uri():
        raise InputError("MLFLOW_TRACKING_URI: set it to the MLflow server that holds the registry")
    return mlflow_client()


def version_source(reference: str) -> str:
    """Where the weights of `models:/NAME@ALIAS` or `models:/NAME/VERSION` are, as MLflow writes a registered model.

    Raises:
        InputError: it is written otherwise, or there is no such model, version or alias.
        WorkError: the registry failed.
    """
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        raise InputError(f"model {reference[:200]}: write models:/NAME@ALIAS, e.g. @champion, or models:/NAME/VERSION")
    client, name = registry_client(), found["name"]
    with registry_faults(name):
        number = version_number(client, name, found["alias"] or found["version"])
        return str(client.get_model_version(name, number).source)


def version_number(client: Any, model: str, version: str) -> str:
    """`version` is a number ("02" is 2), or an alias such as candidate."""
    if re.fullmatch(r"[0-9]{1,18}", version):
        return str(int(version))
    found = holder(client, model, version)
    if found is None:
        raise InputError(f"{model}: no version has the alias {version}; give a version's number or one of its aliases")
    return found


def holder(client: Any, model: str, alias: str) -> str | None:
    """The version that has `alias`, as text; None when none has it."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(model, alias).version)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            client.get_registered_model(model)  # tells a missing model from a missing alias
            return None
        raise


def aliases_of(client: Any, model: str, version: int | str) -> list[str]:
    """The aliases that a version has."""
    found = client.get_registered_model(model).aliases
    return sorted(alias for alias, number in found.items() if str(number) == str(version))


@contextmanager
def registry_faults(model: str) -> Iterator[None]:
    """What the registry raises about `model`, as errors of ours."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise InputError(f"{model}: {first_line(error)}; look at {server_name()}") from None
        raise WorkError(f"{model}: the registry at {server_name()} failed: {first_line(error)}") from error
