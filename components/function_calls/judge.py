"""Is a model's turn right for its record? The one rule of refinement, warm-up and rewards.

A record whose own turn the reward would refuse is set aside by refinement, because both use this rule.
"""

from __future__ import annotations

from components.function_calls.match import match
from components.function_calls.parse import Turn, parse_turn
from components.function_calls.prompt import ToolNames, render_turn
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


def judge_gold(record: Record, names: ToolNames) -> str:
    """`judge` of the record's own turn as it is rendered for training: "" for every record fit to be trained on."""
    turn = render_turn(record.cot, record.answers, record.response, names)
    return judge(parse_turn(turn.text, names), record)
