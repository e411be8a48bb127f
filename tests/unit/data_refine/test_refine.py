"""data_refine through its run(): every rule, the counts and the bytes it writes."""

from __future__ import annotations

import gzip
import json
import posixpath
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.data_refine import refine
from components.data_refine.grounding import check_grounding
from components.data_refine.overlap import bfcl_data_folder, bfcl_questions
from components.errors import InputError
from components.function_calls.parse import MAX_CALLS
from components.function_calls.record import record_from_json
from components.settings import DataRefineSettings, RunSettings
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage
from tests.unit.data_refine.refine_support import (
    OTHER_TOOL,
    TOOL,
    Refined,
    answer,
    asked,
    changed_tool,
    deep_call,
    record,
)

SHARED = Path(__file__).resolve().parents[3] / "../shared/data"
BROKEN = {
    "not json": ("{", "not_json"),
    "no object": ("[1]", "structure"),
    "no messages": ({"id": "a", "source": "b", "tools": [], "answers": []}, "structure"),
    "empty messages": (record(messages=[]), "structure"),
    "empty question": (record(messages=asked("  ")), "structure"),
    "unknown role": (record(messages=[{"role": "robot", "content": "x"}]), "structure"),
    "ends with the assistant": (record(messages=[*asked("a"), {"role": "assistant", "content": "b"}]), "structure"),
    "empty id": (record(id=""), "structure"),
    "answers missing": ({k: v for k, v in record().items() if k != "answers"}, "structure"),
    "tool without a name": (record(tools=changed_tool(name="")), "tool_name"),
    "tool with a bad schema": (
        record(tools=changed_tool(parameters={"type": "object", "properties": {"town": {"minLength": "x"}}})),
        "tool_schema",
    ),
    "two tools of one name": (record(tools=[TOOL, TOOL]), "tool_repeated"),
    "call of no offered tool": (record(answers=[{"name": "fly", "arguments": {}}]), "unknown_tool"),
    "unknown argument": (record(answers=answer(pool=True)), "unknown_argument"),
    "missing argument": (record(answers=[{"name": "book_room", "arguments": {"nights": 1}}]), "missing_argument"),
    "wrong type": (record(answers=answer(nights="1")), "wrong_type"),
    "boolean for an integer": (record(answers=answer(nights=True)), "wrong_type"),
    "value outside the enum": (record(answers=answer(view="lake")), "wrong_value"),
    "calls too deep for a turn": (deep_call(40), "not_renderable"),
    "more calls than a turn may have": (record(answers=answer() * (MAX_CALLS + 1)), "not_renderable"),
    "calls too deep to be walked": (deep_call(900), "too_deep"),
    "calls too long for a turn": (
        record(messages=asked("ab " * 20_000), answers=answer(town="ab " * 20_000)),
        "not_renderable",
    ),
}


