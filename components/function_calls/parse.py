"""A model's turn read into its thought and its calls. Model output is data: parsed by Python's ast, never evaluated.

One strict form is read, the one render_turn writes; `Turn.reason` says how a text departs from it. Training demands it
in full (`format_ok` and `calls`): whatever a reward lets pass, a policy drifts to. An evaluation does not grade the
frame: `calls` and `answer` are read all the same, from the text after the last </think> or, without tags, from all of
it; bfcl_eval/decode.py forgives there what the leaderboard's decoder forgives.
Does not know the tools: whether a call is right is decided in match.py.
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from math import isfinite
from typing import Any

from components.function_calls.prompt import THINK_CLOSE, THINK_OPEN, ToolNames, is_identifier
from components.function_calls.record import Call

MAX_CHARACTERS = 32_768
MAX_DEPTH = 32  # brackets within brackets, the outer list and the call's own included

FORMAT_REASONS = ("no_thought", "thought_not_closed", "thought_repeated", "no_newline", "no_answer")

# Python warns of odd escapes and numbers in the source it reads; ours is model output, nobody's to mend.
_SOURCE = "<model output>"
warnings.filterwarnings("ignore", category=SyntaxWarning, module=_SOURCE)
warnings.filterwarnings("ignore", category=DeprecationWarning, module=_SOURCE)


@dataclass(frozen=True, slots=True)
class Turn:
    """What a model's text says.

    thought: text between the tags, None when the tags are not as they should be.
    calls: the calls, None when the answer is not a call list.
    answer: the text after the thought, stripped.
    reason: "" when thought and call list are fine; one of FORMAT_REASONS when the frame is wrong; "not_a_list" when the
        answer is plain text; "no_brackets" when it is calls but for the brackets, or in back quotes; another code when
        it starts as a list and is none.
    """

    thought: str | None
    calls: tuple[Call, ...] | None
    answer: str
    reason: str

    @property
    def format_ok(self) -> bool:
        """Exactly one thought at the start, a newline, then an answer of any kind."""
        return self.reason not in FORMAT_REASONS

    @property
    def is_text(self) -> bool:
        """The frame is right and the answer is plain text, not even the attempt of a call list."""
        return self.reason == "not_a_list"


def parse_turn(text: str, names: ToolNames | None = None) -> Turn:
    """Read a turn; never raises. White space after the newline and at the end is no fault."""
    thought, answer, frame = _split(text)
    calls, reason = parse_calls(answer, names)
    return Turn(thought, calls, answer, frame or reason)


def _split(text: str) -> tuple[str | None, str, str]:
    """thought, answer, reason."""
    end = text.rfind(THINK_CLOSE)
    if end < 0:
        return (None, "", "thought_not_closed") if THINK_OPEN in text else (None, text.strip(), "no_thought")
    rest = text[end + len(THINK_CLOSE) :]
    answer = rest.strip()
    if not text.startswith(THINK_OPEN):
        return None, answer, "no_thought"
    if text.find(THINK_CLOSE) != end or THINK_OPEN in text[len(THINK_OPEN) :]:
        return None, answer, "thought_repeated"
    if not answer:
        return None, answer, "no_answer"
    if not rest.startswith("\n"):
        return None, answer, "no_newline"
    return text[len(THINK_OPEN) : end], answer, ""


def parse_calls(text: str, names: ToolNames | None = None) -> tuple[tuple[Call, ...] | None, str]:
    """The calls of a bracket list `[f(a=1), g()]` and "", or None and the reason; never raises.

    Arguments are keywords with literal values: strings, finite numbers, booleans, None, lists, tuples (read as lists)
    and dicts with string keys; true, false and null of JSON are read as well. `**{"a-b": 1}` gives arguments whose
    names are no identifiers, and only those. `names` turns shown names into the record's own.
    """
    text = text.strip()
    if not text.startswith("["):
        return None, "no_brackets" if _are_bare_calls(text) else "not_a_list"
    if len(text) > MAX_CHARACTERS:
        return None, "too_long"
    if fault := _fault_of_tokens(text):
        return None, fault
    try:
        tree = compile(text, _SOURCE, "eval", ast.PyCF_ONLY_AST, dont_inherit=True)
    except (SyntaxError, ValueError):
        return None, "syntax"
    except (RecursionError, MemoryError):  # chains of operators nest without brackets
        return None, "too_deep"
    body = tree.body  # type: ignore[attr-defined]
    if type(body) is not ast.List:
        return None, "syntax"
    if not body.elts:
        return None, "empty_list"
    try:
        return tuple([_call(node, names) for node in body.elts]), ""
    except _NotACallListError as error:
        return None, error.args[0]
    except RecursionError:  # the caller's own stack was nearly full
        return None, "too_deep"


def _are_bare_calls(text: str) -> bool:
    """Does the leaderboard, which adds brackets and takes back quotes off, find calls in it, with any arguments?"""
    bare = text.strip("`\n ")
    bare = ("" if bare.startswith("[") else "[") + bare + ("" if bare.endswith("]") else "]")
    return parse_calls(bare)[1] in ("", *_ARGUMENT_REASONS)


_ARGUMENT_REASONS = ("positional_argument", "not_a_keyword", "repeated_argument", "not_a_literal")


class _NotACallListError(Exception):
    """Carries the reason."""


def _call(node: ast.expr, names: ToolNames | None) -> Call:
    if type(node) is not ast.Call:
        raise _NotACallListError("not_a_call")
    if node.args:
        raise _NotACallListError("positional_argument")
    name = _dotted(node.func)
    if names is not None:
        name = names.original(name)
    arguments: dict[str, Any] = {}
    for item in node.keywords:
        if item.arg is not None:
            given = {item.arg if names is None else names.original_argument(name, item.arg): _value(item.value)}
        else:
            given = _value(item.value)
            if type(given) is not dict or any(map(is_identifier, given)):
                raise _NotACallListError("not_a_keyword")
        for argument, value in given.items():
            if argument in arguments:
                raise _NotACallListError("repeated_argument")
            arguments[argument] = value
    return Call(name, arguments)


def _dotted(node: ast.expr) -> str:
    parts = []
    while type(node) is ast.Attribute:
        parts.append(node.attr)
        node = node.value
    if type(node) is not ast.Name:
        raise _NotACallListError("not_a_call")
    parts.append(node.id)
    return ".".join(reversed(parts))


_JSON_NAMES = {"true": True, "false": False, "null": None}


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, str | bool) or value is None or _is_number(value):
            return value
    elif isinstance(node, ast.List | ast.Tuple):
        return [_value(item) for item in node.elts]
    elif isinstance(node, ast.Dict):
        keys = [None if key is None else _value(key) for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            return {key: _value(item) for key, item in zip(keys, node.values, strict=True)}
    elif isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        number: Any = node.operand.value
        if _is_number(number) and isinstance(node.op, ast.USub | ast.UAdd):
            return -number if isinstance(node.op, ast.USub) else number
    elif isinstance(node, ast.Name) and node.id in _JSON_NAMES:
        return _JSON_NAMES[node.id]
    raise _NotACallListError("not_a_literal")


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and isfinite(value))


# Strings, opening and closing brackets, what no call list has (comments and f-strings, where quotes would mislead the
# scan), quotes that no other one closes.
_TOKEN = re.compile(
    r"""(\"{3}(?:[^"\\]|\\.|"(?!""))*+"{3}|'{3}(?:[^'\\]|\\.|'(?!''))*+'{3}|"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+')"""
    r"""|([\[({])|([\])}])|(#|[fFtT][rR]?["'])|["']""",
    re.DOTALL,
)


def _fault_of_tokens(text: str) -> str:
    """The reason to refuse a text before Python parses it: parsers overflow or backtrack on depth; else ""."""
    if "#" not in text and text.count("[") + text.count("(") + text.count("{") <= MAX_DEPTH:
        return ""
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[2]:
            depth += 1
            if depth > MAX_DEPTH:
                return "too_deep"
        elif token[3]:
            depth -= 1
        elif token[4]:
            return "comment" if token[4] == "#" else "syntax"
        elif not token[1]:  # a string without an end: no need to look further, Python will refuse it
            break
    return ""
