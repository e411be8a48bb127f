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
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.errors import InputError, WorkError
from components.language_models import template_process

EDGE = "\u2003"  # a space that str.strip takes and no template writes
PYTHON_NEEDS = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")  # to start; other variables are none of a template's business


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
        WorkError: the process that renders it cannot be started.
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
        if self.process is None or self.owner != os.getpid() or self.process.poll() is not None:
            self._start()
        line = self._answer(json.dumps({"template": template, "values": values}))
        if not line:
            code = self._exit_code()
            if code == -signal.SIGXCPU:
                raise InputError("it does not end: the process that rendered it was ended after some seconds")
            raise InputError(f"the process that rendered it died of it (exit code {code})")
        answer = json.loads(line)
        if "endless" in answer:
            raise InputError(f"it does not end: {answer['endless']}")
        if "refused" in answer:
            raise ConversationError(answer["refused"])
        return str(answer["text"])

    def _start(self) -> None:
        self.owner = os.getpid()
        with tempfile.TemporaryFile() as errors:
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-I", template_process.__file__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env={name: os.environ[name] for name in PYTHON_NEEDS if name in os.environ},
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C is for the caller
                )
            except OSError as error:
                self.process = None
                raise _not_started(str(error.strerror)) from None
            if self._answer() != f"{template_process.STARTED}\n":
                code = self._exit_code()
                errors.seek(0)
                words = errors.read().decode(errors="replace").strip().rpartition("\n")[2][:500]
                raise _not_started(f"exit code {code}{words and f', {words}'}")

    def _answer(self, question: str = "") -> str:
        """The next line that the process writes, to `question` if there is one; "" when it has ended."""
        assert self.process is not None and self.process.stdin is not None and self.process.stdout is not None
        try:
            if question:
                self.process.stdin.write(f"{question}\n")
                self.process.stdin.flush()
            return self.process.stdout.readline()
        except BrokenPipeError:
            return ""

    def _exit_code(self) -> int:
        """Of the process, which has closed its output."""
        assert self.process is not None
        code = self.process.wait()
        self.close()
        return code

    def close(self) -> None:
        """End it; the next rendering starts another."""
        if self.process is not None and self.owner == os.getpid():
            self.process.kill()
            self.process.communicate()
        self.process = None


def _not_started(reason: str) -> WorkError:
    return WorkError(
        f"the process that renders chat templates could not be started: {reason}; see whether `{sys.executable} -I -c "
        "'import jinja2'` works, and whether this machine has memory and processes left"
    )


_PROCESS = _Process()
atexit.register(_PROCESS.close)
