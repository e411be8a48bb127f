"""A bound on the work that one record may cost, in steps that do not depend on the machine.

A record of legal size can still take hours: a list of 10,000 values against an enum of 10,000, an `anyOf` of
thousands in an `anyOf` of thousands. Whatever walks a record counts its steps here; whoever handles a record sets the
limit around it, and beyond the limit the record is refused. Without a limit, steps are free.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from components.function_calls.record import RecordError

MAX_STEPS = 50_000  # of some microseconds each; records of public data sets take at most some hundreds
TOO_MUCH_WORK = "too_much_work"

_LEFT: ContextVar[list[int] | None] = ContextVar("steps left", default=None)


@contextmanager
def limited_work(steps: int = MAX_STEPS) -> Iterator[None]:
    """Inside the block, `spend` raises as soon as more than `steps` are spent; the innermost block counts."""
    token = _LEFT.set([steps])
    try:
        yield
    finally:
        _LEFT.reset(token)


def spend(steps: int = 1) -> None:
    """Count steps of work.

    Raises:
        RecordError: "too_much_work", when the limit set around the caller is passed.
    """
    left = _LEFT.get()
    if left is None:
        return
    left[0] -= steps
    if left[0] < 0:
        raise RecordError(TOO_MUCH_WORK, "checking it takes more steps than a record may cost")
