"""Every layout that record files come in, as lines like those of the real files; and the parts they share."""

from __future__ import annotations

import io
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from components.function_calls.formats.layouts import LAYOUTS, layout_of
from components.function_calls.formats.lines import FormatError
from components.function_calls.formats.reader import Rejected, read_records
from components.function_calls.record import Call, Message, Record
from components.settings import DataRefineSettings

CASES = Path(__file__).resolve().parents[3] / "../shared/cases"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather_at", "description": "Weather of a city.", "parameters": CITY}
WRAPPED = {"type": "function", "function": WEATHER}
LYON, OSLO = Call("weather_at", {"city": "Lyon"}), Call("weather_at", {"city": "Oslo"})


def read(*values: Any, data_format: str = "auto") -> list[Record]:
    """The records of some lines, none of them rejected."""
    items = read_all(*values, data_format=data_format)
    assert not [item for item in items if isinstance(item, Rejected)]
    return [item for item in items if isinstance(item, Record)]


def read_all(*values: Any, data_format: str = "auto") -> list[Record | Rejected]:
    data = "\n".join(value if isinstance(value, str) else json.dumps(value) for value in values)
    return list(read_records(io.BytesIO(data.encode()), "data", data_format))


def rejected(value: Any) -> tuple[str, str]:
    (item,) = read_all(value)
    assert isinstance(item, Rejected)
    return item.reason, item.detail


def test_the_setting_names_every_layout() -> None:
    names = get_args(DataRefineSettings.model_fields["data_format"].annotation)
    assert set(names) == {"auto", *LAYOUTS}


def openai_call(name: str, arguments: Any, number: int = 1) -> dict[str, Any]:
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


OPENAI = {
    "messages": [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather in"}, {"type": "text", "text": "Lyon?"}]},
        {"role": "assistant", "content": None, "tool_calls": [openai_call("weather_at", '{"city": "Lyon"}')]},
        {"role": "tool", "tool_call_id": "call_1", "content": {"celsius": 3}},
        {"role": "assistant", "content": "It is 3 C."},
        {"role": "user", "content": "And in Oslo?"},
        {"role": "assistant", "content": "<think>Oslo now.</think>Let me see.", "tool_calls": [
            openai_call("weather_at", '{"city": "Oslo"}', 2)
        ]},
    ],
    "tools": [WRAPPED],
    "parallel_tool_calls": False,
}  # fmt: skip


def test_openai_messages_give_a_record_for_every_turn() -> None:
    first, second, third = read(OPENAI)
    assert [record.id for record in (first, second, third)] == ["openai-1/1", "openai-1/2", "openai-1/3"]
    assert {record.source for record in (first, second, third)} == {"openai"}
    assert first.messages == (Message("system", "Be brief."), Message("user", "Weather in\nLyon?"))
    assert (first.answers, first.response) == ((LYON,), None)
    assert second.messages[2:] == (Message("assistant", "", (LYON,)), Message("tool", '{"celsius": 3}'))
    assert (second.answers, second.response) == ((), "It is 3 C.")
    assert (third.answers, third.response, third.cot) == ((OSLO,), "Let me see.", "Oslo now.")
    assert third.messages[-2:] == (Message("assistant", "It is 3 C."), Message("user", "And in Oslo?"))
    assert third.tools[0].parameters == CITY
    assert third.meta == {"parallel_tool_calls": False}


