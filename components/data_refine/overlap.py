"""Which part of a question stands in a question of the BFCL benchmark, by word 8-grams.

Test data must not be trained on. Every question inside the bfcl-eval package counts, those of `unused_datasets`, of
the multi-turn and of the memory conversations too. The package's files are read; nothing of it is imported.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.errors import InputError

GRAM = 8
# Scripts without spaces count each character as a word.
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W_\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]+")


def bfcl_data_folder() -> Path:
    """The data folder inside the installed bfcl-eval.

    Raises:
        InputError: the package is not installed.
    """
    found = find_spec("bfcl_eval")  # finds without importing
    folder = Path((found.submodule_search_locations or [""])[0], "data") if found else Path()
    if not found or not folder.is_dir():
        raise InputError(
            "data_refine.benchmark_overlap: the BFCL questions are read from the package bfcl-eval, which is not "
            "installed; `pip install --no-deps bfcl-eval filelock`, or leave the check out by benchmark_overlap=1"
        )
    return folder


def bfcl_questions(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Name and user texts of every BFCL question under `folder`."""
    for path in sorted(folder.rglob("*.json")):
        if "possible_answer" in path.parts:
            continue
        for number, line in enumerate(path.read_text("utf-8").split("\n"), 1):
            if '"question"' not in line:
                continue
            value = json.loads(line)
            yield value.get("id") or f"{path.stem}, line {number}", list(_texts(value["question"]))


def _texts(question: Any) -> Iterator[str]:
    """A question is a text, a message, or lists of them."""
    if isinstance(question, str):
        yield question
    elif isinstance(question, list):
        for item in question:
            yield from _texts(item)
    elif question.get("role") != "assistant":
        yield question["content"]


class QuestionIndex:
    """The word 8-grams of many questions, for looking up the nearest one."""

    def __init__(self, questions: Iterable[tuple[str, list[str]]]) -> None:
        self._words: dict[str, int] = {}
        self._questions: dict[int, tuple[int, ...]] = {}  # by the hash of a gram
        self._names: list[str] = []
        seen: dict[str, int] = {}
        for name, texts in questions:
            for text in texts:
                if text not in seen:
                    seen[text] = len(self._names)
                    self._names.append(name)
                    self._add(text, seen[text])

    def _add(self, text: str, question: int) -> None:
        numbers = [self._words.setdefault(word, len(self._words)) for word in _words(text)]
        for gram in set(_grams(numbers)):
            self._questions[gram] = (*self._questions.get(gram, ()), question)

    def nearest(self, texts: Iterable[str]) -> tuple[float, str]:
        """The largest share of the 8-grams of `texts` that one question has, and that question's name.

        A text of fewer than eight words is one gram, equal only to a question of just these words.
        """
        total = 0
        shared: Counter[int] = Counter()
        for text in texts:
            numbers = list(map(self._words.get, _words(text)))
            total += max(len(numbers) - GRAM + 1, min(len(numbers), 1))
            for gram in _grams(numbers):
                if gram in self._questions:
                    shared.update(self._questions[gram])
        if not shared:
            return 0.0, ""
        question, count = shared.most_common(1)[0]
        return count / total, self._names[question]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _grams(numbers: Sequence[int | None]) -> Iterable[int]:
    """Hashes of the windows of eight words; of all words where there are fewer. Unknown words are None."""
    if 0 < len(numbers) < GRAM:
        return (hash(tuple(numbers)),)
    return map(hash, zip(*(numbers[start:] for start in range(GRAM)), strict=False))
