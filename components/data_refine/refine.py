"""Refine records by rules: each ends qualified, hard or rejected, with its reason, and none is lost. A share of the
qualified ones is held out: nothing trains on it, and evaluation uses it.

Two passes in constant memory: the first reads, checks and spools the records to disk, the second adds what only the
whole set can tell (duplicates, contradictions) and writes the four files. No judge model is used here.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from components.data_refine.duplicates import KeyTable
from components.data_refine.grounding import check_grounding
from components.data_refine.overlap import QuestionIndex, bfcl_index
from components.data_refine.rules import Finding, Keys, check_record, check_response, encode
from components.data_refine.sample_source import sample_records
from components.errors import InputError
from components.files import gzip_lines, sha256_of_json
from components.function_calls.formats.lines import FormatError, Limits
from components.function_calls.formats.reader import Rejected, numbered_records
from components.function_calls.json_text import check_size
from components.function_calls.record import CATEGORIES, Record, RecordError
from components.function_calls.work import limited_work
from components.services.events import say
from components.services.progress import track
from components.services.report import Bars, Detail, Details, Table, write_report
from components.services.storage import open_uri
from components.services.turn_texts import offered_texts, prompt_text
from components.settings import BUILT_IN_DATA, DataRefineSettings
from components.stages.outputs import Outputs

OUTCOMES = ("qualified", "held_out", "hard", "rejected")
GOOD = OUTCOMES[:2]  # written as they are, without a reason
_SPOOL = ".spool"  # removed at the end; the dot keeps it out of the stage's manifest when a kill leaves it behind
_EXAMPLES = 3  # per reason, and per outcome without one, in the report
_SOURCES = 200  # counted apart; more are counted together
_LONGEST_SOURCE = 200  # characters
_KEPT_OF_EXAMPLE = 20_000  # characters

_dump = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Note(NamedTuple):
    """What the second pass knows of a record without parsing it again."""

    line: int
    source: str
    category: str
    outcome: str
    reason: str
    detail: str
    aside: bool = False
    """Held out, if it qualifies."""


@dataclass
class Tally:
    """Counts of the run, and the first few records of each reason and each good outcome."""

    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    categories: Counter[tuple[str, str]] = field(default_factory=Counter)
    sources: dict[str, Counter[str]] = field(default_factory=dict)
    examples: dict[str, list[tuple[Note, str]]] = field(default_factory=dict)

    def add(self, note: Note, payload: str) -> None:
        """Count one record."""
        self.reasons[note.outcome, note.reason] += 1
        self.categories[note.outcome, note.category] += 1
        source = note.source[:_LONGEST_SOURCE]
        known = source in self.sources or len(self.sources) < _SOURCES
        self.sources.setdefault(source if known else "(others)", Counter())[note.outcome] += 1
        if len(kept := self.examples.setdefault(note.reason or note.outcome, [])) < _EXAMPLES:
            kept.append((note, payload[:_KEPT_OF_EXAMPLE]))

    def outcome(self, name: str) -> int:
        """How many records ended so."""
        return sum(count for (outcome, _), count in self.reasons.items() if outcome == name)

    def metrics(self) -> dict[str, float]:
        """Flat counts for MLflow."""
        counts = {name: self.outcome(name) for name in OUTCOMES}
        sources: Counter[str] = Counter()
        for name, of_source in self.sources.items():
            sources[f"source/{_metric_name(name)}"] += of_source["qualified"]
        return {
            "records": sum(counts.values()),
            **counts,
            **{f"{outcome}/{reason}": count for (outcome, reason), count in sorted(self.reasons.items()) if reason},
            **{f"category/{name}": self.categories["qualified", name] for name in CATEGORIES},
            **sources,
        }


def run(config: DataRefineSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Read the records of `config.data`; write qualified, held_out, hard and rejected.jsonl.gz and report.html.

    Returns:
        `records`, one count per outcome, and counts such as `rejected/duplicate`, `category/simple`, `source/xlam`.

    Raises:
        InputError: the data cannot be read on, or no record of it qualifies.
    """
    tally = refine(config, outputs.folder)
    _report(outputs.folder / "report.html", config, tally)
    metrics = tally.metrics()  # final, there is no curve: a resumed run must not log them a second time
    counts = " + ".join(f"{tally.outcome(name):,} {name.replace('_', ' ')}" for name in OUTCOMES)
    say(f"{metrics['records']:,} records = {counts}")
    return metrics


def refine(config: DataRefineSettings, folder: Path) -> Tally:
    """Write the four files to `folder`; the work of `run` without its report. Raises as `run` does."""
    spool = folder / _SPOOL
    shutil.rmtree(spool, ignore_errors=True)
    spool.mkdir(parents=True)
    try:
        with closing(KeyTable(spool / "keys.sqlite")) as table:
            read = _check_all(config, spool / "records", table)
            return _write_all(config, folder, spool / "records", table, read)
    finally:
        shutil.rmtree(spool, ignore_errors=True)


def _check_all(config: DataRefineSettings, spool: Path, table: KeyTable) -> int:
    """First pass: every record to the spool with its finding so far; returns how many there are."""
    index = bfcl_index() if config.benchmark_overlap < 1 else None
    number = 0
    with spool.open("w", encoding="utf-8", errors="surrogatepass") as file:
        total = config.sample_size if config.data in BUILT_IN_DATA else config.max_records or None
        for line, item in track(_numbered(config), "data_refine: checking", "records", total=total):
            number += 1
            if isinstance(item, Rejected):
                note = Note(line, "", "", "rejected", item.reason, item.detail)
                payload = _dump({"raw": item.raw})
            else:
                payload, keys, finding = _check(item, index, config.benchmark_overlap)
                if finding is None or finding.outcome != "rejected":
                    table.add(number, line, keys)
                aside = _is_held_out(item, config)
                outcome, reason, detail = finding or ("qualified", "", "")
                note = Note(line, item.source, item.category, outcome, reason, detail, aside)
            file.write(f"{_dump(note)}\n{payload}\n")
    return number


def _is_held_out(record: Record, config: DataRefineSettings) -> bool:
    """By the questions of the record and the seed only: records that ask the same are on the same side."""
    asked = [message.content for message in record.messages if message.role == "user"]
    return int(sha256_of_json([config.seed, asked])[:13], 16) < config.held_out_share * 16**13


def _check(record: Record, index: QuestionIndex | None, allowed: float) -> tuple[str, Keys, Finding | None]:
    """The record as a line of JSON, its keys, and why it does not qualify; None where it does."""
    payload, keys = encode(record)
    try:
        check_size(payload)  # what stages read later was one line of several, or had its references resolved
        with limited_work():
            finding = (
                check_record(record)
                or _check_overlap(record, index, allowed)
                or check_response(record)
                or check_grounding(record)
            )
    except RecordError as error:
        finding = Finding("rejected", error.reason, error.detail)
    return payload, keys, finding


def _numbered(config: DataRefineSettings) -> Iterator[tuple[int, Record | Rejected]]:
    """The records and the lines they are in (for the built-in source: their number)."""
    if config.data in BUILT_IN_DATA:
        size = min(config.sample_size, config.max_records or config.sample_size)
        yield from enumerate(sample_records(size, config.seed, config.data), 1)
        return
    with open_uri(config.data) as stream:
        try:
            limits = Limits(config.max_lines, config.max_unpacked_mb * 2**20)
            records = numbered_records(stream, config.data, config.data_format, limits)
            yield from islice(records, config.max_records or None)
        except FormatError as error:
            raise InputError(f"data_refine.data: {error}") from None


def _check_overlap(record: Record, index: QuestionIndex | None, allowed: float) -> Finding | None:
    if index is None:
        return None
    share, question = index.nearest([message.content for message in record.messages if message.role == "user"])
    if share <= allowed:
        return None
    return Finding("rejected", "benchmark_overlap", f"{share:.0%} of BFCL's {question} appears in one of its turns")


def _write_all(config: DataRefineSettings, folder: Path, spool: Path, table: KeyTable, total: int) -> Tally:
    """Second pass: the spool and the findings of the whole set, side by side, to the four files."""
    tally = Tally()
    with ExitStack() as stack:
        files = {name: stack.enter_context(gzip_lines(folder / f"{name}.jsonl.gz")) for name in OUTCOMES}
        lines = stack.enter_context(spool.open(encoding="utf-8", errors="surrogatepass", newline="\n"))
        findings = table.findings()
        finding = next(findings, None)
        for number in track(range(1, total + 1), "data_refine: writing", "records"):
            note, payload = Note(*json.loads(lines.readline())), lines.readline().rstrip("\n")
            if finding is not None and finding[0] == number:
                note = note._replace(**finding[1]._asdict())
                finding = next(findings, None)
            if note.aside and note.outcome == "qualified" and tally.outcome("qualified"):  # one is left to train on
                note = note._replace(outcome="held_out")
            tally.add(note, payload)
            if note.outcome not in GOOD:
                why = _dump({"line": note.line, "reason": note.reason, "detail": note.detail})
                payload = f"{why[:-1]},{payload[1:]}"
            files[note.outcome].write(payload + "\n")
        written = sum(tally.outcome(name) for name in OUTCOMES)
        assert written == total and finding is None, f"{total} records were read, {written} are to be written"
        if not tally.outcome("qualified"):
            raise InputError(_nothing_left(config, tally))
    return tally