def test_older_names_of_openai_are_read() -> None:
    value = {
        "messages": [
            {"role": "user", "content": "Weather in Lyon?"},
            {"role": "assistant", "function_call": {"name": "weather_at", "arguments": '{"city": "Lyon"}'}},
            {"role": "function", "name": "weather_at", "content": "3 C"},
            {"role": "assistant", "content": "3 C", "weight": 0},
            {"role": "user", "content": "Weather in Oslo?"},
            {"role": "assistant", "content": "I cannot.", "weight": 1},
        ],
        "functions": [WEATHER],
    }  # fmt: skip
    first, second = read(value)
    assert (first.answers, second.answers, second.response) == ((LYON,), (), "I cannot.")
    assert [message.role for message in second.messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert first.tools[0].name == "weather_at"


def test_what_the_assistant_says_first_is_history_only() -> None:
    value = {
        "messages": [
            {"role": "assistant", "content": "Hello! How can I help?"},
            {"role": "user", "content": "Weather in Lyon?"},
            {"role": "assistant", "content": "Let me see."},
            {"role": "assistant", "content": "", "tool_calls": [{"name": "weather_at", "arguments": {"city": "Lyon"}}]},
        ],
        "tools": None,
    }
    (record,) = read(value)
    assert [message.role for message in record.messages] == ["assistant", "user"]
    assert (record.id, record.answers, record.response) == ("openai-1", (LYON,), "Let me see.")


HERMES_SYSTEM = (
    "You are a function calling AI model. You are provided with function signatures within <tools> </tools> XML tags. "
    f"<tools>\n{json.dumps(WRAPPED)}\n{json.dumps({**WEATHER, 'name': 'wind_at'})}\n</tools>For each call return "
    "<tool_call>\n{'arguments': <args-dict>, 'name': <function-name>}\n</tool_call>"
)
SHAREGPT = {
    "Hermes": {
        "id": "a7f",
        "conversations": [
            {"from": "system", "value": HERMES_SYSTEM},
            {"from": "human", "value": "Weather in Lyon and Oslo?"},
            {
                "from": "gpt",
                "value": "<tool_call>\n{'arguments': {'city': 'Lyon'}, 'name': 'weather_at'}\n</tool_call>\n"
                '<tool_call>\n{"name": "weather_at", "arguments": {"city": "Oslo"}}\n</tool_call>',
            },
            {"from": "tool", "value": "<tool_response>\n3 C, 1 C\n</tool_response>"},
            {"from": "gpt", "value": "3 and 1 degrees."},
        ],
    },
    "LLaMA-Factory": {
        "id": "a7f",
        "conversations": [
            {"from": "human", "value": "Weather in Lyon and Oslo?"},
            {"from": "function_call", "value": '{"name": "weather_at", "arguments": {"city": "Lyon"}}'},
            {"from": "function_call", "value": '{"name": "weather_at", "arguments": {"city": "Oslo"}}'},
            {"from": "observation", "value": "3 C, 1 C"},
            {"from": "gpt", "value": "3 and 1 degrees."},
        ],
        "tools": json.dumps([WEATHER, {**WEATHER, "name": "wind_at"}]),
    },
}


@pytest.mark.parametrize("value", SHAREGPT.values(), ids=SHAREGPT.keys())
def test_sharegpt_conversations(value: dict[str, Any]) -> None:
    assert layout_of(value) == "sharegpt"
    first, second = read(value)
    assert (first.id, second.id, first.source) == ("a7f/1", "a7f/2", "sharegpt")
    assert [tool.name for tool in first.tools] == ["weather_at", "wind_at"]
    assert first.messages == (Message("user", "Weather in Lyon and Oslo?"),)
    assert (first.answers, first.response) == ((LYON, OSLO), None)
    assert second.messages[1:] == (Message("assistant", "", (LYON, OSLO)), Message("tool", "3 C, 1 C"))
    assert (second.answers, second.response) == ((), "3 and 1 degrees.")


GLAIVE = {
    "system": "SYSTEM: You are a helpful assistant with access to the following functions. Use them if required -\n"
    f"{json.dumps(WEATHER, indent=4)}\n\n{json.dumps({**WEATHER, 'name': 'wind_at'}, indent=4)}\n",
    "chat": "USER: Can you tell me the weather in Lyon?\n\n\n"
    'ASSISTANT: <functioncall> {"name": "weather_at", "arguments": \'{"city": "Lyon"}\'} <|endoftext|>\n\n\n'
    'FUNCTION RESPONSE: {"celsius": 3}\n\n\nASSISTANT: It is 3 C. <|endoftext|>\n\n\n'
    "USER: Order me a pizza.\n\n\nASSISTANT: I'm sorry, I cannot. <|endoftext|>\n\n\n",
}


def test_glaive_dialogues() -> None:
    first, second, third = read(GLAIVE)
    assert [tool.name for tool in first.tools] == ["weather_at", "wind_at"]
    assert first.messages == (Message("user", "Can you tell me the weather in Lyon?"),)
    assert first.answers == (LYON,)
    assert (second.answers, second.response, second.messages[-1]) == (
        (), "It is 3 C.", Message("tool", '{"celsius": 3}'),
    )  # fmt: skip
    assert (third.id, third.answers, third.response) == ("glaive-1/3", (), "I'm sorry, I cannot.")


def test_toolace_conversations() -> None:
    tools = [{**WEATHER, "name": "Weather API v2.0"}, {**WEATHER, "name": "Weather API"}, {**WEATHER, "required": None}]
    value = {
        "system": "You are an expert in composing functions. Here is a list of functions in JSON format that you can "
        f"invoke:\n{json.dumps(tools)}. \nShould you decide to return the function call(s), use [func1(params=value)].",
        "conversations": [
            {"from": "user", "value": "Weather in Lyon, and in Weather API(Oslo)?"},
            {
                "from": "assistant",
                "value": '[Weather API(city="Lyon"), Weather API v2.0(city=\'Weather API(Oslo)\'), weather_at(city="x")]',  # noqa: E501  # one turn
            },
            {"from": "tool", "value": "[]"},
            {"from": "assistant", "value": "No answer."},
        ],
    }
    first, second = read(value)
    assert first.answers == (
        Call("Weather API", {"city": "Lyon"}),
        Call("Weather API v2.0", {"city": "Weather API(Oslo)"}),
        Call("weather_at", {"city": "x"}),
    )
    assert (second.answers, second.response) == ((), "No answer.")
    value["conversations"][1]["value"] = "[Weather API(city=Lyon)]"  # type: ignore[index]  # of the case above
    assert rejected(value) == ("structure", "conversations.1: starts as calls do and is none (not_a_literal)")


def test_records_of_several_layouts_may_stand_in_one_file() -> None:
    records = read(OPENAI, GLAIVE, SHAREGPT["Hermes"])
    assert {record.source for record in records} == {"openai", "glaive", "sharegpt"}


def own(**changes: Any) -> dict[str, Any]:
    return {
        "id": "a",
        "source": "b",
        "messages": [{"role": "user", "content": "Weather in Lyon?"}],
        "tools": [WEATHER],
        "answers": [{"name": "weather_at", "arguments": {"city": "Lyon"}}],
        **changes,
    }


SAME = {
    "arguments as text": own(answers=[{"name": "weather_at", "arguments": '{"city": "Lyon"}'}]),
    "answers as text": own(answers='[{"name": "weather_at", "arguments": {"city": "Lyon"}}]'),
    "OpenAI's calls": own(answers=[openai_call("weather_at", '{"city": "Lyon"}')]),
    "OpenAI's tools": own(tools=[WRAPPED]),
    "tools as text": own(tools=json.dumps([WRAPPED])),
    "messages as text": own(messages='[{"role": "human", "content": "Weather in Lyon?"}]'),
    "nulls": own(cot=None, response=None, meta=None, license=None),
    "null arguments": own(answers=[{"name": "weather_at", "arguments": {"city": "Lyon", "stop": None}}]),
}


@pytest.mark.parametrize("value", SAME.values(), ids=SAME.keys())
def test_ways_to_write_the_same_record(value: dict[str, Any]) -> None:
    assert read(value) == read(own())


def test_ids_and_sources_that_are_missing() -> None:
    records = read(own(id=7), own(id=7.0), own(id=None, source=None), {k: v for k, v in own().items() if k != "id"})
    assert [record.id for record in records] == ["7", "7", "callforge-3", "callforge-4"]
    assert [record.source for record in records] == ["b", "b", "callforge", "b"]


def test_no_answers_are_null_and_never_missing() -> None:
    (record,) = read(own(answers=None))
    assert record.answers == ()
    (item,) = read_all({k: v for k, v in own().items() if k != "answers"}, data_format="callforge")
    assert isinstance(item, Rejected)
    assert item.detail == "answers: is missing"


def test_a_dialogue_may_be_a_text() -> None:
    assert read(OPENAI | {"messages": json.dumps(OPENAI["messages"])}) == read(OPENAI)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_field_that_the_named_layout_has_and_a_record_lacks_is_named(layout: str) -> None:
    (item,) = read_all({"id": "a"}, data_format=layout)
    assert isinstance(item, Rejected)
    assert (item.reason, item.detail) == ("structure", f"{LAYOUTS[layout].fields[0]}: is missing")


BROKEN = {
    "a picture": (own(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "image_url; only text"),
    "content a number": (own(messages=[{"role": "user", "content": 5}]), "messages.0.content: text is expected"),
    "a role": (own(messages=[{"role": "robot", "content": ""}]), "messages.0.role: 'robot' is unknown"),
    "calls no list": (own(answers={"name": "f"}), "answers: a list is expected"),
    "a call without a name": (own(answers=[{"arguments": {}}]), "answers.0: an object with a name"),
    "arguments a list": (own(answers=[{"name": "f", "arguments": []}]), "answers.0.arguments: an object"),
    "messages as a text that is no list": ({"messages": '{"role": "user"}'}, "messages: a list is expected"),
    "nobody answers": ({"messages": own()["messages"], "tools": []}, "no turn of an assistant"),
    "an id": (own(id=True), "id: Input should be a valid string"),
    "meta": (own(meta=[1]), "meta: an object is expected"),
    "conversations": ({"conversations": "Hi"}, "conversations: a list of objects"),
    "a glaive chat": ({"system": "", "chat": []}, "system and chat: texts are expected"),
    "a query": ({"query": 5, "answers": "[]", "tools": "[]"}, "query: text is expected"),
}


@pytest.mark.parametrize(("value", "detail"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_no_record_is_rejected_with_its_place(value: dict[str, Any], detail: str) -> None:
    reason, text = rejected(value)
    assert reason == "structure"
    assert detail in text


@pytest.mark.parametrize(
    "text",
    ["{'name': 'f', 'arguments': __import__('os')}", "{'name': 'f'", "f()", "{'name': '\\ud800', 'arguments': {}}"],
)
def test_a_call_in_a_text_is_never_evaluated(text: str) -> None:
    value = {"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": text}]}
    assert rejected(value)[0] in ("not_json", "encoding")


READ = {"glaive.jsonl": "weather_at", "hermes.jsonl": "weather_at", "toolace.jsonl": "Weather API"}


@pytest.mark.skipif(not CASES.exists(), reason="the inputs of ../shared/cases are not here")
@pytest.mark.parametrize(("file", "tool"), READ.items(), ids=READ.keys())
def test_other_layouts_of_the_reports(file: str, tool: str) -> None:
    (record,) = read((CASES / file).read_text("utf-8"))
    assert record.answers == (Call(tool, {"city": "Lyon"}),)
    assert [offered.name for offered in record.tools] == [tool]
    assert record.messages == (Message("user", "Weather in Lyon?"),)


SAMPLES = [
    own(),
    OPENAI,
    {"query": "Weather in Lyon?", "answers": json.dumps(own()["answers"]), "tools": json.dumps([WEATHER])},
    {
        "conversations": [
            {"from": "system", "value": f"<tools>{json.dumps(WRAPPED)}</tools>"},
            {"from": "human", "value": "Weather in Lyon?"},
            {"from": "gpt", "value": '<tool_call>{"name": "weather_at", "arguments": {"city": "Lyon"}}</tool_call>'},
        ]
    },
    {
        "system": json.dumps([WEATHER]),
        "conversations": [
            {"from": "user", "value": "Weather in Lyon?"},
            {"from": "assistant", "value": '[weather_at(city="Lyon")]'},
        ],
    },
    {
        "system": f"SYSTEM: functions -\n{json.dumps(WEATHER)}",
        "chat": 'USER: Lyon?\n\nASSISTANT: <functioncall> {"name": "weather_at", "arguments": \'{"city": "Lyon"}\'}',
    },
]
ODD = [None, True, -1, 2.0, 1e300, "", "[]", "{}", "null", [], {}, [None], [[]], {"$ref": "#"}, {"name": "f"}]
CHANGES = (
    lambda value, odd: odd,
    lambda value, odd: json.dumps(value),
    lambda value, odd: [value],
    lambda value, odd: list(value.values()) if isinstance(value, dict) else {"function": value},
)


def damaged(value: Any, draw: Any) -> Any:
    """`value` with some part of it left out or replaced, as exports and converters do."""
    if isinstance(value, dict | list) and value and draw(st.integers(0, 9)):
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        key = draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
        if draw(st.integers(0, 9)):
            copy[key] = damaged(copy[key], draw)
        else:
            del copy[key]
        return copy
    return draw(st.sampled_from(CHANGES))(value, draw(st.sampled_from(ODD)))


@settings(max_examples=200)
@given(data=st.data(), layout=st.sampled_from(["auto", *LAYOUTS]))
def test_any_record_is_read_or_rejected_by_any_layout(data: st.DataObject, layout: str) -> None:
    value = data.draw(st.sampled_from(SAMPLES))
    for _ in range(data.draw(st.integers(0, 3))):
        value = damaged(value, data.draw)
    assume(isinstance(value, dict))
    with suppress(FormatError):  # no record of a file has a known layout
        assert read_all(value, data_format=layout)
