"""Can the model know the gold arguments? Each string and number must appear in the conversation or in the schema.

Texts are compared in lower case and without accents, whichever way they are encoded. In scripts that put no blanks
between words, or join endings to them (Chinese, Japanese, Thai, Korean), a value may be anywhere; in other scripts
it must be whole words, of which those beyond the Latin script (Russian, Greek, ...) may have another ending.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any

from components.data_refine.rules import Finding
from components.function_calls.arguments import alternatives, one_of, schema_of_items, schema_of_property
from components.function_calls.record import Record, Schema
from components.function_calls.work import spend

# Thai, Lao, Tibetan, Burmese, Khmer, kana, Han and Hangul.
_UNSPACED = (
    "\u0e00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3040-\u318f\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
_IS_UNSPACED = re.compile(f"[{_UNSPACED}]")
_TOKEN = re.compile(rf"\d{{1,3}}(?:,\d{{3}})+(?:\.\d+)?|\d+(?:\.\d+)*|[{_UNSPACED}]+|[^\W\d_{_UNSPACED}]+")
# Tried from a number's first digit only: from each of them, a long number would take quadratic time.
_PERCENT = re.compile(r"(?<![\d.])(\d+(?:\.\d+)?) ?(?:%|percent)")
_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen twenty"""
_MONTHS = "january february march april may june july august september october november december"
_NUMBER_WORDS = (
    {word: number for number, word in enumerate(_WORDS.split())}
    | {word: number for number, word in enumerate(_MONTHS.split(), 1)}
    | {"once": 1, "twice": 2}
)
_ACCENTS = re.compile("[\u0300-\u036f]+")
_BEYOND_LATIN = re.compile("[\u0370-\U0010ffff]")


def check_grounding(record: Record) -> Finding | None:
    """Hard when a string or number of the gold arguments appears neither in the conversation nor in the schema.

    The model cannot know such a value. Words may differ in case and number, numbers may be written as words, shares as
    percentages, months by their names.
    """
    if not record.answers:
        return None
    text = _folded("\n".join(_conversation(record)))
    said: _Said | None = None
    schemas = {tool.name: tool.parameters for tool in record.tools}
    for call in record.answers:
        for leaf in _leaves(call.arguments, schemas[call.name]):
            folded = _folded(leaf)
            if not _stands_in(folded, text):
                said = said or _Said(text)
                if not all(map(said.has, _tokens(folded))):
                    return Finding("hard", "ungrounded", f"{call.name}: nobody mentions {leaf!r}")
    return None


def _folded(text: str) -> str:
    if text.isascii():
        return text.lower()
    plain = _ACCENTS.sub("", unicodedata.normalize("NFKD", text))
    return unicodedata.normalize("NFC", plain).casefold()


def _stands_in(leaf: str, text: str) -> bool:
    """Is the leaf in the text as it is, as whole words? The quick yes for most."""
    spend(1 + len(text) // 8192)
    start = text.find(leaf)
    if start < 0 or not leaf:
        return False
    end = start + len(leaf)
    before, after = text[start - 1 : start], text[end : end + 2]
    if _goes_on(before, leaf[0]) or _goes_on(after[:1], leaf[-1]):
        return False
    return not (before in (".", ",", "-") or (after[:1] in (".", ",") and after[1:].isdigit()))


def _goes_on(beside: str, edge: str) -> bool:
    """Is the letter beside the leaf part of the leaf's last or first word?"""
    return beside.isalnum() and not (_IS_UNSPACED.match(beside) or _IS_UNSPACED.match(edge))


class _Said:
    """Everything a text says, as tokens."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._tokens |= {str(_NUMBER_WORDS[word]) for word in self._tokens & _NUMBER_WORDS.keys()}
        self._tokens |= {_plain(f"{float(number) / 100:.6f}") for number in _PERCENT.findall(text)}
        self._stems = {stem for token in self._tokens if _BEYOND_LATIN.search(token) for stem in _stems(token)}

    def has(self, token: str) -> bool:
        """The word itself, its singular or plural, or another form of it in a script where endings change."""
        if token in self._tokens or f"{token}s" in self._tokens or (token.endswith("s") and token[:-1] in self._tokens):
            return True
        if _IS_UNSPACED.match(token):
            spend(1 + len(self._text) // 8192)
            return token in self._text
        return bool(_BEYOND_LATIN.search(token)) and not self._stems.isdisjoint(_stems(token))


def _stems(word: str) -> list[str]:
    """The word, and what is left of it without the last letter or two, as long as that is most of it."""
    shortest = max(2, len(word) - (2 if len(word) < 8 else 3), -(-3 * len(word) // 5))
    return [word[:length] for length in range(shortest, len(word) + 1)]


def _conversation(record: Record) -> Iterator[str]:
    for message in record.messages:
        yield message.content
        for call in message.tool_calls:
            yield json.dumps(call.arguments, ensure_ascii=False)


def _leaves(value: Any, schema: Schema) -> Iterator[str]:
    """Strings and numbers inside `value`, but those that the schema itself offers (enum, const, default)."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, schema_of_property(key, schema))
    elif isinstance(value, list):
        items = schema_of_items(schema)
        for item in value:
            yield from _leaves(item, items)
    elif value is not None and not isinstance(value, bool) and not _is_offered(value, schema):
        yield str(value)


def _is_offered(value: Any, schema: Schema) -> bool:
    for part in alternatives(schema):
        if value == part.get("default") or value == part.get("const") or one_of(value, part.get("enum", ())):
            return True
    return False


def _tokens(text: str) -> set[str]:
    """Words and numbers of a text in lower case, numbers in plain digits: "1,500" and "1500.0" are 1500."""
    return {_plain(token) if token[0].isdigit() else token for token in _TOKEN.findall(text)}


def _plain(number: str) -> str:
    whole, _, decimals = number.replace(",", "").partition(".")
    if "." in decimals:  # a version or a date: not one number
        return number
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole
