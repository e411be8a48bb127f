"""The prompt a model gets and the turn it should write, for refinement, warm-up, rollouts and evaluation alike.

The wording is callforge's own and follows the rules of EGPO's prompt (arXiv 2508.05118v4, section on the template);
it is kept short because every token of it is paid for in each prompt. Does not tokenise (language_models.tokens does)
and does not read answers (parse.py does).
"""

from __future__ import annotations

import json
import keyword
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from components.function_calls.record import Call, Message, Tool

PROMPT_VERSION = "2"
"""Raise it when the same messages and tools lead to another prompt: its wording, or the form that a schema gets."""
THINK_OPEN = "<think>"
THINK_CLOSE = "</think>"
NO_CALL_RESPONSE = "None of the functions can answer this request."

_SYSTEM = """\
You are an expert in composing functions. Answer the request with one or more calls of the functions below. \
If no function fits, or a required parameter is missing, say so in plain text and call nothing.

# Functions
{tools}

# Rules
1. You MUST first reason inside <think></think>.
2. You MUST then write, on a new line, only the calls: [f1(a=v, b=v), f2(c=v)]
3. You MUST give both in one reply.
Example: <think>Two cities, so two calls.</think>
[get_time(city="Rome"), get_time(city="Oslo")]
Give each argument the type its function asks for."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Messages of the roles system, user and assistant, alternating, and the names used in them."""

    messages: list[dict[str, str]]
    names: ToolNames


@dataclass(frozen=True, slots=True)
class TurnText:
    """The two parts of an assistant's turn."""

    thought: str
    answer: str

    @property
    def text(self) -> str:
        """The turn as the model writes it."""
        return f"{THINK_OPEN}{self.thought}{THINK_CLOSE}\n{self.answer}"


class ToolNames:
    """Reversible map between a record's own tool and argument names and those a Python call can be written with.

    A tool name that is a dotted Python identifier and an argument name that is an identifier stay as they are; any
    other is spelt with underscores ("Get-User" -> "Get_User", "from" -> "from_"), and numbered where that is taken.
    """

    def __init__(self, tools: Iterable[Tool]) -> None:
        tools = tuple(tools)
        self._shown, self._original = _renamed((tool.name for tool in tools), _is_dotted_identifier, _as_dotted)
        self._arguments: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
        for tool in tools:
            names = tool.parameters.get("properties") or ()
            if not all(map(is_identifier, names)):
                self._arguments[tool.name] = _renamed(names, is_identifier, _as_identifier)

    def shown(self, name: str) -> str:
        """The tool's name in prompts and calls; a name that no tool of the record has is spelt alike."""
        return self._shown.get(name) or (name if _is_dotted_identifier(name) else _as_dotted(name))

    def original(self, shown: str) -> str:
        """The record's name of the tool shown as `shown`, or `shown` where there is no such tool."""
        return self._original.get(shown, shown)

    def offers(self, name: str) -> bool:
        """Is `name` a tool of the record, however it is spelt: as its own, as shown, in another case, with a prefix?

        Models trained on other prompts write `math_sqrt` for `math.sqrt` and `functions.get_time` for `get_time`.
        """
        spelt = _loosely(name)
        while spelt:
            if spelt in self._loose:
                return True
            _, _, spelt = spelt.partition(".")
        return False

    @cached_property
    def _loose(self) -> frozenset[str]:
        dotted = [_loosely(name) for name in (*self._shown, *self._original)]
        return frozenset([*dotted, *(name.replace(".", "_") for name in dotted)])

    def shown_argument(self, tool: str, argument: str) -> str:
        """The argument's name in prompts and calls; `tool` is the record's name of the tool."""
        renamed = self._arguments.get(tool)
        return renamed[0].get(argument, argument) if renamed else argument

    def original_argument(self, tool: str, shown: str) -> str:
        """The schema's name of the argument shown as `shown`, or `shown` where there is none."""
        renamed = self._arguments.get(tool)
        return renamed[1].get(shown, shown) if renamed else shown


def build_prompt(messages: Sequence[Message], tools: Sequence[Tool]) -> Prompt:
    """The prompt for the next assistant turn.

    A leading system message follows our own text in the system message. Tool results become user text, an earlier
    assistant's calls the bracket list a model writes, and neighbours of one role are joined.
    """
    names = ToolNames(tools)
    system = _SYSTEM.replace("{tools}", _compact([_tool_json(tool, names) for tool in tools]))
    turns: list[tuple[str, list[str]]] = [("system", [system])]
    for index, message in enumerate(messages):
        content = message.content
        role = "assistant" if message.role == "assistant" else "user"
        if message.role == "system" and index == 0:
            role = "system"
        elif message.role == "tool":
            content = f"Function result: {content}"
        elif message.tool_calls:
            content = f"{content}\n{render_calls(message.tool_calls, names)}".strip()
        if turns[-1][0] == role:
            turns[-1][1].append(content)
        else:
            turns.append((role, [content]))
    prompt = [
        {"role": role, "content": ("\n\n" if role == "system" else "\n").join(contents)} for role, contents in turns
    ]
    return Prompt(prompt, names)


