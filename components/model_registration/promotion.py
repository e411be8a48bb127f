"""Moves the aliases of a registered model: candidate -> challenger -> champion, and back.

Every change is made by itself and whole (change.py), so the champion that the gate compared with is the one that is
replaced. The champions of a model are a list, a tag of the registered model, so that rolling back works as often as
there were champions. Weights are not touched.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from components.errors import GateError, InputError, WorkError
from components.model_registration.change import Write, sole_change
from components.model_registration.evidence import decide
from components.model_registration.gate import Decision
from components.model_registration.registry import holder, registry_client, registry_faults, version_number

CANDIDATE, CHALLENGER, CHAMPION, PREVIOUS = "candidate", "challenger", "champion", "previous_champion"
CHAMPIONS_TAG = "callforge.champions"  # of the registered model: version numbers, the present champion last
GATE_TAG, REASONS_TAG, AGAINST_TAG = "callforge.gate", "callforge.gate_reasons", "callforge.gate_champion"
ROLLED_BACK_TAG = "callforge.rolled_back"
LONGEST_HISTORY = 100


def promote(model: str, version: str, alias: str, force: bool = False) -> list[str]:
    """Give `alias`, challenger or champion, to a version if the gate allows it; returns what was done, line by line.

    A promotion that was killed is finished by the next one, or by `roll_back`.

    Raises:
        GateError: the gate refuses, and not `force`.
        InputError: another alias, no such model or version.
        WorkError: the registry failed, another change is under way, or somebody else moved the champion meanwhile.
    """
    if alias not in (CHALLENGER, CHAMPION):
        raise InputError(f"alias: {CHALLENGER} or {CHAMPION} is expected, not {alias!r}")
    client = registry_client()
    with registry_faults(model), sole_change(client, model, f"promoting version {version} to {alias}") as change:
        version = version_number(client, model, version)
        tags = _tags(client, model, version)
        champion = holder(client, model, CHAMPION)
        lines = [f"finished what had been interrupted: {what}" for what in change.finished]
        passed = [_no_alias(name) for name in (CANDIDATE, CHALLENGER) if holder(client, model, name) == version]
        if champion == version:
            if passed:
                change.carry_out(passed)
            return [*lines, f"{model} version {version} is the champion already"]
        decision = decide(tags, _tags(client, model, champion) if champion else None)
        _record(client, model, version, decision, force, champion)
        if not decision.passed and not force:
            raise GateError(
                f"{model} version {version} may not be {alias}: {'; '.join(decision.reasons('failed', 'undecided'))}. "
                "`callforge promote --force` overrides the gate"
            )
        if holder(client, model, CHAMPION) != champion:
            raise WorkError(f"{model}: somebody moved the champion while the gate was deciding; promote again")
        lines += [f"gate: {rule.verdict}: {rule.reason}" for rule in decision.rules]
        if alias == CHAMPION:
            history = champions(client, model, champion)
            writes = [_alias(PREVIOUS, champion)] if champion else []
            writes += [_alias(CHAMPION, version), *passed, _history([*history, version])]
            lines += [f"{model} version {champion} is {PREVIOUS}"] if champion else []
        else:
            writes = [_alias(CHALLENGER, version), *(write for write in passed if write.name == CANDIDATE)]
        change.carry_out(writes)
        if holder(client, model, alias) != version:
            raise WorkError(f"{model}: somebody moved {alias} meanwhile; look at the registry")
        return [*lines, f"{model} version {version} is {alias}"]


def roll_back(model: str) -> list[str]:
    """Make the previous champion the champion again; returns what was done.

    Where a change had been interrupted, only that one is finished: called again after a kill, it goes back once.

    Raises:
        InputError: there is no such model, or no previous champion.
        WorkError: the registry failed, or another change is under way.
    """
    client = registry_client()
    with registry_faults(model), sole_change(client, model, "rolling back") as change:
        champion = holder(client, model, CHAMPION)
        if change.finished:
            done = ", ".join(change.finished)
            return [f"finished what had been interrupted: {done}", f"{model} version {champion} is {CHAMPION}"]
        history = champions(client, model, champion)
        earlier = [version for version in (history[:-1] if champion else history) if _exists(client, model, version)]
        if not earlier:
            raise InputError(f"{model}: there is no {PREVIOUS} to go back to")
        *before, target = earlier
        writes = [_alias(CHAMPION, target), _alias(PREVIOUS, before[-1] if before else None), _history(earlier)]
        if champion:
            now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            writes.append(Write(kind="version_tag", name=ROLLED_BACK_TAG, version=champion, value=now))
        change.carry_out(writes)
        gone = f", version {champion} is not any more" if champion else ""
        return [f"{model} version {target} is {CHAMPION} again{gone}"]


def champions(client: Any, model: str, champion: str | None = None) -> list[str]:
    """The champions so far, the present one last: the versions that rolling back may return to.

    Args:
        champion: the present one; where somebody set it in MLflow, it is among them from now on.
    """
    try:
        found = json.loads(client.get_registered_model(model).tags.get(CHAMPIONS_TAG, "[]"))
        history = [str(int(version)) for version in found]
    except (ValueError, TypeError, RecursionError):
        history = []
    if not history and (previous := holder(client, model, PREVIOUS)):
        history = [previous]
    return history if champion is None or history[-1:] == [champion] else [*history, champion]


def _alias(name: str, version: str | None) -> Write:
    return Write(kind="alias", name=name, version=version)


def _no_alias(name: str) -> Write:
    return Write(kind="alias", name=name)


def _history(versions: list[str]) -> Write:
    return Write(kind="model_tag", name=CHAMPIONS_TAG, value=json.dumps(versions[-LONGEST_HISTORY:]))


def _exists(client: Any, model: str, version: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        client.get_model_version(model, version)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise
    return True


def _tags(client: Any, model: str, version: str) -> Mapping[str, str]:
    return dict(client.get_model_version(model, version).tags)


def _record(client: Any, model: str, version: str, decision: Decision, force: bool, champion: str | None) -> None:
    """The decision stays with the version, and so does the champion that it was compared with."""
    verdict = "passed" if decision.passed else "forced" if force else "failed"
    client.set_model_version_tag(model, version, GATE_TAG, verdict)
    client.set_model_version_tag(model, version, AGAINST_TAG, champion or "none: its base")
    reasons = json.dumps([asdict(rule) for rule in decision.rules])
    client.set_model_version_tag(model, version, REASONS_TAG, reasons)
