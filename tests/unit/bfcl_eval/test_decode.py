"""Our decoder against the official one: its four functions, cut out of the installed package's source, run here."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.bfcl_eval.decode import decode

FUNCTIONS = ("default_decode_ast_prompting", "ast_parse", "resolve_ast_call", "resolve_ast_by_type")


def _official():
    package = find_spec("bfcl_eval")
    assert package is not None and package.submodule_search_locations
    source = Path(package.submodule_search_locations[0]) / "model_handler" / "utils.py"
    tree = ast.parse(source.read_text("utf-8"))
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in FUNCTIONS]
    python = object()

    class ReturnFormat:
        PYTHON = python

    names: dict[str, Any] = {"ast": ast, "ReturnFormat": ReturnFormat}
    exec(compile(tree, str(source), "exec"), names)

    def decode_officially(text: str):
        try:
            return names["default_decode_ast_prompting"](text, python)
        except Exception:
            return None

    return decode_officially


decode_officially = _official()

TEXTS = [
    "[f(a=1)]", "f(a=1)", "f(a=1), g()", "```\n[f(a=1)]\n```", "`f()`", " [ f ( ) ] ", "'[f(a=1)]'", "['f(a=1)']",
    "[]", "", "Sorry", "Sorry, I cannot.", "f", "[f]", "[f, g()]", "[f(a=1)] and more", "[f(a=1)][0]",
    "[f()], [g()]",
    "[f(a=1)", "f(a=1)]", "(f(), g())", "{f()}", "[f() for x in y]", "[*f()]", "[f(a=1), 3]",
    "[a.b.c(x=1)]", "[a().b(x=1)]", "[a[0](x=1)]", "[f(1)]", "[f(1, a=2)]", "[f(*x)]", "[f(**{'a': 1})]",
    "[f(a=1, a=2)]",
    "[f(a=true, b=None, c=True)]", "[f(a=x)]", "[f(a=x.y)]", "[f(a=g(b=1))]", "[f(a=g(1))]", "[f(a=g())]",
    "[f(a=x[0])]",
    "[f(a=(1, 2))]", "[f(a={'b': [1, {'c': (2,)}]})]", "[f(a={**x})]", "[f(a={[1]: 2})]", "[f(a={1, 2})]", "[f(a=...)]",
    "[f(a=-1)]", "[f(a=+1)]", "[f(a=~1)]", "[f(a=not True)]", "[f(a=-'x')]", "[f(a=-x)]", "[f(a=-(1))]", "[f(a=--1)]",
    "[f(a=lambda: 1)]", "[f(a=f'{x}')]", "[f(a='x' 'y')]", "[f(a=b'x')]", "[f(a=3j)]", "[f(a=1 if x else 2)]",
    "[f(a=1 < 2)]", "[f(a=x and y)]", "[f(a='\\d')]", "[f(a='\\ud800')]", "[f(a='é\\n')]", "[f(\uff41=1)]", "[f(a=01)]",
    "[f(a=1e400)]", "[f(a='''x\ny''')]", "[f(\na=1,\n)]", "[f(a=1)]  # sure", "# [f(a=1)]", "\x00", "[f(a='\x00')]",
    '[{"name": "f", "arguments": {"a": 1}}]', "<think>x</think>\n[f(a=1)]", "<think>[f(a=1)]", "[f(a=1);]", "print(f)",
    "[f(a=" + "9" * 5000 + ")]", "[f(a=" + "[" * 300 + "]" * 300 + ")]",
    "[f(a=3*4)]", "[f(a=2 + 3j)]", "[f(a=-(2+1)*+2.5)]", "[f(a=2**-1)]", "[f(a=2**10 % 7 // 2)]", "[f(a='x' + \"y\")]",
    "[f(a=[1] + [2])]", "[f(a=(1, 2) + ('x',))]", "[f(a=[1+1, 2])]", "[f(a={'b': 1.05**3})]", "[f(a=-(1+1))]",
    "[f(a=price*2)]", "[f(total=price*2, b=1)]", "[f(a=x + 'y')]", "[f(a=1/0)]", "[f(a=1 % 0.0)]", "[f(a=0**-1)]",
    "[f(a='x' + 1)]", "[f(a='x' - 'y')]", "[f(a=-'x' + 1)]", "[f(a=1 @ 2)]", "[f(a=[1] + (2,))]", "[f(a=10.0**400)]",
    "[f(a=10**400 / 3.0)]", "[f(a=None + 1)]", "[f(a=1 + ...)]", "[f(a=g(1) + 1)]", "[f(a=x[0] + 1)]",
]  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_agrees_with_the_official_decoder(text):
    assert decode(text) == decode_officially(text)


values = st.recursive(
    st.sampled_from(
        ["1", "-2.5", "'x'", '"it\'s"', "true", "None", "name", "g()", "g(z=1)", "x[0]", "x.y", "...", "+3"]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(inner, max_size=3).map(lambda items: f"({', '.join(items)})"),
        st.lists(inner, max_size=2).map(
            lambda items: "{" + ", ".join(f"'k{i}': {v}" for i, v in enumerate(items)) + "}"
        ),
    ),
    max_leaves=5,
)
calls = st.builds(
    lambda name, arguments: f"{name}({', '.join(arguments)})",
    st.sampled_from(["f", "a.b", "tool_1"]),
    st.lists(
        st.builds(lambda key, value: f"{key}{value}", st.sampled_from(["a=", "b=", "", "*", "**"]), values), max_size=3
    ),
)
turns = st.builds(
    lambda before, body, after: before + ", ".join(body) + after,
    st.sampled_from(["[", "", "```", "[ \n", "Calls: ", "'["]),
    st.lists(calls, max_size=3),
    st.sampled_from(["]", "", "```", "]\n", ".", "]'"]),
)


@settings(max_examples=300)
@given(turns)
def test_agrees_on_texts_like_calls(text):
    assert decode(text) == decode_officially(text)


@settings(max_examples=200)
@given(st.text(alphabet="[](){}=,.'\"`\\ \nfa1:#", max_size=30))
def test_agrees_on_noise(text):
    assert decode(text) == decode_officially(text)


@settings(max_examples=200)
@given(st.text(max_size=60))
def test_never_raises(text):
    decode(text)


arithmetic = st.recursive(
    st.sampled_from(["0", "2", "3.5", "True", "-1", "1e200", "2j", "None", "x", "'x'"]),
    lambda inner: (
        st.builds("({} {} {})".format, inner, st.sampled_from(["+", "-", "/", "//"]), inner)
        | st.builds("({} * {})".format, inner, st.sampled_from(["0.5", "x", "None"]))
        | st.builds("({}**{})".format, inner, st.sampled_from(["3", "0.5", "-2"]))
        | inner.map("-({})".format)
    ),
    max_leaves=5,
)


@settings(max_examples=300)
@given(arithmetic)
def test_arithmetic_agrees(text):
    assert repr(decode(f"[f(a={text})]")) == repr(decode_officially(f"[f(a={text})]"))


def test_no_model_output_is_evaluated(tmp_path):
    target = tmp_path / "made"
    assert decode(f"[f(a=__import__('pathlib').Path({str(target)!r}).touch() + 1)]") is None
    assert not target.exists()


@pytest.mark.parametrize(
    "text", ["[f(a=max(1, 2)*3)]", "[f(a='ab'*2)]", "[f(a='%d' % 5)]", "[f(a=[1]*2)]", "[f(a=1 << 3)]"]
)
def test_what_only_the_official_decoder_computes(text):
    assert decode(text) is None
    assert decode_officially(text) is not None


@pytest.mark.parametrize(
    "text", ["[f(a=9**9**9)]", "[f(a='x' * 10**9)]", "[f(a='%1000000000d' % 1)]", "[f(a=2**-(-10**9))]"]
)
def test_arithmetic_is_no_way_to_take_time_or_memory(text):
    assert decode(text) is None


@pytest.mark.parametrize("text", ["[" * 100_000, "f(" * 3000, "[f(a=" + "-" * 50_000 + "1)]", "(" * 150 + ")" * 150])
def test_depth_and_length_are_no_way_to_crash(text):
    assert decode(text) is None
