"""What a rollout earns, from its text and the record only: the paper's binary reward and two for comparison.

Each reward is a pure function `(text, finished, record, names) -> Reward`; the text is parsed, never evaluated, and
no text makes it raise. Reasons are the short codes of function_calls.judge and one of our own, `truncated` (cut at the
longest completion); "" is right.

How the reward can be gamed: on a no-call record any plain text is right, so a policy may learn to answer in prose
everywhere. The step metrics therefore split the reward by kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from components.function_calls.judge import judge
from components.function_calls.parse import Turn, parse_turn
from components.function_calls.prompt import ToolNames
from components.function_calls.record import Call, Record

RewardName = Literal["binary", "format_bonus", "graded"]
TRUNCATED = "truncated"
FORMAT_BONUS = 0.5


@dataclass(frozen=True, slots=True)
class Reward:
    """`value` goes into the advantage; `solved`: right by the strict rule; `reason`: why not solved, else ""."""

    value: float
    solved: bool
    reason: str


RewardFunction = Callable[[str, bool, Record, ToolNames], Reward]


def binary(text: str, finished: bool, record: Record, names: ToolNames) -> Reward:
    """EGPO's reward (2508.05118v4, section 3): 1 or 0.

    0 when the thought template is broken; else, where calls are right, 1 if the answer parses as calls that equal the
    gold calls (in any order); else, where no call is right, 1 if the answer is plain text. A cut completion earns 0.
    A hole of the paper's rule is closed: neither a call list that does not parse nor what reads as a call in another
    form (function_calls/dialects.py) is a way to say that no function fits.
    """
    return _strict(_turn(text, finished, names), record)


def format_bonus(text: str, finished: bool, record: Record, names: ToolNames) -> Reward:
    """The paper's ablation: the binary reward, and 0.5 more for a kept thought template (0, 0.5 or 1.5)."""
    turn = _turn(text, finished, names)
    strict = _strict(turn, record)
    bonus = FORMAT_BONUS if turn is not None and turn.format_ok else 0.0
    return Reward(strict.value + bonus, strict.solved, strict.reason)


def graded(text: str, finished: bool, record: Record, names: ToolNames) -> Reward:
    """Partial credit in [0, 1], for comparison only: per call, a third each for name, argument names and values.

    Calls are paired with gold calls greedily, best pair first; the sum is divided by the longer of the two lists.
    Partial credit trains worse than the binary reward in published comparisons (2505.00024).
    """
    turn = _turn(text, finished, names)
    strict = _strict(turn, record)
    if strict.solved or turn is None or not turn.format_ok or not turn.calls or not record.answers:
        return strict
    pairs = sorted(
        ((_credit(call, gold), i, j) for i, call in enumerate(turn.calls) for j, gold in enumerate(record.answers)),
        key=lambda pair: (-pair[0], pair[1], pair[2]),
    )
    used_calls: set[int] = set()
    used_gold: set[int] = set()
    total = 0.0
    for credit, i, j in pairs:
        if i not in used_calls and j not in used_gold:
            used_calls.add(i)
            used_gold.add(j)
            total += credit
    return Reward(total / max(len(turn.calls), len(record.answers)), False, strict.reason)


REWARDS: dict[RewardName, RewardFunction] = {"binary": binary, "format_bonus": format_bonus, "graded": graded}


def _turn(text: str, finished: bool, names: ToolNames) -> Turn | None:
    return parse_turn(text, names) if finished else None


def _strict(turn: Turn | None, record: Record) -> Reward:
    reason = TRUNCATED if turn is None else judge(turn, record)
    return Reward(float(reason == ""), reason == "", reason)


def _credit(call: Call, gold: Call) -> float:
    if call.name != gold.name:
        return 0.0
    either = call.arguments.keys() | gold.arguments.keys()
    both = call.arguments.keys() & gold.arguments.keys()
    if not either:
        return 1.0
    equal = sum(_equal(call.arguments[name], gold.arguments[name]) for name in both)
    return (1 + len(both) / len(either) + equal / len(either)) / 3


def _equal(one: Any, other: Any) -> bool:
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)
