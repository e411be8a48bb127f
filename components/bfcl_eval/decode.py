"""An answer's text read as calls by the rules of BFCL's own decoder, and without its eval().

The leaderboard decodes what prompting models write more leniently than our training does (function_calls/parse.py):
missing brackets are added, back quotes taken off, variables read as strings, positional arguments dropped. Scores
follow the leaderboard, so that the official tool gives the same on our generations. One thing differs: it evaluates
arithmetic in arguments (`f(a=3*4)`), and model output is never evaluated here: such a call counts as a call whose
argument is wrong.
"""

from __future__ import annotations

import ast
import warnings
from typing import Any

LONGEST = 100_000  # characters; no answer within max_new_tokens comes near
NOT_EVALUATED = object()  # stands for arithmetic; equals no gold value


def decode(text: str) -> list[dict[str, Any]] | None:
    """The calls as `[{name: {argument: value}}]`, [] where there are none, None when the text is not a call list.

    Never raises. Follows `default_decode_ast_prompting` of bfcl-eval 2026.3.23, model_handler/utils.py.
    """
    text = text.strip("`\n ")
    text = text if text.startswith("[") else "[" + text
    text = text if text.endswith("]") else text + "]"
    if len(text) > LONGEST:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in model output are nobody's to mend
            body = ast.parse(text.strip().strip("'"), mode="eval").body
        if type(body) is not ast.List or not all(type(item) is ast.Call for item in body.elts):
            return None
        return [_call(item) for item in body.elts if isinstance(item, ast.Call)]
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError, OverflowError):
        return None


def _call(node: ast.Call) -> dict[str, Any]:
    parts = []
    function = node.func
    while isinstance(function, ast.Attribute):
        parts.append(function.attr)
        function = function.value
    if isinstance(function, ast.Name):
        parts.append(function.id)
    arguments: dict[Any, Any] = {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    return {".".join(reversed(parts)): arguments}


def _value(node: ast.expr | None) -> Any:
    match node:
        case ast.Constant(value):
            return "..." if value is Ellipsis else value
        case ast.UnaryOp(operand=ast.Constant(value)):
            return -value  # type: ignore[operator]  # whatever the sign was; of a string it fails, as there
        case ast.List(items):
            return [_value(item) for item in items]
        case ast.Tuple(items):
            return tuple(_value(item) for item in items)
        case ast.Dict(keys, values):
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True)}
        case ast.Name(name):
            return name
        case ast.Call():
            return _call(node) if node.keywords else ast.unparse(node)
        case ast.Subscript(value, index):
            return f"{ast.unparse(value)}[{ast.unparse(index)}]"
        case ast.BinOp():
            return NOT_EVALUATED
    raise ValueError("no literal")
