"""How much of a BFCL question is in a record, by word 8-grams.

Test data must not be trained on. Every question inside the bfcl-eval package counts, those of `unused_datasets`, of
the multi-turn and of the memory conversations too. The package's files are read; nothing of it is imported.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.function_calls.work import spend

GRAM = 8
SHORTEST_WINDOW = 5  # words
SHORTEST_QUESTION = 3
# Scripts without spaces count each character as a word.
_WORD = re.compile(r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]|[^\W_\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff]+")
_INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")  # within words, as copied web pages have them
_SENTENCE_END = re.compile(r"[.!?\n\u3002\uff01\uff1f]\s*")
_AT_THE_END = " \t\r\n.!?\"')\u3002\uff01\uff1f"
_ASCII_WORD = re.compile(r"[a-z0-9]+")  # the same, faster


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


@cache
def bfcl_index() -> QuestionIndex:
    """The index of every BFCL question, made once in a process.

    Raises:
        InputError: the package is not installed.
    """
    return QuestionIndex(bfcl_questions(bfcl_data_folder()))


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
    """The word windows of many questions, for looking up how much of which question is in a text.

    A question of eight words or more is its windows of eight. One of five to seven is a single window of its own size.
    A shorter one ("How are you?") occurs in innocent texts as well: it counts where it is the last turn, or its last
    sentence.
    One or two words ("Hi") need no protection.
    """

    def __init__(self, questions: Iterable[tuple[str, list[str]]]) -> None:
        self._words: dict[str, int] = {}
        self._names: list[str] = []
        self._sizes: list[int] = []  # windows of each question
        grams: dict[int, tuple[int, ...]] = {}  # hash of eight words -> questions
        starts: dict[int, tuple[int, ...]] = {}  # hash of the first five of a short question -> questions
        self._short: dict[int, tuple[int, ...]] = {}  # question -> its words
        self._whole: dict[tuple[int | None, ...], int] = {}  # all the words of a shorter one -> question
        seen: set[str] = set()
        for name, texts in questions:
            for text in texts:
                if text in seen:
                    continue
                seen.add(text)
                question = len(self._names)
                words = tuple(self._words.setdefault(word, len(self._words)) for word in _words(text))
                windows = {0}
                if len(words) >= GRAM:
                    windows = set(_windows(words, GRAM))
                    for window in windows:
                        grams[window] = (*grams.get(window, ()), question)
                elif len(words) >= SHORTEST_WINDOW:
                    (start, *_) = _windows(words, SHORTEST_WINDOW)
                    starts[start] = (*starts.get(start, ()), question)
                    self._short[question] = words
                elif len(words) >= SHORTEST_QUESTION:
                    self._whole[words] = question
                self._names.append(name)
                self._sizes.append(len(windows))
        self._grams, self._starts = grams, starts
        self._known_grams, self._known_starts = frozenset(grams), frozenset(starts)

    def nearest(self, texts: Sequence[str]) -> tuple[float, str]:
        """The largest share of one question that is in one of `texts`, and that question's name.

        The share is of the question's windows: whatever else the texts say does not make it smaller. The last text is
        what the last turn asks.
        """
        best, name = 0.0, ""
        for place, text in enumerate(texts, 1):
            words = tuple(map(self._words.get, _words(text)))
            shared: Counter[int] = Counter()
            for window in self._known_grams.intersection(_windows(words, GRAM)):
                shared.update(self._grams[window])
            for window in self._known_starts.intersection(_windows(words, SHORTEST_WINDOW)):
                shared.update(question for question in self._starts[window] if _contains(words, self._short[question]))
            if place == len(texts):
                asked = _words(_SENTENCE_END.split(text.rstrip(_AT_THE_END))[-1])
                for whole in (words, tuple(map(self._words.get, asked))):
                    if whole in self._whole:
                        shared[self._whole[whole]] = 1
            for question, count in shared.items():
                if count / self._sizes[question] > best:
                    best, name = count / self._sizes[question], self._names[question]
        return best, name


def _contains(words: Sequence[int | None], part: Sequence[int]) -> bool:
    spend(1 + len(words) // 64)
    return any(words[start : start + len(part)] == part for start in range(len(words) - len(part) + 1))


def _words(text: str) -> list[str]:
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return _WORD.findall(_INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).lower())


def _windows(numbers: Sequence[int | None], size: int) -> Iterable[int]:
    """Hashes of the windows of `size` words; words that no question has are None."""
    return map(hash, zip(*(numbers[start:] for start in range(size)), strict=False))
