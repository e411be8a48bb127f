"""Our strict matcher beside the official BFCL checker: gold answers, and wrong answers of every kind made from them.

The official checker knows several accepted values per argument, ours one gold call, so gold is the first accepted
value of each. Every question on which the two verdicts differ is listed below with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest

from components.function_calls.match import match
from components.function_calls.prompt import ToolNames, render_calls
from components.function_calls.record import Call

pytest.importorskip("bfcl_eval", reason="the official checker, bfcl-eval, is not installed")

from components.bfcl_eval.grading import grade
from components.bfcl_eval.questions import Question, load_questions

CATEGORIES = (
    "simple_python", "multiple", "parallel", "parallel_multiple",
    "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple",
)  # fmt: skip
Calls = tuple[Call, ...]


@cache
def questions() -> list[tuple[Question, Calls]]:
    return [(question, gold_calls(question)) for question in load_questions(CATEGORIES)]


def gold_calls(question: Question) -> Calls:
    assert question.gold is not None
    return tuple(
        Call(name, {argument: first(values) for argument, values in arguments.items() if may_be_given(values)})
        for call in question.gold
        for name, arguments in call.items()
    )


def may_be_given(accepted: list[Any]) -> bool:
    return any(value != "" for value in accepted)  # "" means: may be left out


def first(accepted: list[Any]) -> Any:
    value = next(value for value in accepted if value != "")
    if isinstance(value, dict) and all(isinstance(values, list) for values in value.values()):
        return {key: first(values) for key, values in value.items() if may_be_given(values)}
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [first([item]) for item in value]
    return value


def verdicts(question: Question, gold: Calls, calls: Calls) -> tuple[bool, bool, str]:
    official = grade(question, render_calls(calls, ToolNames(question.tools)))
    ours = match(calls, gold, question.tools)
    return official.right, ours.ok, ours.reason


# Gold that fails its own checker, which asks the function's description besides.
GOLD_SLIPS = {
    "parallel_multiple_12": "the gold accepts `permeability`, which the function does not have",
    "parallel_multiple_26": "the gold accepts `type`, which the function does not have",
    "live_simple_106-63-0": "no accepted value for required arguments",
    "live_simple_112-68-0": "no accepted value for required arguments",
    "live_multiple_507-149-4": "the required `origin_airport` may be left out by the gold",
    "live_multiple_862-181-3": "the gold demands `journey_start_time`, which the function does not have",
    "live_multiple_964-207-0": "the gold demands `question`, the function `statement`",
}


def test_gold_answers_are_right_for_both() -> None:
    assert len(questions()) == 2351
    differ = set()
    for question, gold in questions():
        official, ours, reason = verdicts(question, gold, gold)
        assert ours, (question.id, reason)
        if not official:
            differ.add(question.id)
    assert differ == GOLD_SLIPS.keys()


# The gold accepts "Apple" for the call about Microsoft too, and the checker takes the first call that fits each gold
# call: in another order the call about Microsoft is left over.
ORDER_MATTERS = {"parallel_178"}


def test_the_same_answer_written_otherwise_is_right_for_both() -> None:
    differ = set()
    for question, gold in questions():
        if question.id in GOLD_SLIPS:
            continue
        for kind in (other_argument_order, other_call_order, integer_for_float):
            for calls in kind(question, gold):
                official, ours, reason = verdicts(question, gold, calls)
                assert ours, (question.id, calls, reason)
                if not official:
                    differ.add(question.id)
    assert differ == ORDER_MATTERS


def other_argument_order(question: Question, gold: Calls) -> Iterator[Calls]:
    yield tuple(Call(call.name, dict(reversed(call.arguments.items()))) for call in gold)


def other_call_order(question: Question, gold: Calls) -> Iterator[Calls]:
    if len(gold) > 1:
        yield gold[::-1]


def integer_for_float(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, argument, value in each_argument(question, gold):
        if type(value) is float and value.is_integer() and declared(question, gold[index], argument) == "number":
            yield replaced(gold, index, argument, int(value))


# -- wrong answers --------------------------------------------------------------------------------------------------


def schema_of(question: Question, call: Call) -> dict[str, Any]:
    return next(tool.parameters for tool in question.tools if tool.name == call.name)


def declared(question: Question, call: Call, argument: str) -> Any:
    return schema_of(question, call)["properties"].get(argument, {}).get("type")


def with_arguments(calls: Calls, index: int, arguments: dict[str, Any]) -> Calls:
    return (*calls[:index], Call(calls[index].name, arguments), *calls[index + 1 :])


def each_argument(question: Question, gold: Calls) -> Iterator[tuple[int, str, Any]]:
    for index, call in enumerate(gold):
        for argument, value in call.arguments.items():
            yield index, argument, value


def replaced(gold: Calls, index: int, argument: str, value: Any) -> Calls:
    return with_arguments(gold, index, {**gold[index].arguments, argument: value})


def missing_required(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, argument, _ in each_argument(question, gold):
        if argument in schema_of(question, gold[index]).get("required", ()):
            yield with_arguments(gold, index, {k: v for k, v in gold[index].arguments.items() if k != argument})


def missing_optional(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, argument, _ in each_argument(question, gold):
        if argument not in schema_of(question, gold[index]).get("required", ()):
            yield with_arguments(gold, index, {k: v for k, v in gold[index].arguments.items() if k != argument})


def unknown_argument(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, call in enumerate(gold):
        yield with_arguments(gold, index, {**call.arguments, "no_such_argument": 1})


def wrong_type(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, argument, value in each_argument(question, gold):
        if isinstance(value, str):
            yield replaced(gold, index, argument, 123456)
        else:
            yield replaced(gold, index, argument, str(value))


def boolean_for_number(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, argument, value in each_argument(question, gold):
        if type(value) in (int, float) and value in (0, 1):
            yield replaced(gold, index, argument, bool(value))


def float_for_integer(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, argument, value in each_argument(question, gold):
        if type(value) is int and declared(question, gold[index], argument) == "integer":
            yield replaced(gold, index, argument, float(value))


def wrong_value(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, argument, value in each_argument(question, gold):
        if value is not None:
            yield replaced(gold, index, argument, another(value))


def another(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + " or so"
    if isinstance(value, list):
        return [*value, *value, value[-1] if value else "x"]
    if isinstance(value, dict):
        return {**value, "no_such_key": 1}
    return value + 1_000_003


def other_order_in_list(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, argument, value in each_argument(question, gold):
        if isinstance(value, list) and value != value[::-1]:
            yield replaced(gold, index, argument, value[::-1])


def wrong_name(question: Question, gold: Calls) -> Iterator[Calls]:
    for index, call in enumerate(gold):
        others = [tool.name for tool in question.tools if tool.name not in {one.name for one in gold}]
        yield (*gold[:index], Call(others[0] if others else call.name + "_2", call.arguments), *gold[index + 1 :])


def missing_call(question: Question, gold: Calls) -> Iterator[Calls]:
    if len(gold) > 1:
        yield from (gold[:index] + gold[index + 1 :] for index in range(len(gold)))


def extra_call(question: Question, gold: Calls) -> Iterator[Calls]:
    yield (*gold, gold[0])


def repeated_call(question: Question, gold: Calls) -> Iterator[Calls]:
    """As many calls as in the gold, one of them twice in the place of another."""
    if len(gold) > 1 and gold[0] != gold[1]:
        yield (gold[0], gold[0], *gold[2:])


def other_spelling(question: Question, gold: Calls) -> Iterator[Calls]:
    """Upper and lower case exchanged."""
    for index, argument, value in each_argument(question, gold):
        if isinstance(value, str) and value.swapcase() != value:
            yield replaced(gold, index, argument, value.swapcase())


# What each kind of wrong answer is made by, and the reason our matcher gives.
WRONG: dict[Callable[[Question, Calls], Iterator[Calls]], set[str]] = {
    missing_required: {"missing_argument"},
    missing_optional: {"missing_optional_argument"},
    unknown_argument: {"unknown_argument"},
    wrong_type: {"wrong_type"},
    boolean_for_number: {"wrong_type"},
    float_for_integer: {"wrong_type"},
    wrong_value: {"wrong_value"},
    other_order_in_list: {"wrong_value"},
    wrong_name: {"wrong_name"},
    missing_call: {"wrong_count"},
    extra_call: {"wrong_count"},
    # the gold call it replaces may be of another tool, or of the same one with other arguments
    repeated_call: {"wrong_value", "wrong_name", "missing_optional_argument"},
    other_spelling: {"wrong_value"},
}

# Questions on which the official checker passes a wrong answer that ours refuses. Ours never passes what it refuses.
# 1. By rule (see `is_accepted`): the answer is another of those the gold accepts: an optional argument with "" among
#    its accepted values left out, the other boolean, the other order of a list. Our gold is one answer.
# 2. By rule: text is compared without case and the marks ",./-_*^" and blanks (`other_spelling`).
# 3. By id, for the same reason: genotypes AA and Aa are one text to it (`repeated_call`).
OFFICIAL_IS_LAXER = {"parallel_116"}
# Where the gold is text and the function declares another type, the text stands for a variable and its case counts.
OFFICIAL_KEEPS_CASE = {
    "parallel_multiple_21",
    "live_multiple_306-131-5",
    "live_multiple_338-133-2",
    "live_multiple_342-133-6",
    "live_multiple_343-133-7",
    "live_multiple_344-133-8",
    "live_multiple_345-133-9",
    "live_multiple_350-133-14",
    "live_multiple_351-133-15",
    "live_multiple_352-133-16",
    "live_multiple_354-133-18",
    "live_parallel_multiple_21-18-0",
}


def is_accepted(question: Question, calls: Calls) -> bool:
    """Is each call, at its place, one that the gold names literally?"""
    assert question.gold is not None
    for call, gold in zip(calls, question.gold, strict=True):
        ((name, values),) = gold.items()
        given = call.arguments
        if (
            call.name != name
            or not given.keys() <= values.keys()
            or any("" not in accepted for argument, accepted in values.items() if argument not in given)
            or any(
                value not in [first([one]) for one in values[argument] if one != ""]
                for argument, value in given.items()
            )
        ):
            return False
    return True


@pytest.mark.parametrize("kind", WRONG, ids=lambda kind: kind.__name__)
def test_wrong_answers_are_wrong_for_both(kind: Callable[[Question, Calls], Iterator[Calls]]) -> None:
    reasons, tried, unexplained = set(), 0, []
    for question, gold in questions():
        if question.id in GOLD_SLIPS:
            continue
        for calls in kind(question, gold):
            tried += 1
            official, ours, reason = verdicts(question, gold, calls)
            reasons.add(reason)
            assert not ours, (question.id, calls)
            if kind is other_spelling:
                explained = official or question.id in OFFICIAL_KEEPS_CASE
            elif kind is repeated_call and question.id in OFFICIAL_IS_LAXER:
                explained = official
            else:
                explained = not official or is_accepted(question, calls)
            if not explained:
                unexplained.append((question.id, calls))
    assert not unexplained
    assert reasons == WRONG[kind]
    assert tried > 200
