"""The parser: reads what render_turn writes, refuses the rest with a reason, and never raises."""

from __future__ import annotations

import inspect
import io
import subprocess
import sys
import tokenize
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from components.function_calls.parse import MAX_CALLS, MAX_CHARACTERS, MAX_DEPTH, parse_calls, parse_turn
from components.function_calls.prompt import ToolNames, render_calls, render_turn
from components.function_calls.record import Call
from tests.unit.function_calls.function_call_strategies import json_values, tools_and_calls

NO_NAMES = ToolNames([])


@given(tools_and_calls())
def test_rendered_calls_parse_back(drawn: tuple[list[Any], list[Call]]) -> None:
    tools, calls = drawn
    names = ToolNames(tools)
    assert parse_calls(render_calls(calls, names), names) == (tuple(calls), "")


@given(st.text(max_size=40), tools_and_calls())
@example("a <think> inside </think>", ([], [Call("f", {"a": "</think>\n[g()]"})]))
@example("<thi<think>nk>", ([], [Call("f", {"</think>": 1})]))
def test_rendered_turns_parse_back(thought: str, drawn: tuple[list[Any], list[Call]]) -> None:
    tools, calls = drawn
    names = ToolNames(tools)
    text = render_turn(thought, calls, None, names)
    turn = parse_turn(text.text, names)
    assert (turn.calls, turn.thought, turn.reason) == (tuple(calls), text.thought, "")


@given(json_values)
def test_values_keep_their_type(value: Any) -> None:
    calls, _ = parse_calls(render_calls([Call("f", {"a": value})], NO_NAMES))
    assert calls is not None
    assert repr(calls[0].arguments["a"]) == repr(value)  # repr tells 1 from 1.0 from True, and 0.0 from -0.0


@given(st.text(max_size=200))
@example("<think></think>\n[" + "(" * 5000)
@example("<think></think>\n[f(a='\x00')]")
@example("[f(a=" + "9" * 5000 + ")]")
@example("[f(a=\ud800)]")
@example('[f(a="\\N{nope}")]')
@example("[f(a=1e999)]")
def test_any_text_is_answered(text: str) -> None:
    turn = parse_turn(text)
    assert (turn.calls is None) or turn.reason in ("", "no_thought", "thought_repeated", "no_newline")
    assert parse_turn(f"<think>\n</think>\n{text}").thought in ("\n", None)


@given(tools_and_calls(), st.data())
def test_a_mutated_turn_is_answered(drawn: tuple[list[Any], list[Call]], data: st.DataObject) -> None:
    tools, calls = drawn
    names = ToolNames(tools)
    text = render_turn("so", calls, None, names).text
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        cut = data.draw(st.integers(0, 6))
        text = (
            text[:at]
            + data.draw(st.sampled_from(["", "(", "]", '"', "=", ",", "*", "\\", "1", "lambda:", "\n"]))
            + text[at + cut :]
        )
    turn = parse_turn(text, names)
    assert turn.calls is None or all(isinstance(call, Call) for call in turn.calls)


@settings(max_examples=300)
@given(
    st.lists(
        st.sampled_from(["'", '"', "'''", '"""', "#", "\n", "\\", "r", "f", "x", ", ", "[", "]", "1"]), max_size=12
    )
)
@example(["'", "\\", "\n", "#", "'", "#"])
def test_no_comment_is_read(parts: list[str]) -> None:
    text = f"[f(a=[{''.join(parts)}])]"
    if parse_calls(text)[0] is not None:
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        assert all(token.type != tokenize.COMMENT for token in tokens), text


GOOD = '[f(a=1, b="x")]'


