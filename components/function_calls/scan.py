"""Strings, brackets and comments of Python source, found before a parser sees it or where none could read it.

Parsers overflow or backtrack on depth, so depth is bounded first. All scans are linear in the text's length: an
unclosed string ends them.
"""

from __future__ import annotations

import re

# Strings; opening brackets; closing ones; comments, and prefixes of strings; quotes that no other one closes.
_TOKEN = re.compile(
    r"""(\"{3}(?:[^"\\]|\\.|"(?!""))*+"{3}|'{3}(?:[^'\\]|\\.|'(?!''))*+'{3}"""
    r"""|"(?!"")(?:[^"\\]|\\.)*+"|'(?!'')(?:[^'\\]|\\.)*+')"""
    r"""|([\[({])|([\])}])|(#|[fFtT][rR]?["'])|["']""",
    re.DOTALL,
)


def fault_of_tokens(text: str, max_depth: int) -> str:
    """The reason to refuse a call list before Python parses it, "" for none.

    Returns:
        "too_deep" (brackets nest deeper than `max_depth`), "comment", "syntax" (an f-string).
    """
    if "#" not in text and text.count("[") + text.count("(") + text.count("{") <= max_depth:
        return ""
    depth = 0
    for token in _TOKEN.finditer(text):
        if token[2]:
            depth += 1
            if depth > max_depth:
                return "too_deep"
        elif token[3]:
            depth -= 1
        elif token[4]:
            return "comment" if token[4] == "#" else "syntax"
        elif not token[1]:  # Python will refuse it
            break
    return ""


def without_comments(text: str) -> tuple[str, int]:
    """The text without its comments, stripped, and how deep its brackets nest."""
    kept, start, at, depth, deepest = [], 0, 0, 0, 0
    while token := _TOKEN.search(text, at):
        at = token.end()
        if token[2]:
            depth += 1
            deepest = max(deepest, depth)
        elif token[3]:
            depth -= 1
        elif token[4] == "#":
            kept.append(text[start : token.start()])
            at = start = _end_of_line(text, at)
        elif token[4]:
            at -= 1  # on with the string itself
        elif not token[1]:
            break
    return "".join([*kept, text[start:]]).strip(), deepest


def closing_bracket(text: str, start: int) -> int | None:
    """The index after the bracket that closes the one before `start`, None where none does."""
    depth = 1
    while token := _TOKEN.search(text, start):
        start = token.end()
        if token[2]:
            depth += 1
        elif token[3]:
            depth -= 1
            if depth == 0:
                return start
        elif token[4] == "#":
            start = _end_of_line(text, start)
        elif token[4]:
            start -= 1
        elif not token[1]:
            break
    return None


def _end_of_line(text: str, start: int) -> int:
    end = text.find("\n", start)
    return len(text) if end < 0 else end