def render_calls(calls: Iterable[Call], names: ToolNames) -> str:
    """The calls as `[f(a=1, b="x"), g()]`; parse_calls reads them back to equal calls.

    An argument whose name is not an identifier and not in the tool's schema is written `**{"a-b": 1}`.
    """
    return "[" + ", ".join(_render_call(call, names) for call in calls) + "]"


def render_turn(thought: str | None, calls: Sequence[Call], response: str | None, names: ToolNames) -> TurnText:
    """The assistant's turn that gives `calls`, or `response` in plain text where there are none.

    Think tags inside the texts are taken out: the turn has exactly one pair.
    """
    answer = render_calls(calls, names) if calls else _without_tags(response or "").strip() or NO_CALL_RESPONSE
    return TurnText(_without_tags(thought or "").strip(), answer)


def _render_call(call: Call, names: ToolNames) -> str:
    arguments = []
    for argument, value in call.arguments.items():
        shown = names.shown_argument(call.name, argument)
        if is_identifier(shown):
            arguments.append(f"{shown}={_literal(value)}")
        else:
            arguments.append(f"**{{{_literal(argument)}: {_literal(value)}}}")
    return f"{names.shown(call.name)}({', '.join(arguments)})"


def _literal(value: Any) -> str:
    """A JSON value as a Python literal; strings are quoted as in JSON, which Python reads alike."""
    if isinstance(value, str):
        # Written as escapes: lone surrogates, which UTF-8 cannot encode, and what would read as a think tag.
        return _ESCAPED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_literal(key)}: {_literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return repr(value)


def _tool_json(tool: Tool, names: ToolNames) -> dict[str, Any]:
    parameters = tool.parameters
    properties = {
        names.shown_argument(tool.name, name): schema for name, schema in (parameters.get("properties") or {}).items()
    }
    required = [names.shown_argument(tool.name, name) for name in parameters.get("required") or ()]
    parameters = {key: item for key, item in parameters.items() if key != "required"} | {"properties": properties}
    if required:
        parameters["required"] = required
    return {"name": names.shown(tool.name), "description": tool.description, "parameters": parameters}


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _without_tags(text: str) -> str:
    if THINK_OPEN not in text and THINK_CLOSE not in text:
        return text
    kept: list[str] = []
    for letter in text:  # one by one: taking a tag out may join the halves of another
        kept.append(letter)
        if letter == ">":
            for tag in (THINK_OPEN, THINK_CLOSE):
                if kept[-len(tag) :] == list(tag):
                    del kept[-len(tag) :]
    return "".join(kept)


_ESCAPED = re.compile("[\ud800-\udfff]|<(?=/?think>)")


def is_identifier(name: str) -> bool:
    """Can `name` be written as a keyword argument and read back unchanged?"""
    return _is_known_identifier(name) if len(name) <= 64 else _is_identifier(name)


def _is_identifier(name: str) -> bool:
    # Python normalises identifiers to NFKC while it parses: a name that would change does not survive.
    return name.isidentifier() and not keyword.iskeyword(name) and (name.isascii() or _nfkc(name) == name)


_is_known_identifier = lru_cache(maxsize=2**14)(_is_identifier)  # a corpus has few names and asks for each many times


def _is_dotted_identifier(name: str) -> bool:
    return is_identifier(name) or all(map(is_identifier, name.split(".")))


def _as_identifier(name: str) -> str:
    name = re.sub(r"\W", "_", _nfkc(name))
    if not f"_{name}".isidentifier():
        name = re.sub(r"[^0-9A-Za-z_]", "_", name)
    if keyword.iskeyword(name):
        return f"{name}_"
    return name if name.isidentifier() else f"_{name}"


def _as_dotted(name: str) -> str:
    return ".".join(map(_as_identifier, name.split(".")))


def _loosely(name: str) -> str:
    return _as_dotted(name.strip()).casefold()


def _nfkc(name: str) -> str:
    return unicodedata.normalize("NFKC", name)


def _renamed(names: Iterable[str], is_fine: Any, spelt: Any) -> tuple[dict[str, str], dict[str, str]]:
    """name -> shown and shown -> name, one to one."""
    names = tuple(names)
    shown = {name: name for name in names if is_fine(name)}
    taken = dict(shown)
    numbers: dict[str, int] = {}  # the next one to try: from 2 for each name, many alike would take quadratic time
    for name in names:
        if name not in shown:
            candidate = base = spelt(name)
            while candidate in taken:
                number = numbers.get(base, 2)
                candidate = f"{base}_{number}"
                numbers[base] = number + 1
            shown[name] = candidate
            taken[candidate] = name
    return shown, taken
