"""What a perfect model would say: BFCL's gold answers written out as calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from components.bfcl_eval.questions import Question
from components.function_calls.record import Call


@pytest.fixture(scope="session")
def gold_calls() -> Callable[[Question], list[Call]]:
    """`gold_calls(question)`: the gold as calls."""
    return _gold_calls


def _gold_calls(question: Question) -> list[Call]:
    """The first accepted value of each argument that has one; "" means that it may be left out."""
    calls = []
    for expected in question.gold or ():
        ((name, arguments),) = expected.items()
        accepted = {key: [value for value in values if value != ""] for key, values in arguments.items()}
        calls.append(Call(name, {key: _plain(values[0]) for key, values in accepted.items() if values}))
    return calls


def _plain(value: Any) -> Any:
    """Inside nested dicts the values are lists of accepted values again."""
    if isinstance(value, dict):
        return {
            key: _plain(next((one for one in accepted if one != ""), "")) if isinstance(accepted, list) else accepted
            for key, accepted in value.items()
        }
    return [_plain(item) for item in value] if isinstance(value, list) else value