@pytest.mark.parametrize(("line", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_record_is_rejected_with_line_and_reason(tmp_path: Path, line: Any, reason: str) -> None:
    refined = Refined(tmp_path, [record(7), line, record(8)])
    assert [(item["line"], item["reason"]) for item in refined.lines("rejected")] == [(2, reason)]
    assert refined.metrics[f"rejected/{reason}"] == 1
    assert len(refined.lines("qualified")) == 2


GROUNDING = {
    "as it stands": ("nights in Quibdo: 1", {}, True),
    "another case": ("one night in QUIBDO", {}, True),
    "a value of the schema": ("1 night in Quibdo", {"view": "sea", "budget": 100}, True),
    "number with commas": ("1 night in Quibdo under 1,500", {"budget": 1500}, True),
    "float for a whole number": ("1 night in Quibdo under 80", {"budget": 80.0}, True),
    "percentage": ("1 night in Quibdo at 25%", {"budget": 0.25}, True),
    "part of a word": ("1 night in Quibdolandia", {}, False),
    "part of a number": ("21 nights in Quibdo", {}, False),
    "part of a decimal": ("2.1 nights in Quibdo", {}, False),
    "digits in full width": ("1 night in Quibdo under \uff18\uff10", {"budget": 80}, True),
    "other accents": ("1 night in Québdo", {"town": "Quebdo"}, True),
    "decomposed accents": ("1 night in Sa\u0303o Paulo", {"town": "S\u00e3o Paulo"}, True),
    "Chinese": ("帮我订北京的房间 1晚", {"town": "北京"}, True),
    "Chinese, another city": ("帮我订北京的房间 1晚", {"town": "上海"}, False),
    "two Chinese words": ("北京和上海的房间 1晚", {"town": "北京 上海"}, True),
    "Japanese": ("大阪で1泊したい", {"town": "大阪"}, True),
    "Korean": ("서울에서 1박 하고 싶어", {"town": "서울"}, True),
    "Thai": ("จองห้อง 1 คืนที่เชียงใหม่วันนี้", {"town": "เชียงใหม่"}, True),
    "Russian in another case": ("Одна ночь (1) в Казани", {"town": "Казань"}, True),
    "two Russian words": ("1 ночь в Нижнем Новгороде", {"town": "Нижний Новгород"}, True),
    "another Russian town": ("1 ночь в Казани", {"town": "Пермь"}, False),
    "Greek": ("1 νύχτα στην Αθήνα", {"town": "Αθηνα"}, True),
    "nobody said it": ("1 night by the sea", {}, False),
    "number nobody said": ("1 night in Quibdo", {"budget": 75}, False),
}


@pytest.mark.parametrize(("text", "arguments", "grounded"), GROUNDING.values(), ids=GROUNDING.keys())
def test_a_value_that_nobody_mentions_makes_a_record_hard(
    tmp_path: Path, text: str, arguments: dict[str, Any], grounded: bool
) -> None:
    refined = Refined(tmp_path, [record(7), record(messages=asked(text), answers=answer(**arguments))])
    assert refined.reasons() == ({} if grounded else {2: "ungrounded"})


def test_a_long_number_takes_no_quadratic_time() -> None:
    text = "1" * 200_000 + " 1.1" * 50_000 + ".1" * 100_000
    start = time.process_time()
    finding = check_grounding(record_from_json(record(messages=asked(text))))
    assert finding is not None and finding.reason == "ungrounded"
    assert time.process_time() - start < 10  # quadratic time would be minutes


def test_a_value_from_an_earlier_turn_is_grounded(tmp_path: Path) -> None:
    messages = [
        *asked("Where did I stay last time?"),
        {"role": "assistant", "content": "", "tool_calls": [{"name": "ping", "arguments": {}}]},
        {"role": "tool", "content": '{"town": "Quibdo", "nights": 1}'},
        {"role": "assistant", "content": "In Quibdo, for 1 night."},
        *asked("The same again, please"),
    ]
    assert Refined(tmp_path, [record(messages=messages)]).reasons() == {}


def test_repeats_keep_the_first_and_contradictions_make_all_hard(tmp_path: Path) -> None:
    shuffled = record(
        0, id="shuffled", tools=[OTHER_TOOL, TOOL], messages=asked(" Find me a place in Quibdo\nfor 1 nights")
    )
    lines = [
        record(0),
        shuffled,  # 2: repeats line 1
        record(1),
        record(2, id="r-1"),  # 4: another question under the id of line 3
        record(5),
        record(5, id="no", answers=[]),  # 6: contradicts line 5
        record(5, id="again"),  # 7: repeats line 5
        record(1, id="other tools", tools=[TOOL]),  # 8: other tools make another question
    ]
    refined = Refined(tmp_path, lines)
    assert refined.reasons() == {
        2: "duplicate", 4: "duplicate_id", 5: "conflict", 6: "conflict", 7: "duplicate",
    }  # fmt: skip
    details = {line["line"]: line["detail"] for name in ("hard", "rejected") for line in refined.lines(name)}
    assert "line 1" in details[2]
    assert "line 3" in details[4]
    assert "line 6" in details[5]
    assert "line 5" in details[6]
    assert [line["id"] for line in refined.lines("qualified")] == ["r-0", "r-1", "other tools"]


def test_arguments_in_another_order_are_the_same_answer(tmp_path: Path) -> None:
    turned = {"name": "book_room", "arguments": {"nights": 1, "town": "Quibdo"}}
    assert Refined(tmp_path, [record(0), record(0, id="b", answers=[turned])]).reasons() == {2: "duplicate"}


def test_calls_in_another_order_are_the_same_answer(tmp_path: Path) -> None:
    calls = [*answer(), {"name": "ping", "arguments": {}}]
    lines = [record(0, answers=calls), record(0, id="b", answers=calls[::-1])]
    assert Refined(tmp_path, lines).reasons() == {2: "duplicate"}


def test_a_contradicted_record_is_hard_once_and_leaves_its_id_free(tmp_path: Path) -> None:
    lines = [record(0), record(0, answers=[]), record(1, id="r-0")]  # all of one id
    assert Refined(tmp_path, lines).reasons() == {1: "conflict", 2: "conflict"}


def test_a_rejected_record_makes_no_other_a_duplicate(tmp_path: Path) -> None:
    bad = record(0, answers=answer(pool=True))
    assert Refined(tmp_path, [bad, record(0)]).reasons() == {1: "unknown_argument"}


@pytest.mark.parametrize(
    "category", ["simple_python", "live_multiple", "multi_turn_base", "exec_simple", "memory_student"]
)
def test_a_question_of_the_benchmark_is_rejected(tmp_path: Path, category: str) -> None:
    name, texts = next(
        (name, texts)
        for name, texts in bfcl_questions(bfcl_data_folder())
        if category.removeprefix("memory_") in name and max(len(text.split()) for text in texts) > 12
    )
    text = max(texts, key=len)
    lines = [record(0), record(1, answers=[], messages=asked(f"Hello. {text.upper()}"))]
    refined = Refined(tmp_path, lines, benchmark_overlap=0.3)
    assert refined.reasons() == {2: "benchmark_overlap"}, name


TRIANGLE = "Find the area of a triangle with a base of 10 units and height of 5 units."  # 17 words, 10 grams
SAID = " ".join(f"word{number}" for number in range(200))
OVERLAP = {
    "in letters of full width": (["".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in TRIANGLE)], True),
    "with invisible letters": (["\u200b".join(TRIANGLE)], True),
    "a short one as the last sentence": (["Good evening. Who discovered electricity?"], True),
    "a short one in the middle": (["Who discovered electricity? Never mind. I want a room in Quibdo now."], False),
    "as it stands": ([TRIANGLE], True),
    "behind much else": ([f"{SAID} {TRIANGLE} {SAID}"], True),
    "in the first turn": ([TRIANGLE, "Thank you, and now?"], True),
    "in the last turn": ([SAID, SAID, TRIANGLE.upper()], True),
    "four of its ten grams": (["the area of a triangle with a base of 10 units"], True),
    "two of its ten grams": (["the area of a triangle with a base of"], False),
    "a question of six words": (["I want to watch a movie."], True),
    "the same behind more": (["Tell me. I want to watch a movie. Today"], True),
    "five of six words": (["I want to watch a film"], False),
    "a question of four words": (["who write Don Quixote?"], True),
    "the same in the middle of another": (["And who write Don Quixote? I forgot"], False),
    "a greeting in an earlier turn": (["Hi", "How are you?", "Look up the weather, will you"], False),
}


@pytest.mark.parametrize(("turns", "found"), OVERLAP.values(), ids=OVERLAP.keys())
def test_overlap_is_a_share_of_the_question(tmp_path: Path, turns: list[str], found: bool) -> None:
    messages = [message for turn in turns for message in (*asked(turn), {"role": "assistant", "content": "Yes"})][:-1]
    lines = [record(0), record(1, answers=[], messages=messages)]
    refined = Refined(tmp_path, lines, benchmark_overlap=0.3)
    assert refined.reasons() == ({2: "benchmark_overlap"} if found else {})


def test_hard_and_rejected_lines_keep_the_record_or_the_raw_text(tmp_path: Path) -> None:
    hard = record(0, messages=asked("Somewhere warm"), meta={"page": 3})
    refined = Refined(tmp_path, [record(7), hard, "{oops" + "x" * 10_000, record(1, answers=answer(pool=True))])
    (kept,) = refined.lines("hard")
    assert kept["messages"] == hard["messages"]
    assert kept["meta"] == {"page": 3}
    unreadable, invalid = refined.lines("rejected")
    assert unreadable["raw"].startswith("{oopsx")
    assert len(unreadable["raw"]) < 3000
    assert invalid["id"] == "r-1"


def test_counts_by_category_and_source(tmp_path: Path) -> None:
    lines = [
        record(0, source="a/b (c)"),
        record(1, source="a/b (c)", tools=[TOOL]),
        record(2, source="x", answers=[]),
        record(3, source="x", messages=asked("Where?")),
        *(record(number, source=f"s{number}") for number in range(4, 300)),
    ]
    metrics = Refined(tmp_path, lines).metrics
    assert (metrics["category/simple"], metrics["category/multiple"], metrics["category/no_call"]) == (1, 297, 1)
    assert (metrics["source/a_b _c_"], metrics["source/x"], metrics["hard/ungrounded"]) == (2, 1, 1)
    sources = [value for name, value in metrics.items() if name.startswith("source/")]
    assert sum(sources) == metrics["qualified"] == 299
    assert len(sources) < 210  # a source per record must not make a metric per record


LINES = st.lists(
    st.one_of(
        st.integers(0, 5).map(record),
        st.integers(0, 5).map(lambda number: record(number, id=f"twin-{number}")),
        st.integers(0, 5).map(lambda number: record(number, id=f"no-{number}", answers=[])),
        st.integers(0, 5).map(lambda number: record(number, messages=asked(f"A place {number}"))),
        st.sampled_from([line for line, _ in BROKEN.values() if len(json.dumps(line)) < 5000]),
        st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1).filter(str.strip),
    ),
    max_size=25,
)


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(lines=LINES)
def test_every_line_is_accounted_for_once(tmp_path_factory: pytest.TempPathFactory, lines: list[Any]) -> None:
    lines = [record(100), *lines]
    refined = Refined(tmp_path_factory.mktemp("mixture"), lines)
    metrics = refined.metrics
    written = {name: refined.lines(name) for name in refine.OUTCOMES}
    assert {name: metrics[name] for name in refine.OUTCOMES} == {name: len(items) for name, items in written.items()}
    assert metrics["records"] == len(lines) == sum(map(len, written.values()))
    numbers = [item["line"] for name in ("hard", "rejected") for item in written[name]]
    assert len(set(numbers)) == len(numbers)
    # what qualified is the rest, in the order of the input
    rest = [line for number, line in enumerate(lines, 1) if number not in numbers]
    assert [item["id"] for item in written["qualified"]] == [line["id"] for line in rest]


