"""A process that renders chat templates. A template comes with a model, and may loop or fill the memory; so it runs
here: without environment variables, with bounded memory and output, and a bound on each rendering's CPU seconds, beyond
which the kernel ends the process. chat_template.py starts it by this file's path: nothing of callforge can be imported.

The first line out is STARTED. Each line in is a JSON object {"template", "values"}; each further line out is {"text"};
{"refused": why}, in the template's own or Python's words; or {"endless": how}. The language is that of transformers
(utils/chat_template_utils.py), except that the date is fixed: a prompt must be the same tomorrow.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

from jinja2 import Template, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import Node, Scope
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

CPU_SECONDS = 2  # a thousand times what a template takes
MEMORY = 2**29  # bytes
STARTED = "started"
LONGEST = 2**20  # characters; a prompt's own texts are not in it
TODAY = datetime(2024, 7, 26)


class _Generation(Extension):
    """`{% generation %}..{% endgeneration %}` marks the assistant's words for masks; what it holds is rendered."""

    tags = {"generation"}  # noqa: RUF012  # jinja2's own way

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        return Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


def _raise(message: str) -> None:
    raise TemplateError(message)


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@lru_cache(4)
def _compiled(template: str) -> Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {
        "raise_exception": _raise,
        "strftime_now": TODAY.strftime,
        "namespace": Namespace,
    }
    return environment.from_string(template)


def _render(template: str, values: dict[str, Any]) -> dict[str, str]:
    try:
        text = _compiled(template).render(values)
    except MemoryError:
        raise
    except Exception as error:  # a template may fail in any way that Python can
        return {"refused": f"{type(error).__name__}: {str(error)[:1000]}"}
    return {"text": text} if len(text) <= LONGEST else {"endless": f"it writes {len(text):,} characters"}


def _bound_cpu(seconds: int) -> None:
    """End this process when it has used so many seconds, or those that the user's own limit allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)  # nobody but root may raise it
    resource.setrlimit(resource.RLIMIT_CPU, (seconds if hard == resource.RLIM_INFINITY else min(seconds, hard), hard))


def main() -> None:
    """Answer until standard input ends, which is also when the caller has died."""
    with suppress(ValueError, OSError):  # not every system can bound the address space
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.write(f"{STARTED}\n")
    sys.stdout.flush()
    for line in sys.stdin:
        _bound_cpu(int(time.process_time()) + CPU_SECONDS + 1)
        try:
            answer = _render(**json.loads(line))
        except MemoryError:
            answer = {"endless": f"it needs more than {MEMORY // 2**20} MB of memory"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