@pytest.mark.parametrize(
    ("text", "reason", "format_ok"),
    [
        (f"<think>so</think>\n{GOOD}", "", True),
        (f"<think></think>\n{GOOD}", "", True),
        (f"<think>so</think>\n\n  {GOOD} \n", "", True),
        ("<think>so</think>\nNo function fits.", "not_a_list", True),
        ("<think>so</think>\n[f(a=1", "syntax", True),
        (f"<think>so</think>{GOOD}", "no_newline", False),
        (f"<think>so</think> {GOOD}", "no_newline", False),
        ("<think>so</think>\n ", "no_answer", False),
        ("<think>so</think>", "no_answer", False),
        (f"<think>so\n{GOOD}", "thought_not_closed", False),
        (GOOD, "no_thought", False),
        ("", "no_thought", False),
        (f"so</think>\n{GOOD}", "no_thought", False),
        (f" <think>so</think>\n{GOOD}", "no_thought", False),
        (f"<think>a</think>\n<think>b</think>\n{GOOD}", "thought_repeated", False),
        (f"<think>a<think>b</think>\n{GOOD}", "thought_repeated", False),
        (f"<think>a</think></think>\n{GOOD}", "thought_repeated", False),
    ],
)
def test_the_frame_of_a_turn(text: str, reason: str, format_ok: bool) -> None:
    turn = parse_turn(text)
    assert (turn.reason, turn.format_ok, turn.is_text) == (reason, format_ok, reason == "not_a_list")
    assert (turn.thought is not None) == format_ok
    if GOOD in text and reason != "thought_not_closed":
        assert turn.calls == (Call("f", {"a": 1, "b": "x"}),), "an evaluation reads the calls in any frame"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("f(a=1)", "no_brackets"),
        ("f(a=1), g(x)", "no_brackets"),
        ("```\n[f(a=1)]\n```", "no_brackets"),
        ("`f(1)`", "no_brackets"),
        ("f(a=1)]", "no_brackets"),
        ("Sure: [f(a=1)]", "call_in_text"),
        ("f", "not_a_list"),
        ("```", "not_a_list"),
        ("No function fits (sorry).", "not_a_list"),
        ("f(a=1) # sure", "no_brackets"),
        ("f(a=1)\ng(b=2)", "no_brackets"),
        ("f(a=1); g(b=2)", "no_brackets"),
        ("x = f(a=1)", "no_brackets"),
        ("(f(a=1),)", "no_brackets"),
        ("f()()", "no_brackets"),
        ("f(a=1,\n # it's [\n b=2)", "no_brackets"),
        ("f(a=" + "[" * MAX_DEPTH + "]" * MAX_DEPTH + ")", "no_brackets"),
        ("f(a='" + "x" * MAX_CHARACTERS + "')", "no_brackets"),
        ("f(x) is one, see #5 (and g)", "not_a_list"),
        ("(sorry) " + "x" * MAX_CHARACTERS, "not_a_list"),
        ("[Note] No function fits.", "not_a_list"),
        ("[1] says so (see #5).", "not_a_list"),
        ("[Booking](https://example.org) is no function.", "not_a_list"),
        ("['f(a=1)'", "syntax"),
        ("[ # essay\n f(a=1)] # more", "comment"),
        ("[f(a=1)] # more", "comment"),
        ("[f(a='''it's''')] # more", "comment"),
        ("[f(a=''' # ''' 'it' # '\n)]", "comment"),
        ("[f(a=f'{x}')] # more", "syntax"),
        ("#1 of'its' kind", "not_a_list"),
        ("[]", "empty_list"),
        ("[1]", "not_a_call"),
        ("['f(a=1)']", "not_a_call"),
        ("[f]", "not_a_call"),
        ("[f(a=1), *g]", "not_a_call"),
        ("[f(1)]", "positional_argument"),
        ("[f(*a)]", "positional_argument"),
        ("[f()()]", "not_a_call"),
        ("[a[0](b=1)]", "not_a_call"),
        ("[(lambda: 1)(a=1)]", "not_a_call"),
        ("[f(a=g(b=1))]", "not_a_literal"),
        ("[f(a=b)]", "not_a_literal"),
        ("[f(a=1+1)]", "not_a_literal"),
        ("[f(a=-True)]", "not_a_literal"),
        ("[f(a=+1)]", "not_a_literal"),
        ("[f(a=true)]", "not_a_literal"),
        ("[f(a=null)]", "not_a_literal"),
        ("[f(a=(1, 2))]", "not_a_literal"),
        ("[f(a=[()])]", "not_a_literal"),
        ("[f(**{})]", "not_a_keyword"),
        ("[f(a=--1)]", "not_a_literal"),
        ("[f(a=~1)]", "not_a_literal"),
        ("[f(a={1, 2})]", "not_a_literal"),
        ("[f(a={1: 2})]", "not_a_literal"),
        ("[f(a={**b})]", "not_a_literal"),
        ("[f(a=[*b])]", "not_a_literal"),
        ("[f(a=[x for x in y])]", "not_a_literal"),
        ("[f(a=1j)]", "not_a_literal"),
        ("[f(a=b'x')]", "not_a_literal"),
        ("[f(a=f'{x}')]", "not_a_literal"),
        ("[f(a=...)]", "not_a_literal"),
        ("[f(a=1e999)]", "not_a_literal"),
        ("[f(a=-1e999)]", "not_a_literal"),
        ("[f(a=1, a=2)]", "repeated_argument"),
        ("[f(**{'b': 1})]", "not_a_keyword"),
        ("[f(**b)]", "not_a_literal"),
        ("[f(**{'a-b': 1}, **{'a-b': 1})]", "repeated_argument"),
        ("[f(a=1)] [g(b=2)]", "syntax"),
        ("[f(a=1)]\n[g(b=2)]", "syntax"),
        ("[f(a=1)]; import os", "syntax"),
        ("[f(a=1) for f in g]", "syntax"),
        ("[f(a=1)].x", "syntax"),
        ("[f(a=" + "[" * MAX_DEPTH + "]" * MAX_DEPTH + ")]", "too_deep"),
        *(
            (f"[f(a={string}, b={'[' * MAX_DEPTH}{']' * MAX_DEPTH})]", "too_deep")
            for string in ("'''it's'''", '"""1" long\\""""', "'\\\r\n'", "''", "'' '\"'")
        ),
        ("[ # '\n f(a=" + "[" * MAX_DEPTH + "]" * MAX_DEPTH + ")]", "comment"),
        ("[f(a='" + "x" * MAX_CHARACTERS + "')]", "too_long"),
        ("[" + "f(), " * (MAX_CALLS + 1) + "]", "too_many_calls"),
    ],
)
def test_what_is_no_call_list(text: str, reason: str) -> None:
    assert parse_calls(text) == (None, reason)