def test_equal_input_gives_equal_bytes(tmp_path: Path) -> None:
    lines = [record(0), record(0, id="b"), "broken", record(1, messages=asked("Where?"))]
    first, second = Refined(tmp_path / "a", lines), Refined(tmp_path / "b", lines)
    for name in refine.OUTCOMES:
        packed = (first.folder / f"{name}.jsonl.gz").read_bytes()
        assert packed == (second.folder / f"{name}.jsonl.gz").read_bytes()
        assert packed[4:8] == bytes(4)  # no time in the gzip header


def test_what_a_killed_run_left_behind_is_cleared_away(tmp_path: Path) -> None:
    spool = tmp_path / "stage" / ".spool"
    spool.mkdir(parents=True)
    (spool / "records").write_text("half a rec")
    (spool / "keys.sqlite").write_text("no database")
    refined = Refined(tmp_path, [record(0)])
    assert {path.name for path in refined.folder.iterdir()} == {f"{name}.jsonl.gz" for name in refine.OUTCOMES}


def test_gzip_blank_lines_and_max_records(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl.gz"
    lines = [json.dumps(record(number, **({"answers": answer(pool=1)} if number == 2 else {}))) for number in range(9)]
    data.write_bytes(gzip.compress("\n\n".join(lines).encode()))
    config = DataRefineSettings(data=str(data), max_records=4, benchmark_overlap=1.0)
    metrics = execute_stage(find_stage("data_refine"), config, {}, tmp_path / "stage", RunSettings())
    assert (metrics["records"], metrics["qualified"]) == (4, 3)
    with gzip.open(tmp_path / "stage" / "rejected.jsonl.gz", "rt") as file:
        assert json.loads(file.readline())["line"] == 5  # blank lines count


def test_the_sample_is_clean(tmp_path: Path) -> None:
    config = DataRefineSettings(data="sample", sample_size=1500)
    metrics = execute_stage(find_stage("data_refine"), config, {}, tmp_path / "stage", RunSettings())
    assert metrics["qualified"] == metrics["records"] == 1500
    page = (tmp_path / "stage" / "report.html").read_text()
    assert "Of 1,500 records from the built-in sample, 1,500 qualified" in page
    assert "<summary>qualified, line 1</summary>" in page, "records are shown where none was rejected"


def test_nothing_qualified_names_the_reasons_and_an_example(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"2 unknown_tool, 1 not_json.*line 1: unknown_tool.*'fly'"):
        Refined(tmp_path, [*(record(n, answers=[{"name": "fly", "arguments": {}}]) for n in range(2)), "{"])
    assert not list((tmp_path / "stage").glob("*.gz"))


def test_no_call_whose_response_reads_as_a_call_is_hard(tmp_path: Path) -> None:
    lines = [
        record(0, answers=[], response="I can't do that."),
        record(1, answers=[], response=""),
        record(2, answers=[], response='[book_room(town="Quibdo")]'),
        record(3, answers=[], response='book_room(town="Quibdo")'),
    ]
    assert Refined(tmp_path, lines).reasons() == {3: "response_is_a_call", 4: "response_is_a_call"}


def test_metric_names_are_names_to_mlflow(tmp_path: Path) -> None:
    sources = ["..", ".", "a/../b", "x" * 300, "глайв", " ", "a:b", "../..", "...", "tool\nrl", "\x1b[2J"]
    metrics = Refined(tmp_path, [record(number, source=source) for number, source in enumerate(sources)]).metrics
    for name in (f"data_refine/{name}" for name in metrics):
        assert re.fullmatch(r"[\w./ -]+", name, re.ASCII), name
        assert posixpath.normpath(name) == name, "MLflow reads it as a path"
    assert sum(value for name, value in metrics.items() if name.startswith("source/")) == len(sources)


def test_a_run_that_is_repeated_logs_nothing_twice(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(record()))
    config = DataRefineSettings(data=str(data), benchmark_overlap=1.0)
    for _ in range(2):  # killed before its manifest was written, and started again
        execute_stage(find_stage("data_refine"), config, {}, tmp_path / "stage", RunSettings())
        (tmp_path / "stage" / "manifest.json").unlink()
    steps = (tmp_path / "stage" / "metrics.jsonl").read_text().splitlines()
    assert len(steps) == len(set(steps))


CASES = Path(__file__).resolve().parents[3] / "../shared/cases"
RIGHT = {
    "arrow_padding.jsonl": {},
    "nullable.jsonl": {},
    "cjk.jsonl": {},
    "wrappers.jsonl": {4: "benchmark_overlap"},  # "Tell me a joke" is a question of the benchmark
    "openai_ft.jsonl": {2: "duplicate", 3: "duplicate"},
    "history.jsonl": {10: "missing_argument"},  # null arguments where one is required
    "hermes.jsonl": {},
    "nocall_responses.jsonl": dict.fromkeys((4, 5, 6, 7, 11, 12), "response_is_a_call"),
    "greeting.jsonl": {},
}


@pytest.mark.skipif(not CASES.exists(), reason="the inputs of ../shared/cases are not here")
@pytest.mark.parametrize(("file", "reasons"), RIGHT.items(), ids=RIGHT.keys())
def test_inputs_that_public_reports_suggested(tmp_path: Path, file: str, reasons: dict[int, str]) -> None:
    lines = (CASES / file).read_text("utf-8").splitlines()
    refined = Refined(tmp_path, lines, data_format="auto", benchmark_overlap=0.3)
    assert refined.reasons() == reasons
    assert refined.metrics["records"] == len(lines)


@pytest.mark.skipif(not SHARED.exists(), reason="the real records of ../shared/data are not here")
def test_the_real_records_are_all_accounted_for(tmp_path: Path) -> None:
    config = DataRefineSettings(data=str(SHARED / "fc_train.jsonl.gz"))
    metrics = execute_stage(find_stage("data_refine"), config, {}, tmp_path / "own", RunSettings())
    assert metrics["records"] == 2028
    assert metrics["rejected"] <= 5
    assert 150 <= metrics["hard"] <= 274  # the source calls 274 not grounded, some of them by month names or percents
    config = DataRefineSettings(data=str(SHARED / "xlam_layout.jsonl.gz"))
    metrics = execute_stage(find_stage("data_refine"), config, {}, tmp_path / "xlam", RunSettings())
    assert metrics["records"] == 333
    assert metrics["rejected"] <= 5


def test_a_share_is_held_out_and_nothing_is_lost(tmp_path: Path) -> None:
    one, two = (Refined(tmp_path / name, [record(n) for n in range(60)], held_out_share=0.3) for name in "ab")
    held_out, qualified = one.lines("held_out"), one.lines("qualified")
    assert held_out == two.lines("held_out")
    assert 5 < len(held_out) < 35 and len(held_out) + len(qualified) == 60
    assert one.metrics["qualified"] == len(qualified) and one.metrics["held_out"] == len(held_out)
    assert one.metrics["records"] == 60


def test_a_record_keeps_its_side_when_data_are_added(tmp_path: Path) -> None:
    few = Refined(tmp_path / "few", [record(n) for n in range(30)], held_out_share=0.3)
    many = Refined(tmp_path / "many", [record(n) for n in range(60)], held_out_share=0.3)
    held_out = {line["id"] for line in many.lines("held_out")}
    assert {line["id"] for line in few.lines("held_out")} == {f"r-{n}" for n in range(30) if f"r-{n}" in held_out}


def test_records_that_ask_the_same_stand_on_the_same_side(tmp_path: Path) -> None:
    """Else a model would be asked what it was taught, with one more tool in the list."""
    pairs = [
        line
        for n in range(30)
        for line in (record(n), record(n, id=f"again-{n}", tools=[TOOL], answers=record(n)["answers"]))
    ]
    refined = Refined(tmp_path / "r", pairs, held_out_share=0.4)
    sides = [{line["messages"][0]["content"] for line in refined.lines(name)} for name in ("held_out", "qualified")]
    assert sides[0] and not sides[0] & sides[1]


def test_one_record_at_least_is_left_to_train_on(tmp_path: Path) -> None:
    for n in range(12):
        assert len(Refined(tmp_path / str(n), [record(n)], held_out_share=0.5).lines("qualified")) == 1
