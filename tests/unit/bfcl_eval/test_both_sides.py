"""What an answer means, decided once for both sides: the reward of training and the official checker of the evaluation.

The reward may be stricter, and each rule by which it is stands in a table here; it never passes what BFCL fails.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.bfcl_eval.decode import LARGEST, decode
from components.bfcl_eval.grading import grade
from components.bfcl_eval.questions import Question
from components.egpo_rl.rewards import binary
from components.function_calls.parse import MAX_DEPTH, parse_calls, parse_turn
from components.function_calls.prompt import ToolNames, render_calls
from components.function_calls.record import Call, Message, Record
from components.function_calls.tool_schema import normalise_tool
from tests.unit.bfcl_eval.test_decode import decode_officially, turns
from tests.unit.function_calls.function_call_strategies import tools_and_calls
from tests.unit.function_calls.test_dialects import CALLS, TEXTS

FUNCTION = {
    "name": "f",
    "description": "",
    "parameters": {
        "type": "dict",
        "properties": {
            "days": {"type": "integer"},
            "flag": {"type": "boolean"},
            "items": {"type": "array", "items": {"type": "integer"}},
            "x": {"type": "float"},
            "text": {"type": "string"},
        },
        "required": [],
    },
}
TOOLS = (normalise_tool(FUNCTION),)
NAMES = ToolNames(TOOLS)


def both(answer: str, gold: dict[str, Any] | None) -> tuple[str, str]:
    """The reasons of the reward and of the leaderboard, "" for right; without gold no call is right."""
    answers = () if gold is None else (Call("f", gold),)
    record = Record("r", "test", (Message("user", "?"),), TOOLS, answers)
    category = "irrelevance" if gold is None else "simple_python"
    accepted = None if gold is None else [{"f": {name: [value] for name, value in gold.items()}}]
    question = Question("q", category, (), TOOLS, [FUNCTION], accepted)
    return binary(f"<think>so</think>\n{answer}", True, record, NAMES).reason, grade(question, answer).reason


@pytest.mark.parametrize(
    ("answer", "gold", "reward", "official"),
    [
        ("[f(days=3)]", {"days": 3}, "", ""),
        ("[f(days=-3)]", {"days": -3}, "", ""),
        ("[f(flag=True)]", {"flag": True}, "", ""),
        ("[f(items=[1, 2])]", {"items": [1, 2]}, "", ""),
        ("[f(x=5)]", {"x": 5.0}, "", ""),
        ("[f(text='it''s')]", {"text": "its"}, "", ""),
        ("[\n  f(days=3,),\n]", {"days": 3}, "", ""),
        # wrong for both
        ("[f(days=+3)]", {"days": 3}, "not_a_literal", "value_error:others"),  # -3 to the leaderboard
        ("[f(x=+1.5)]", {"x": 1.5}, "not_a_literal", "value_error:others"),
        ("[f(days=3, **{})]", {"days": 3}, "not_a_keyword", "unexpected_param"),
        ("[f(**{'days': 3})]", {"days": 3}, "not_a_keyword", "unexpected_param"),
        ("[f(flag=true)]", {"flag": True}, "not_a_literal", "type_error:simple"),
        ("[f(flag=false)]", {"flag": False}, "not_a_literal", "type_error:simple"),
        ("[f(text=null)]", {"text": "x"}, "not_a_literal", "value_error:string"),
        ("[f(items=(1, 2))]", {"items": [1, 2]}, "not_a_literal", "type_error:simple"),
        ("[f(days=5.0)]", {"days": 5}, "wrong_type", "type_error:simple"),
        ("[f(days=True)]", {"days": 1}, "wrong_type", "type_error:simple"),
        ("[f(days='3')]", {"days": 3}, "wrong_type", "type_error:simple"),
        ("[f()()]", {}, "not_a_call", "wrong_func_name"),
        ("[f()(days=3)]", {"days": 3}, "not_a_call", "wrong_func_name"),
        ("[f(days=3)] and more", {"days": 3}, "syntax", "no_call:syntax"),
        ("f(days=3)\nf(days=3)", {"days": 3}, "no_brackets", "no_call:no_brackets"),
        ('{"name": "f", "arguments": {"days": 3}}', {"days": 3}, "json_call", "no_call:json_call"),
        ("Sure:\nf(days=3)", {"days": 3}, "call_in_text", "no_call:call_in_text"),
        ("No function fits.", {"days": 3}, "not_a_list", "no_call:not_a_list"),
        # the reward is stricter by rule: one form, literals only, nothing beside the calls
        ("f(days=3)", {"days": 3}, "no_brackets", ""),
        ("```\n[f(days=3)]\n```", {"days": 3}, "no_brackets", ""),
        ("[f(days=3) # three\n]", {"days": 3}, "comment", ""),
        ("[f(days=1 + 2)]", {"days": 3}, "not_a_literal", ""),
        ("[f(1, days=3)]", {"days": 3}, "positional_argument", ""),
        ("[f(text=Rome)]", {"text": "Rome"}, "not_a_literal", ""),
        ("[f(text='ROME')]", {"text": "Rome"}, "wrong_value", ""),
        ("[f(text='" + "x" * 33_000 + "')]", {"text": "x" * 33_000}, "too_long", ""),
    ],
)  # fmt: skip
def test_where_a_call_is_right(answer: str, gold: dict[str, Any], reward: str, official: str) -> None:
    assert both(answer, gold) == (reward, official)


DEEP = "[" * MAX_DEPTH + "]" * MAX_DEPTH
CALLED = "called_though_irrelevant"


@pytest.mark.parametrize(
    ("answer", "reward", "official"),
    [
        ("No function fits.", "", ""),
        ("[Note] No function fits.", "", ""),
        ("[f(days=3)]", "called", CALLED),
        ("f(days=3)", "no_brackets", CALLED),
        ("f()()", "no_brackets", CALLED),
        ("[f()()]", "not_a_call", CALLED),
        ("f()(days=3), g[0](a=1)", "no_brackets", CALLED),
        ("f(days=3, # three\n)", "no_brackets", CALLED),
        ("f(days=3, # it's three\n), g()", "no_brackets", CALLED),
        ("# calls\nf(days=3)\n", "no_brackets", CALLED),
        (f"f(items={DEEP})", "no_brackets", CALLED),
        (f"{'(' * MAX_DEPTH}f(days=3){')' * MAX_DEPTH}", "no_brackets", CALLED),
        (f"[f(items={DEEP})]", "too_deep", CALLED),
        ("f(text='" + "x" * 33_000 + "')", "no_brackets", CALLED),
        ("[g](days=3) #", "comment", CALLED),
        # the reward is stricter by rule: a call in any dialect, or the attempt of one
        ("[]", "empty_list", ""),
        ("[f(days=3", "syntax", ""),
        ("Sure: [f(days=3)]", "call_in_text", ""),
        ('{"name": "f", "arguments": {"days": 3}}', "json_call", ""),
        ("<tool_call>f</tool_call>", "call_markup", ""),
    ],
)
def test_where_no_call_is_right(answer: str, reward: str, official: str) -> None:
    assert both(answer, None) == (reward, official)


@settings(max_examples=300, deadline=None)
@given(turns)
def test_what_the_reward_reads_the_leaderboard_reads_alike(text: str) -> None:
    calls, _ = parse_calls(text)
    if calls is not None and "**" not in text:
        assert repr(decode_officially(text)) == repr([{call.name: call.arguments} for call in calls])


@settings(max_examples=100, deadline=None)
@given(tools_and_calls())
def test_what_a_record_writes_the_leaderboard_reads_alike(drawn: tuple[list[Any], list[Call]]) -> None:
    tools, calls = drawn
    names = ToolNames(tools)
    text = render_calls(calls, names)
    if "**" not in text:
        written = [
            {names.shown(c.name): {names.shown_argument(c.name, key): v for key, v in c.arguments.items()}}
            for c in calls
        ]
        assert repr(decode_officially(text)) == repr(written)


NOISE = st.text(alphabet="[](){}=,.'\"`\\ \nfa1:#;", max_size=30)
NEAR_CALLS = st.builds(
    "{}{}{}".format,
    st.sampled_from(["", "[", "(", "`", "'", "#\n", "f, ", "x = "]) | NOISE,
    st.sampled_from(
        ["f(a=1)", "f()()", "f(1)(a=2), g()", "a[0](b=(c,))", "f(a=1, # b\n)", "[f](a=1)", "f(a='#')", "f(f'#')"]
    ),
    st.sampled_from(["", "]", ")", "`", "'", " # b", " #]", "\n", ";"]) | NOISE,
)


@settings(max_examples=600, deadline=None)
@given(NEAR_CALLS | turns | NOISE)
@example("][f](a=1) # b")
@example("[f](a=1), g() #")
@example("f(f'#')")
@example("f(a='''#''')")
def test_what_the_leaderboard_reads_as_a_call_is_no_text(text: str) -> None:
    if decode_officially(text):
        assert decode(text)
        assert parse_turn(f"<think></think>\n{text}").reason != "not_a_list"


def test_no_text_of_the_table_is_a_call_to_the_leaderboard() -> None:
    assert not [text for text in TEXTS if decode_officially(text)]
    assert sum(bool(decode_officially(text)) for text in CALLS) > 20


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(
        st.sampled_from(["9**250", "2**999", "7", "0x" + "f" * 900]),
        lambda inner: st.builds("({}{}{})".format, inner, st.sampled_from("*+%-") | st.just("//"), inner),
        max_leaves=60,
    )
)
def test_no_arithmetic_grows_beyond_its_bound(text: str) -> None:
    calls = decode(f"[f(a=[{text}, {text}+1])]")
    if calls and any(sign in text for sign in "*+%-/"):
        assert all(value.bit_length() <= LARGEST for value in calls[0]["f"]["a"])


def balanced(leaf: str, sign: str, leaves: int) -> str:
    """A sum or product as a tree, which is as deep as the logarithm of its leaves."""
    if leaves == 1:
        return leaf
    return f"({balanced(leaf, sign, leaves // 2)}{sign}{balanced(leaf, sign, leaves - leaves // 2)})"


def test_a_product_of_any_size_is_not_computed() -> None:
    assert decode(f"[f(a={balanced('9**250', '*', 6_000)})]") is None
    assert decode(f"[f(a={balanced('9**250', '+', 6_000)})]") == [{"f": {"a": 6_000 * 9**250}}]