@pytest.mark.parametrize(
    ("literal", "value"),
    [
        ("True", True), ("False", False), ("None", None), ("[1, [2]]", [1, [2]]), ("[]", []),
        ("-1", -1), ("-1.5", -1.5), ("'it''s'", "its"), ('"\\u00e9\\n"', "é\n"), ("{'a': [1,]}", {"a": [1]}),
        ("'''a\n'b'''", "a\n'b"), ("0x10", 16), ("1_000", 1000), (str(10**400), 10**400),
        ("'" + "([{" * MAX_DEPTH + "'", "([{" * MAX_DEPTH),
        ("'''#(\"'''", '#("'), ('"#"', "#"), ('"' + "[#'" * MAX_DEPTH + '"', "[#'" * MAX_DEPTH),
    ],
)  # fmt: skip
def test_literals(literal: str, value: Any) -> None:
    assert parse_calls(f"[f(a={literal})]") == ((Call("f", {"a": value}),), "")


def test_many_brackets_are_fine_when_they_do_not_nest() -> None:
    rows = [[{"a": [index]}] for index in range(100)]
    assert parse_calls(render_calls([Call("f", {"rows": rows})] * 20, NO_NAMES)) == (
        (Call("f", {"rows": rows}),) * 20,
        "",
    )


def test_names_may_be_dotted_and_lists_end_in_a_comma() -> None:
    calls, _ = parse_calls("[\n  a.b.c(x=1),\n  d(),\n]")
    assert calls == (Call("a.b.c", {"x": 1}), Call("d", {}))


# Each is answered in milliseconds; a scan that began again at every quote or bracket would take minutes.
@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, "[f(a=" + "-" * 30_000 + "1)]", "[a" + ".b" * 15_000 + "()]", "[" + "1+" * 15_000 + "1]",
        "[" + "not " * 8_000 + "1]", "[" + "lambda:" * 4_000 + "1]", "[" + '"\\' * 16_000 + "(" * 40,
        "[f(a=" + "{1:" * 31 + ")]",
        "[f(" + "'" * 30_000 + "[" * 40, "[" + "f(a=(" * 16 + "1 1" + "))" * 16 + "]", "[" + "{**with " * 30 + " 1 1]",
        "[ # '\n" + "{**with " * 150 + " 1 1]", "[f('''it's''', " + "{**with " * 150 + " 1 1]",
        "[f(f'{\"'\"}', " + "{**with " * 150 + " 1 1]", "[f(#" + "'" * 30_000,
        "f(" + '"\\' * 200_000, "f(" + "[\\'''['" * 50_000, "f(" * 100_000, "f(#\n" * 100_000,
    ],
)  # fmt: skip
def test_hostile_texts_are_refused(text: str) -> None:
    assert parse_calls(text)[0] is None


def test_a_nearly_full_stack_is_survived() -> None:
    text = "[f(a=" + "[" * 20 + "]" * 20 + ")]"

    def deep(left: int) -> Any:
        return deep(left - 1) if left else parse_calls(text)

    free = sys.getrecursionlimit() - len(inspect.stack())
    reasons = {deep(left)[1] for left in range(free - 50, free - 15)}
    assert "too_deep" in reasons <= {"", "too_deep"}


def test_model_output_makes_no_warnings() -> None:
    code = r"""from components.function_calls.parse import parse_calls
assert parse_calls(r'[f(a="\d")]')[0][0].arguments == {"a": "\\d"}
parse_calls("[f(a=1if 1else 2)]")"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
