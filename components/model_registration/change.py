"""One change of a model's aliases at a time, and whole.

The registry has no transaction and no compare-and-set. So whoever changes aliases first sets a tag of its own on the
registered model and then reads all such tags: of two at the same time at least one sees the other, and withdraws. What
is to be written is stored in that tag before the first write, and the tag is removed after the last one. A change that
was killed in between is finished by whoever comes next; its owner is known to be gone when its process is, or, on
another machine, after LEASE_SECONDS.
"""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from components.errors import WorkError

TAG = "callforge.change."
LEASE_SECONDS = 300.0  # a change takes seconds, of which the gate's reading of evaluations is the longest part
PATIENCE_SECONDS = 30.0
_at_work: set[str] = set()  # tokens of this process


class Write(BaseModel):
    """One write: an alias moved (or removed, without a version), or a tag of a version or of the model itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["alias", "version_tag", "model_tag"]
    name: str
    version: str | None = None
    value: str = ""


class _Plan(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
    what: str
    host: str
    pid: int
    time: float
    writes: list[Write] | None = None
    """None while the change is being decided."""


class Change:
    """The right to change the aliases of `model`; given by `sole_change`."""

    def __init__(self, client: Any, model: str, what: str) -> None:
        self.client, self.model = client, model
        self.token = uuid.uuid4().hex
        self.finished: list[str] = []
        """What interrupted changes were, that have been finished now."""
        self._plan = _Plan(what=what, host=os.uname().nodename, pid=os.getpid(), time=time.time())
        self._written = False

    def carry_out(self, writes: Sequence[Write]) -> None:
        """Store all writes, make them, and forget them. Interrupted, they are made by whoever comes next.

        Raises:
            WorkError: it took so long to decide on them that another change was let in.
        """
        if self.token not in _plans(self.client, self.model):
            raise WorkError(
                f"{self.model}: {self._plan.what} took more than {LEASE_SECONDS:.0f} s, and another change has begun "
                "meanwhile; nothing was written, try again"
            )
        self._plan = self._plan.model_copy(update={"writes": list(writes)})
        self._written = True
        self._put_up()
        _make(self.client, self.model, writes)
        self._take_down()

    def _put_up(self) -> None:
        self.client.set_registered_model_tag(self.model, TAG + self.token, self._plan.model_dump_json())

    def _take_down(self) -> None:
        self.client.delete_registered_model_tag(self.model, TAG + self.token)

    def _begin(self) -> bool:
        """Set the tag; False, and removed again, where another change is under way."""
        self._put_up()
        others = {token: plan for token, plan in _plans(self.client, self.model).items() if token != self.token}
        if any(plan is not None and not _is_gone(token, plan) for token, plan in others.items()):
            self._take_down()
            return False
        for token, plan in others.items():
            if plan is not None and plan.writes is not None:
                _make(self.client, self.model, plan.writes)
                self.finished.append(plan.what)
            self.client.delete_registered_model_tag(self.model, TAG + token)
        return True


@contextmanager
def sole_change(client: Any, model: str, what: str) -> Iterator[Change]:
    """The only change of the aliases of `model` for as long as the block lasts; an interrupted one is finished first.

    Args:
        what: the change in words, for whoever finishes or waits for it.

    Raises:
        WorkError: another change did not end within PATIENCE_SECONDS.
    """
    change = Change(client, model, what)
    deadline = time.monotonic() + PATIENCE_SECONDS
    _at_work.add(change.token)
    try:
        while not change._begin():
            if time.monotonic() > deadline:
                under_way = ", ".join(plan.what for plan in _plans(client, model).values() if plan) or "another change"
                raise WorkError(f"{model}: {under_way} is under way; look at the aliases and try again")
            time.sleep(random.uniform(0.1, 0.5))
        try:
            yield change
        finally:
            if not change._written:  # refused, or nothing to do
                change._take_down()
    finally:
        _at_work.discard(change.token)


def _plans(client: Any, model: str) -> dict[str, _Plan | None]:
    """The changes that are announced, by token; None for a tag that is not one of ours."""
    found: dict[str, _Plan | None] = {}
    for name, value in client.get_registered_model(model).tags.items():
        if name.startswith(TAG):
            try:
                found[name.removeprefix(TAG)] = _Plan.model_validate(json.loads(value))
            except (ValueError, ValidationError, RecursionError):
                found[name.removeprefix(TAG)] = None
    return found


def _is_gone(token: str, plan: _Plan) -> bool:
    """Whether the process that announced the change has ended without finishing it."""
    if plan.host == os.uname().nodename:
        if plan.pid == os.getpid():
            return token not in _at_work
        try:
            os.kill(plan.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass
    return time.time() - plan.time > LEASE_SECONDS


def _make(client: Any, model: str, writes: Sequence[Write]) -> None:
    """Make all writes; each may have been made before."""
    from mlflow.exceptions import MlflowException

    for write in writes:
        try:
            if write.kind == "model_tag":
                client.set_registered_model_tag(model, write.name, write.value)
            elif write.kind == "version_tag":
                client.set_model_version_tag(model, write.version, write.name, write.value)
            elif write.version is None:
                client.delete_registered_model_alias(model, write.name)
            else:
                client.set_registered_model_alias(model, write.name, write.version)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":  # an alias removed before, a version deleted since
                raise
