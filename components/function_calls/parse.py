"""A model's turn read into its thought and its calls. Model output is data: parsed by Python's ast, never evaluated.

One strict form is read, the one render_turn writes; `Turn.reason` says how a text departs from it. Training demands it
in full (`format_ok` and `calls`): whatever a reward lets pass, a policy drifts to. No value is read that the
leaderboard's decoder takes for another (`true` is a variable to it, `+3` is -3). An evaluation does not grade the
frame: `calls` and `answer` are read all the same, from the text after the last </think> or, without tags, from all of
it; bfcl_eval/decode.py forgives there what the leaderboard's decoder forgives.
Does not know whether a call is right (judge.py does).
"""

from __future__ import annotations

import ast
import re
import warnings
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal

from components.function_calls.dialects import CALL_IN_TEXT, foreign_form
from components.function_calls.prompt import THINK_CLOSE, THINK_OPEN, ToolNames, is_identifier
from components.function_calls.record import Call
from components.function_calls.scan import fault_of_tokens, without_comments

MAX_CHARACTERS = 32_768
MAX_CALLS = 128  # match.py compares each with each
MAX_DEPTH = 32  # brackets within brackets, the outer list and the call's own included

FORMAT_REASONS = ("no_thought", "thought_not_closed", "thought_repeated", "no_newline", "no_answer")

# Python warns of odd escapes and numbers in the source it reads; ours is model output, not ours to fix.
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
        answer is plain text; "no_brackets" when it is calls and nothing else, but no list; a code of dialects.py when
        it reads as a call in another form; another code when it starts as a list and is none.
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
    """Read a turn; never raises. White space after the newline and at the end is not a fault."""
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

    Arguments are keywords with literal values: strings, finite numbers, True, False, None, lists and dicts with string
    keys. `**{"a-b": 1}` gives arguments whose names are not identifiers, and only those. `names` turns shown names into
    the record's own, and says which tools a text that is no list could call.
    """
    text = text.strip()
    fault = ""
    if text.startswith("["):
        calls, fault = _parse_list(text, names)
        if calls is not None or fault not in _NOT_PYTHON or _OPENS_AS_LIST.match(text):
            return calls, fault
    form = _other_form(text, names)
    return None, (fault or form) if form else "not_a_list"


def _other_form(text: str, names: ToolNames | None) -> str:
    """How a text that is not a list reads as calls all the same, "" for plain text."""
    if _are_only_calls(text):
        return "no_brackets"
    if form := foreign_form(text, names):
        return form
    found = _LIST_AFTER_PROSE.search(text)
    return CALL_IN_TEXT if found and _holds_only_calls(text[found.start(1) :], "eval") else ""


_NOT_PYTHON = ("too_long", "too_deep", "comment", "syntax")
_LIST_AFTER_PROSE = re.compile(r"[\n:.!?]\s{0,80}(\[\s{0,80}[\w.]{1,200}\()")  # our own form, whatever it names
# Of texts that Python cannot read: "[Note] No function fits." is prose, "[f(a=1" the attempt of a list.
_OPENS_AS_LIST = re.compile(r"""\[\s*(?:[\w.]+\(|["'{(\[])""")


def _parse_list(text: str, names: ToolNames | None) -> tuple[tuple[Call, ...] | None, str]:
    if len(text) > MAX_CHARACTERS:
        return None, "too_long"
    if fault := fault_of_tokens(text, MAX_DEPTH):
        return None, fault
    tree = _tree(text, "eval")
    if isinstance(tree, str):
        return None, tree
    body = tree.body
    if type(body) is not ast.List:
        return None, "syntax"
    if not body.elts:
        return None, "empty_list"
    if len(body.elts) > MAX_CALLS:
        return None, "too_many_calls"
    try:
        return tuple([_call(node, names) for node in body.elts]), ""
    except _NotACallListError as error:
        return None, error.args[0]
    except RecursionError:  # the caller's own stack was nearly full
        return None, "too_deep"


def _tree(text: str, mode: Literal["eval", "exec"]) -> Any:
    """Python's tree of the text, or the reason why there is none."""
    try:
        return compile(text, _SOURCE, mode, ast.PyCF_ONLY_AST, dont_inherit=True)
    except (SyntaxError, ValueError):
        return "syntax"
    except (RecursionError, MemoryError):  # chains of operators nest without brackets
        return "too_deep"


def _are_only_calls(text: str) -> bool:
    """Is the text calls and nothing else, whatever they call and with whatever arguments?

    As the leaderboard reads it, which adds brackets and takes back quotes off, or as Python statements. What is too
    long or too deep to be looked into counts when it opens and closes as a call does.
    """
    bare = text.strip("`\n ")
    if "(" not in bare:
        return False
    listed = ("" if bare.startswith("[") else "[") + bare + ("" if bare.endswith("]") else "]")
    return _holds_only_calls(listed, "eval") or _holds_only_calls(bare, "exec")


def _holds_only_calls(text: str, mode: Literal["eval", "exec"]) -> bool:
    code, depth = without_comments(text)
    if len(code) > MAX_CHARACTERS or depth > MAX_DEPTH:
        return bool(_OPENS_AS_CALL.match(code)) and code.endswith((")", "]"))
    tree = _tree(code, mode)
    if isinstance(tree, str):
        return tree == "too_deep" and bool(_OPENS_AS_CALL.match(code))
    try:
        return _is_calls(tree.body)
    except RecursionError:  # the caller's own stack was nearly full
        return True


_OPENS_AS_CALL = re.compile(r"[\s(\[]*[^\W\d][\w.]*\s*\(")


def _is_calls(node: Any) -> bool:
    """A call, calls in lists and tuples, assigned or not; nothing else. The nesting is bounded by MAX_DEPTH."""
    match node:
        case ast.Call():
            return True
        case list(items) | ast.List(elts=items) | ast.Tuple(elts=items) | ast.Set(elts=items):
            return bool(items) and all(map(_is_calls, items))
        case ast.Expr(value) | ast.Assign(value=value) | ast.AnnAssign(value=value) | ast.Await(value):
            return _is_calls(value)
    return False


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
            if type(given) is not dict or not given or any(map(is_identifier, given)):
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


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        value = node.value
        if isinstance(value, str | bool) or value is None or _is_number(value):
            return value
    elif isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    elif isinstance(node, ast.Dict):
        keys = [None if key is None else _value(key) for key in node.keys]
        if all(isinstance(key, str) for key in keys):
            return {key: _value(item) for key, item in zip(keys, node.values, strict=True)}
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        number: Any = node.operand.value
        if _is_number(number):
            return -number
    raise _NotACallListError("not_a_literal")


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and isfinite(value))
