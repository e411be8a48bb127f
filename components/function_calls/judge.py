"""Is a model's turn right for its record? The one rule of refinement, warm-up and rewards.

What refinement lets through earns 1 when written as its gold says, because both ask here.
"""

from __future__ import annotations

from components.function_calls.match import match
from components.function_calls.parse import Turn
from components.function_calls.record import Record


def judge(turn: Turn, record: Record) -> str:
    """ "" when the turn is right, else why not: a code of parse.py, dialects.py or match.py, or `called`.

    Right is a thought, a newline, and the gold calls in any order; where no call is right, plain text that reads as a
    call in no dialect.
    """
    if not turn.format_ok:
        return turn.reason
    if not record.answers:
        return "" if turn.is_text else "called" if turn.calls else turn.reason
    if turn.calls is None:
        return turn.reason
    return match(turn.calls, record.answers, record.tools).reason
