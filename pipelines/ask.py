"""`callforge ask`: one question to a model of this directory, of the registry or of the hub, with tools to call.

The prompt, the sampler and the parser are those of the evaluation. Calls are printed, never made.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from components.errors import InputError
from components.files import expand_home
from components.function_calls.arguments import check_arguments
from components.function_calls.formats.parts import read_tools
from components.function_calls.json_text import parse_json
from components.function_calls.record import Call, Message, RecordError, Tool
from components.function_calls.work import limited_work
from components.settings import BfclEvalSettings
from pipelines.named_models import find_model, resolved

if TYPE_CHECKING:
    from components.language_models.answer import Answer


class Line(NamedTuple):
    """What is printed: what it is, its text, and whether it is a warning."""

    name: str
    text: str
    warning: bool = False


def ask(model: str, question: str, tools_file: Path, config: BfclEvalSettings) -> Iterator[Line]:
    """Ask, and yield the model's place, its thought and its calls or text, and what is wrong with them.

    Args:
        model: a model directory, a run's directory or id, models:/NAME@ALIAS or models:/NAME/VERSION, or what
            `--base-model` takes.

    Raises:
        InputError: there is no such model, the tools cannot be read, or the prompt is too long.
        WorkError: the registry or S3 failed.
    """
    tools = read_tools_file(tools_file)
    place = find_model(model)
    if place != model:
        yield Line("model", place)
    from components.bfcl_eval.generations import longest_prompt
    from components.bfcl_eval.models import Models, subject_of
    from components.language_models.answer import answer

    subject = subject_of(resolved(place), "asked")
    with tempfile.TemporaryDirectory(prefix="callforge-") as folder:
        answering = Models(config, [subject], Path(folder)).open(subject)
        found = answer(
            answering.sampler,
            answering.tokenizer,
            [Message("user", question)],
            tools,
            max_prompt_tokens=longest_prompt(answering, config),
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            seed=config.seed,
        )
    yield from lines_of(found, tools)


def lines_of(answer: Answer, tools: tuple[Tool, ...]) -> Iterator[Line]:
    """An answer for people; a call with the tool's own names and JSON arguments, as a program would take it."""
    turn = answer.turn
    if turn.thought is not None:
        yield Line("thought", turn.thought.strip())
    for call in turn.calls or ():
        yield Line("call", f"{call.name} {json.dumps(call.arguments, ensure_ascii=False)}")
        if fault := _fault(call, tools):
            yield Line("", fault, True)
    if turn.calls is None:
        yield Line("text" if turn.is_text else "answer", turn.answer if turn.format_ok else answer.text)
    if not answer.finished:
        yield Line("", "it was cut at bfcl_eval.max_new_tokens; --set bfcl_eval.max_new_tokens=N allows more", True)
    elif turn.reason and not turn.is_text:
        yield Line("", f"not the form that callforge trains: {turn.reason.replace('_', ' ')}", True)


def _fault(call: Call, tools: tuple[Tool, ...]) -> str | None:
    offered = {tool.name: tool for tool in tools}
    if call.name not in offered:
        return f"no such tool was offered; those offered are {', '.join(offered)}"
    try:
        with limited_work():
            return check_arguments(call, offered[call.name])
    except RecordError as error:
        return str(error)


def read_tools_file(path: Path) -> tuple[Tool, ...]:
    """The tools of a JSON file: a list of them, or an object with such a list in `tools`; in every shape that records
    may have them.

    Raises:
        InputError: the file cannot be read, or holds no tools.
    """
    try:
        value: Any = parse_json(expand_home(str(path)).read_text("utf-8"))
        if isinstance(value, dict):
            value = value.get("tools", [value])
        with limited_work():
            tools = read_tools(value)
    except OSError as error:
        raise InputError(f"--tools {path}: it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise InputError(f"--tools {path}: no UTF-8 text: {error.reason}") from None
    except RecordError as error:
        raise InputError(f"--tools {path}: {error.detail}; {_TOOLS}") from None
    if not tools:
        raise InputError(f"--tools {path}: there is no tool in it; {_TOOLS}")
    names = [tool.name for tool in tools]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"--tools {path}: {', '.join(twice)} is there more than once; names tell tools apart")
    return tools


_TOOLS = (
    'a JSON list of tools is expected, as OpenAI writes them: [{"type": "function", "function": {"name": ..., '
    '"description": ..., "parameters": ...}}]'
)
