"""Which records repeat or contradict each other, found on disk, so that memory does not grow with the records.

Knows keys only (rules.Keys); reads no records.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from components.data_refine.rules import Finding, Keys

_BATCH = 2000

# Exact repeats go first: the first of them stands for all. Those that are left contradict each other when one question
# has several answers; none of them can be trusted then. Last, an id may be given once.
_FINDINGS = """
WITH
  repeats AS (SELECT *, min(number) OVER (PARTITION BY question, answers) AS twin FROM keys),
  unique_content AS (SELECT * FROM repeats WHERE twin = number),
  questions AS (
    SELECT *, min(answers) OVER (PARTITION BY question) <> max(answers) OVER (PARTITION BY question) AS contradicted,
      min(number) OVER (PARTITION BY question) AS first,
      max(number) OVER (PARTITION BY question) AS last
    FROM unique_content),
  agreeing AS (SELECT *, min(number) OVER (PARTITION BY id) AS namesake FROM questions WHERE NOT contradicted)
SELECT number, 'duplicate', (SELECT line FROM keys AS other WHERE other.number = twin)
  FROM repeats WHERE twin < number
UNION ALL
SELECT number, 'conflict',
    (SELECT line FROM keys AS other
      WHERE other.number = iif(first = questions.number, last, first))
  FROM questions WHERE contradicted
UNION ALL
SELECT number, 'duplicate_id', (SELECT line FROM keys AS other WHERE other.number = namesake)
  FROM agreeing WHERE namesake < number
ORDER BY 1
"""


class KeyTable:
    """Keys of the records that passed the other rules, in a temporary database of one file."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        # Losing the file loses nothing: a killed run starts over.
        self._database.executescript(
            "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA temp_store=FILE; PRAGMA cache_size=-16384;"
            "CREATE TABLE keys (number INTEGER PRIMARY KEY, line INT, id INT, question INT, answers INT)"
        )
        self._waiting: list[tuple[int, int, int, int, int]] = []

    def add(self, number: int, line: int, keys: Keys) -> None:
        """Remember the keys of the record `number` (rising), which is in `line`."""
        self._waiting.append((number, line, *keys))
        if len(self._waiting) >= _BATCH:
            self._flush()

    def findings(self) -> Iterator[tuple[int, Finding]]:
        """Numbers, rising, and findings of the records that repeat or contradict others."""
        self._flush()
        for number, reason, line in self._database.execute(_FINDINGS):
            yield number, _finding(reason, line)

    def _flush(self) -> None:
        self._database.executemany("INSERT INTO keys VALUES (?, ?, ?, ?, ?)", self._waiting)
        self._waiting.clear()

    def close(self) -> None:
        """Close the database; its file is the caller's to remove."""
        self._database.close()


def _finding(reason: str, line: int) -> Finding:
    if reason == "duplicate":
        return Finding("rejected", reason, f"the same question, tools and answers as line {line}")
    if reason == "duplicate_id":
        return Finding("rejected", reason, f"line {line} has this id already")
    return Finding("hard", reason, f"line {line} has the same question and tools, but other answers")
