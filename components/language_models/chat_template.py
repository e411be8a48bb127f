"""Where a model's chat template puts the messages of a conversation.

A template is rendered once for each order of roles, with a mark in place of each message, in a process of its own
(template_process.py). So it never sees what the messages say: no text can break it or hide in it, each message is in
the prompt exactly once, and a template that drops or doubles one is found out before any work. What a template does to
a message's edges (trimming) is read off the marks. Token ids are made in tokens.py.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from components.errors import InputError

EDGE = "\u2003"  # a space that str.strip takes and no template writes


class ConversationError(InputError):
    """A chat template refuses one order of roles, or does not write every message of it exactly once."""


@dataclass(frozen=True, slots=True)
class Slot:
    """The place of a message. `before` and `after`: the characters taken off its ends; None for any white space."""

    index: int
    before: str | None
    after: str | None

    def fill(self, content: str) -> str:
        """The message as the template writes it."""
        return content.lstrip(self.before).rstrip(self.after)


Layout = tuple[str | Slot, ...]


def lay_out(template: str, roles: Sequence[str], values: Mapping[str, Any], answer: bool = True) -> Layout:
    """The prompt of a conversation of these roles: the template's own text, and the slots of the messages.

    Args:
        values: the tokenizer's special tokens by name, as templates use them.
        answer: end where the assistant's turn begins.

    Raises:
        ConversationError: the template refuses it, or writes a message not at all or more than once.
        InputError: the template does not end, or writes without end.
    """
    marks = [f"\n{EDGE}[callforge: message {index} of {len(roles)}]{EDGE}\n" for index in range(len(roles))]
    reasons = []
    for content in (marks, [[{"type": "text", "text": mark}] for mark in marks]):
        messages = [{"role": role, "content": text} for role, text in zip(roles, content, strict=True)]
        try:
            text = _PROCESS.render(template, {**values, "messages": messages, "add_generation_prompt": answer})
            return _layout(text, len(roles))
        except ConversationError as error:
            reasons.append(str(error))
    raise ConversationError(f"a conversation of {', '.join(roles)}: {reasons[0]}")


def _layout(text: str, number: int) -> Layout:
    mark = rf"(\n{EDGE}|{EDGE}|)\[callforge: message ([0-9]+) of {number}\]({EDGE}\n|{EDGE}|)"
    pieces = re.split(mark, text)
    layout: list[str | Slot] = [pieces[0]]
    for before, index, after, own in zip(*(pieces[start::4] for start in (1, 2, 3, 4)), strict=True):
        layout += [Slot(int(index), _stripped(before), _stripped(after)), own]
    places = sorted(piece.index for piece in layout if isinstance(piece, Slot))
    for index in range(number):
        if (times := places.count(index)) != 1:
            raise ConversationError(f"message {index + 1} of {number} is written {times or 'no'} times")
    return tuple(piece for piece in layout if piece != "")


def _stripped(edge: str) -> str | None:
    return {"": None, EDGE: "\n"}.get(edge, "")


class _Process:
    """The process that renders, started when it is first needed; a forked child starts its own."""

    def __init__(self) -> None:
        self.owner = 0
        self.process: subprocess.Popen[str] | None = None

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """The text that the template makes of `values`."""
        asks, answers = self._pipes()
        try:
            asks.write(json.dumps({"template": template, "values": values}) + "\n")
            asks.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            raise InputError("it does not end: the process that rendered it was ended after some seconds")
        answer = json.loads(line)
        if "endless" in answer:
            raise InputError(f"it does not end: {answer['endless']}")
        if "refused" in answer:
            raise ConversationError(answer["refused"])
        return str(answer["text"])

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-I", str(Path(__file__).with_name("template_process.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},  # credentials are none of a template's business
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for the caller
            )
            self.owner = os.getpid()
        assert self.process.stdin is not None and self.process.stdout is not None
        return self.process.stdin, self.process.stdout

    def close(self) -> None:
        """End it; the next rendering starts another."""
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.communicate()
        self.process = None


_PROCESS = _Process()
atexit.register(_PROCESS.close)
