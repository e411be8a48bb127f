"""BFCL's single-turn Python questions, from the data files inside the installed package bfcl-eval.

The package is located and never imported here: importing it loads every API client and makes folders. The language
hints that the official loader appends to each function description ("... in Python 3 syntax") are left out: they only
tell Java from Python, and our prompts show no other language. Java and JavaScript categories, multi-turn and agentic
ones are not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.evaluations.means import SIZES
from components.evaluations.schema import AskedQuestion, Evaluator
from components.files import read_json_lines
from components.function_calls.prompt import Prompt, build_prompt
from components.function_calls.record import Message, Record, Tool
from components.function_calls.tool_schema import normalise_tool

PREFIX = "BFCL_v4"
WITHOUT_GOLD = ("irrelevance", "live_irrelevance", "live_relevance")


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `functions` and `gold` (None: no answer key) are the benchmark's own objects, for its checker."""

    id: str
    category: str
    messages: tuple[Message, ...]
    tools: tuple[Tool, ...]
    functions: list[dict[str, Any]]
    gold: list[dict[str, Any]] | None
    record: Record | None = None
    """What it was made of, where it is a held-out record and not one of the benchmark's."""

    def asked(self) -> AskedQuestion:
        """What was asked, as an evaluation directory keeps it."""
        return AskedQuestion(
            id=self.id,
            category=self.category,
            messages=[asdict(message) for message in self.messages],
            tools=[asdict(tool) for tool in self.tools],
            gold=self.gold,
            source=self.record.source if self.record else "",
        )

    def prompt(self) -> Prompt:
        """The prompt that the model gets."""
        return build_prompt(self.messages, self.tools)


def evaluator() -> Evaluator:
    """Name and version of the evaluator, for scores.json."""
    _package()
    return Evaluator(name="bfcl-eval", version=version("bfcl-eval"), data=PREFIX)


def load_questions(categories: Sequence[str], sample_per_category: int = 0, seed: int = 0) -> list[Question]:
    """The questions of `categories`, in that order and in the benchmark's order within each.

    Args:
        sample_per_category: this many of each category (all, where it has fewer); 0 takes all. A question's place in
            the draw depends only on its id and `seed`: a larger sample contains the smaller one.

    Raises:
        InputError: an unknown or repeated category, bfcl-eval is not installed, or holds other data.
    """
    unknown = [category for category in categories if category not in SIZES]
    if unknown or not categories:
        named = ", ".join(unknown) or "an empty list"
        raise InputError(f"bfcl_eval.categories: {named} is not known; allowed are {', '.join(SIZES)}")
    if len(set(categories)) < len(categories):
        raise InputError(f"bfcl_eval.categories: a category is named twice in {', '.join(categories)}")
    questions = []
    for category in categories:
        found = _category(category)
        if sample_per_category:
            drawn = sorted(found, key=lambda question: draw(question.id, seed))[:sample_per_category]
            chosen = {question.id for question in drawn}
            found = [question for question in found if question.id in chosen]
        questions += found
    return questions


def draw(identifier: str, seed: int) -> str:
    """A question's place in a sample: the first ones are asked."""
    return hashlib.sha256(f"{seed}/{identifier}".encode()).hexdigest()


def _category(category: str) -> list[Question]:
    data = _package() / "data"
    name = f"{PREFIX}_{category}.json"
    records = _read(data / name)
    gold = [None] * len(records) if category in WITHOUT_GOLD else _read(data / "possible_answer" / name)
    if len(records) != SIZES[category] or len(gold) != len(records):
        raise InputError(
            f"{data / name} has {len(records)} questions and {SIZES[category]} are expected: this is not "
            f"the data of BFCL v4; {_INSTALL}"
        )
    return [_question(category, record, key) for record, key in zip(records, gold, strict=True)]


def _question(category: str, record: dict[str, Any], gold: dict[str, Any] | None) -> Question:
    messages = tuple(Message(item["role"], item["content"]) for turn in record["question"] for item in turn)
    tools = tuple(normalise_tool(function) for function in record["function"])
    return Question(record["id"], category, messages, tools, record["function"], gold["ground_truth"] if gold else None)


_INSTALL = "install it with `pip install --no-deps bfcl-eval filelock`"


@cache
def _package() -> Path:
    spec = find_spec("bfcl_eval")
    if spec is None or not spec.submodule_search_locations:
        raise InputError(f"the package bfcl-eval with the benchmark's data is not installed; {_INSTALL}")
    return Path(spec.submodule_search_locations[0])


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        return read_json_lines(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}); {_INSTALL}") from None
