"""An answer's text read as calls by the rules of BFCL's own decoder, and without its eval().

The leaderboard decodes what prompting models write more leniently than our training does (function_calls/parse.py):
missing brackets are added, back quotes removed, variables read as strings, positional arguments dropped, arithmetic
computed. Scores follow the leaderboard, so that the official tool gives the same on our generations. Two things differ,
since model output is never evaluated here: of arithmetic only numbers are computed and literals joined (`3*4`,
`"a" + "b"`), where the official eval() takes any expression that runs (`max(1, 2)*3`); and texts and computed integers
have a largest size, so that each step of the arithmetic takes bounded time.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable
from typing import Any

LONGEST = 100_000  # characters; no answer within max_new_tokens comes near
LARGEST = 1_000  # bits of an integer that is computed, or computed with


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
            warnings.simplefilter("ignore")  # odd escapes in model output are nobody's to fix
            body = ast.parse(text.strip().strip("'"), mode="eval").body
        # Behind a comment the bracket added at the end closes nothing: `[f](a=1) #` is a call, `[f](), g() #` a tuple.
        items = [body] if isinstance(body, ast.Call) else getattr(body, "elts", [None])
        if not all(type(item) is ast.Call for item in items):
            return None
        return [_call(item) for item in items]
    except (SyntaxError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError):
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
            return _computed(node)
    raise ValueError("no literal")


def _computed(node: ast.expr) -> Any:
    """The value of numbers under + - * / // % ** and of literals under +."""
    match node:
        case ast.BinOp(left, kind, right) if type(kind) in _ARITHMETIC:
            operands = _computed(left), _computed(right)
            if type(kind) is not ast.Add and not all(isinstance(item, int | float | complex) for item in operands):
                raise ValueError("no numbers")  # "a" * 10**9
            return _bounded(_ARITHMETIC[type(kind)](*map(_bounded, operands)))
        case ast.UnaryOp(ast.USub(), operand):
            return -_computed(operand)
        case ast.UnaryOp(ast.UAdd(), operand):
            return +_computed(operand)
    return ast.literal_eval(node)


def _bounded(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > LARGEST:
        raise ValueError("an integer of any size")  # thousands of factors 9**300
    return value


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, int) and isinstance(exponent, int) and base.bit_length() * exponent > LARGEST:
        raise ValueError("a power of any size")  # 9**9**9
    return base**exponent


_ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power,
}  # fmt: skip
