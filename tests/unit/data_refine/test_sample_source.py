"""The built-in source: varied, unique, repeatable, grounded, and nothing of it from the benchmark."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from components.data_refine.overlap import bfcl_data_folder, bfcl_index
from components.data_refine.sample_source import SOURCES, TEMPLATES, sample_records
from components.function_calls.parse import parse_turn
from components.function_calls.prompt import ToolNames, render_turn
from components.function_calls.record import CATEGORIES, Record, record_to_json
from components.function_calls.tool_schema import normalise_tool
from components.settings import BUILT_IN_DATA


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return list(sample_records(5000, seed=3))


def question(record: Record) -> str:
    return record.messages[0].content


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_the_categories_have_their_shares(name: str) -> None:
    counts = Counter(record.category for record in sample_records(3000, seed=3, name=name))
    for category in CATEGORIES:
        assert counts[category] / 3000 == pytest.approx(SOURCES[name].shares.get(category, 0.0), abs=0.03)


def test_the_sources_are_those_that_the_settings_name() -> None:
    assert tuple(SOURCES) == BUILT_IN_DATA
    assert {record.source for name in SOURCES for record in sample_records(5, 0, name)} == set(SOURCES)


def test_a_home_has_its_own_tools_only() -> None:
    home = {template.name for template in SOURCES["sample/home"].templates}
    records = sample_records(300, seed=3, name="sample/home")
    assert {_snake(tool.name) for record in records for tool in record.tools} == home


def _snake(name: str) -> str:
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name.split(".")[-1])


def test_no_question_comes_twice_with_the_same_tools(records: list[Record]) -> None:
    assert len({(question(record), tuple(sorted(tool.name for tool in record.tools))) for record in records}) == 5000
    assert len({question(record) for record in records}) > 4900
    assert len({record.id for record in records}) == 5000


def test_a_longer_sample_starts_with_the_shorter_and_seeds_differ(records: list[Record]) -> None:
    assert list(sample_records(50, seed=3)) == records[:50]
    assert list(sample_records(50, seed=4)) != records[:50]


def test_another_process_makes_the_same_records(records: list[Record]) -> None:
    program = (
        "import json; from components.function_calls.record import record_to_json as j;"
        "from components.data_refine.sample_source import sample_records as s;"
        "print(json.dumps([j(r) for r in s(50, 3)]))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [record_to_json(record) for record in records[:50]]


def test_there_are_many_tools_and_every_kind_of_argument(records: list[Record]) -> None:
    assert len(TEMPLATES) >= 40
    assert len({template.domain for template in TEMPLATES}) >= 12
    assert len({template.name for template in TEMPLATES}) == len(TEMPLATES)
    kinds = Counter(type(value).__name__ for record in records for value in values_of(record))
    assert all(kinds[kind] > 200 for kind in ("str", "int", "float", "bool", "list", "dict")), kinds
    schemas = [slot for record in records for tool in record.tools for slot in tool.parameters["properties"].values()]
    assert any("enum" in schema for schema in schemas)
    assert any("default" in schema for schema in schemas)


def values_of(record: Record) -> Iterator[Any]:
    for call in record.answers:
        yield from call.arguments.values()


def test_optional_arguments_are_sometimes_left_out(records: list[Record]) -> None:
    given: Counter[bool] = Counter()
    for record in records:
        tools = {tool.name: tool for tool in record.tools}
        for call in record.answers:
            schema = tools[call.name].parameters
            given.update(name in call.arguments for name in schema["properties"] if name not in schema["required"])
    assert 0.25 < given[True] / given.total() < 0.75


def test_tools_are_in_the_form_that_readers_give_them(records: list[Record]) -> None:
    for record in records[:500]:
        for tool in record.tools:
            raw = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
            assert normalise_tool(raw) == tool


def test_the_turn_reads_back_and_the_thought_is_short(records: list[Record]) -> None:
    lengths = []
    for record in records[:1000]:
        names = ToolNames(record.tools)
        turn = parse_turn(render_turn(record.cot, record.answers, record.response, names).text, names)
        assert turn.format_ok
        assert turn.calls == (record.answers or None)
        assert turn.thought == record.cot
        lengths.append(len(record.cot.split()))
    assert 12 <= sorted(lengths)[500] <= 30
    assert max(lengths) <= 80


def test_the_thought_says_every_value_it_answers_with(records: list[Record]) -> None:
    for record in records[:1000]:
        for call in record.answers:
            assert call.name in record.cot
            for name, value in call.arguments.items():
                said = json.dumps(value, ensure_ascii=False).replace("true", "True").replace("false", "False")
                assert f"{name} is {said}" in record.cot


def test_the_question_of_a_no_call_record_lacks_a_tool_or_a_value(records: list[Record]) -> None:
    refused = [record for record in records if not record.answers]
    missing = [record for record in refused if "required and not given" in record.cot]
    assert 0.1 < len(missing) / len(refused) < 0.4
    assert all(record.response for record in refused)
    by_name = {template.name.replace("_", ""): template for template in TEMPLATES}
    for record in refused:
        if record in missing:
            continue
        aims = [by_name[tool.name.split(".")[-1].replace("_", "").lower()].aim for tool in record.tools]
        assert not any(f"The user wants {aim}." in record.cot for aim in aims)


def test_nothing_is_from_the_benchmark(records: list[Record]) -> None:
    folder = bfcl_data_folder()
    index = bfcl_index()
    assert max(index.nearest([question(record)])[0] for record in records) <= 0.3
    # every "name" of the benchmark's files: its tools, and a few other things
    names = {
        name for path in folder.rglob("*.json") for name in re.findall(r'"name": *"([^"]+)"', path.read_text("utf-8"))
    }
    assert len(names) > 1800
    # whatever the spelling
    plain = {name.split(".")[-1].replace("_", "").lower() for name in names}
    assert not names & {tool.name for record in records for tool in record.tools}
    assert not plain & {template.name.replace("_", "") for template in TEMPLATES}


def test_a_value_that_stands_in_the_question_is_asked_for_in_many_ways(records: list[Record]) -> None:
    starts = Counter(question(record).split()[0] for record in islice(records, 2000))
    assert len(starts) > 80
    assert starts.most_common(1)[0][1] < 300
