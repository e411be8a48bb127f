"""Moves the aliases of a registered model: candidate -> challenger -> champion, and back.

The registry has no compare-and-set, so the champion is read again right before it is replaced. Every promoted version
remembers whom it replaced, so rolling back works as often as there were champions. Weights are not touched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from components.errors import InputError, WorkError
from components.model_registration.evidence import decide
from components.model_registration.gate import Decision
from components.services.mlflow_server import first_line, mlflow_client, server_name, tracking_uri

CANDIDATE, CHALLENGER, CHAMPION, PREVIOUS = "candidate", "challenger", "champion", "previous_champion"
REPLACED_TAG, GATE_TAG, REASONS_TAG = "callforge.replaced", "callforge.gate", "callforge.gate_reasons"


def promote(model: str, version: str, alias: str, force: bool = False) -> list[str]:
    """Give `alias`, challenger or champion, to a version when the gate lets it; returns what was done, line by line.

    Raises:
        InputError: another alias, no such model or version, or the gate refuses (and not `force`).
        WorkError: the registry failed, or the champion changed meanwhile.
    """
    if alias not in (CHALLENGER, CHAMPION):
        raise InputError(f"alias: {CHALLENGER} or {CHAMPION} is wanted, not {alias!r}")
    client = _client()
    with _faults(model):
        version = _version_number(client, model, version)
        tags = _tags(client, model, version)
        champion = holder(client, model, CHAMPION)
        if champion == version:
            return [f"{model} version {version} is the champion already"]
        decision = decide(tags, _tags(client, model, champion) if champion else None)
        _record(client, model, version, decision, force)
        if not decision.passed and not force:
            raise InputError(
                f"{model} version {version} may not be {alias}: {'; '.join(decision.reasons('failed', 'undecided'))}. "
                "`callforge promote --force` overrides the gate"
            )
        if holder(client, model, CHAMPION) != champion:
            raise WorkError(f"{model}: the champion changed while the gate was asked; promote again")
        lines = [f"gate: {rule.verdict}: {rule.reason}" for rule in decision.rules]
        if alias == CHAMPION:
            if champion:
                client.set_model_version_tag(model, version, REPLACED_TAG, champion)
                client.set_registered_model_alias(model, PREVIOUS, champion)
                lines.append(f"{model} version {champion} is {PREVIOUS}")
            client.set_registered_model_alias(model, CHAMPION, version)
            for left in (CANDIDATE, CHALLENGER):
                if holder(client, model, left) == version:
                    client.delete_registered_model_alias(model, left)
        else:
            client.set_registered_model_alias(model, CHALLENGER, version)
            if holder(client, model, CANDIDATE) == version:
                client.delete_registered_model_alias(model, CANDIDATE)
        return [*lines, f"{model} version {version} is {alias}"]


def roll_back(model: str) -> list[str]:
    """Make the previous champion the champion again; returns what was done.

    Raises:
        InputError: there is no such model, or no previous champion.
        WorkError: the registry failed.
    """
    client = _client()
    with _faults(model):
        champion, previous = holder(client, model, CHAMPION), holder(client, model, PREVIOUS)
        if previous is None:
            raise InputError(f"{model}: there is no {PREVIOUS} to go back to")
        client.set_registered_model_alias(model, CHAMPION, previous)
        before = _tags(client, model, previous).get(REPLACED_TAG)
        if before:
            client.set_registered_model_alias(model, PREVIOUS, before)
        else:
            client.delete_registered_model_alias(model, PREVIOUS)
        if champion:
            client.set_model_version_tag(model, champion, "callforge.rolled_back", time.strftime("%Y-%m-%dT%H:%M:%S%z"))
        gone = f", version {champion} is not any more" if champion else ""
        return [f"{model} version {previous} is {CHAMPION} again{gone}"]


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


def _client() -> Any:
    if not tracking_uri():
        raise InputError("MLFLOW_TRACKING_URI: set it to the MLflow server that holds the registry")
    return mlflow_client()


def _version_number(client: Any, model: str, version: str) -> str:
    """`version` is a number, or an alias such as candidate."""
    if version.isdigit():
        return version
    found = holder(client, model, version)
    if found is None:
        raise InputError(f"{model}: no version has the alias {version}; give a version's number or one of its aliases")
    return found


def _tags(client: Any, model: str, version: str) -> Mapping[str, str]:
    return dict(client.get_model_version(model, version).tags)


def _record(client: Any, model: str, version: str, decision: Decision, force: bool) -> None:
    """The decision stays with the version."""
    verdict = "passed" if decision.passed else "forced" if force else "failed"
    client.set_model_version_tag(model, version, GATE_TAG, verdict)
    reasons = json.dumps([asdict(rule) for rule in decision.rules])
    client.set_model_version_tag(model, version, REASONS_TAG, reasons)


@contextmanager
def _faults(model: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            raise InputError(f"{model}: {first_line(error)}; look at {server_name()}") from None
        raise WorkError(f"{model}: the registry at {server_name()} failed: {first_line(error)}") from error