def _nothing_left(config: DataRefineSettings, tally: Tally) -> str:
    if not tally.reasons:
        return f"data_refine.data: {config.data} holds no record"
    counts = ", ".join(f"{count:,} {reason}" for (_, reason), count in tally.reasons.most_common())
    (note, payload), *_ = next(iter(tally.examples.values()))
    return (
        f"data_refine.data: no record of {config.data} qualifies ({counts}); for example line {note.line}: "
        f"{note.reason}: {note.detail}: {payload[:200]}"
    )


def _report(path: Path, config: DataRefineSettings, tally: Tally) -> None:
    total = sum(tally.reasons.values())
    drawn = tuple(name for name in OUTCOMES[:3] if tally.outcome(name))
    kinds = sorted(tally.examples.values(), key=lambda kept: OUTCOMES[::-1].index(kept[0][0].outcome))
    write_report(
        path,
        "Data refinement",
        _sentence(config, tally),
        [
            Bars("Records by category", "records", _by_category(tally.categories, drawn)),
            Table(
                "Why records did not qualify",
                ("outcome", "reason", "records", "share"),
                [
                    (outcome, reason, count, f"{count / total:.2%}")
                    for (outcome, reason), count in tally.reasons.most_common()
                    if reason
                ],
            ),
            Table(
                "Records by source",
                ("source", *OUTCOMES),
                [
                    (source or "(unreadable)", *(of_source[name] for name in OUTCOMES))
                    for source, of_source in sorted(tally.sources.items())
                ],
            ),
            Details(
                "Records",
                [_detail(note, payload) for kept in kinds for note, payload in kept],
                note=f"The first {_EXAMPLES} of each reason, and of those that qualified.",
            ),
        ],
    )


def _sentence(config: DataRefineSettings, tally: Tally) -> str:
    qualified, held_out, hard, rejected = (f"{tally.outcome(name):,}" for name in OUTCOMES)
    worst = next((f" (most often: {reason})" for (_, reason), _ in tally.reasons.most_common() if reason), "")
    source = f"the built-in {config.data}" if config.data in BUILT_IN_DATA else config.data
    return (
        f"Of {sum(tally.reasons.values()):,} records from {source}, {qualified} qualified, {held_out} were held "
        f"out for evaluation, {hard} were set aside as hard and {rejected} were rejected{worst}."
    )


def _detail(note: Note, payload: str) -> Detail:
    """A record as prompt, thought and gold where it is whole, else as it was read."""
    heading = f"{note.outcome.replace('_', ' ')}{f': {note.reason}' if note.reason else ''}, line {note.line}"
    why = {"why": note.detail} if note.detail else {}
    if not note.category or len(payload) >= _KEPT_OF_EXAMPLE:
        return Detail(heading, why | {"record": payload})
    record = json.loads(payload)
    texts = why | {"prompt": prompt_text(record["messages"])}
    texts |= {name: record[key] for name, key in (("thought", "cot"), ("response", "response")) if record.get(key)}
    texts["gold"] = _dump(record["answers"]) if record["answers"] else "no call"
    return Detail(heading, texts, offered_texts(record["tools"]))


def _metric_name(source: str) -> str:
    """MLflow takes letters, digits and a few marks, and reads a name as a path: no part of it may be `..`."""
    name = re.sub(r"[^\w. -]", "_", source, flags=re.ASCII)[:80] or "unreadable"
    return name.replace(".", "_") if not name.strip(". ") else name


def _by_category(counts: Counter[tuple[str, str]], outcomes: tuple[str, ...]) -> dict[str, dict[str, float]]:
    return {
        name.replace("_", " "): {outcome.replace("_", " "): counts[outcome, name] for outcome in outcomes}
        for name in CATEGORIES
    }
