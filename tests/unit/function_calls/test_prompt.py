"""The prompt's shape, and names that come back from it."""

from __future__ import annotations

import ast
import json
from itertools import groupby, islice, product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.function_calls.prompt import NO_CALL_RESPONSE, ToolNames, build_prompt, render_calls, render_turn
from components.function_calls.record import Call, Message, Tool
from tests.unit.function_calls.function_call_strategies import argument_names, tool_names, tool_of

WEATHER = tool_of("get_weather", ["city"], {"type": "string"})


def listed_tools(system: str) -> list[dict[str, Any]]:
    return json.loads(next(line for line in system.splitlines() if line.startswith("[{") or line == "[]"))


def test_the_system_message_lists_the_tools_as_calls_name_them() -> None:
    tool = Tool(
        "Get-User",
        'Finds {tools} and says "hi".',
        {"type": "object", "properties": {"from": {"type": "string"}, "id": {}}, "required": ["from"]},
    )
    prompt = build_prompt([Message("user", "Who?")], [tool, WEATHER])
    first, _ = listed_tools(prompt.messages[0]["content"])
    assert first == {
        "name": "Get_User",
        "description": 'Finds {tools} and says "hi".',
        "parameters": {"type": "object", "properties": {"from_": {"type": "string"}, "id": {}}, "required": ["from_"]},
    }
    assert render_calls([Call("Get-User", {"from": 1, "id": 2})], prompt.names) == "[Get_User(from_=1, id=2)]"


def test_the_prompt_says_what_the_turn_must_be() -> None:
    system = build_prompt([Message("user", "Hi")], []).messages[0]
    assert system["role"] == "system"
    assert system["content"].count("MUST") == 3
    assert "<think>" in system["content"] and "</think>" in system["content"]
    assert listed_tools(system["content"]) == []
    assert len(system["content"]) < 800, "every character is paid for in every prompt"


def test_a_dialogue_becomes_alternating_user_and_assistant_turns() -> None:
    prompt = build_prompt(
        [
            Message("system", "Be brief."),
            Message("user", "Rome?"),
            Message("user", "And Oslo?"),
            Message(
                "assistant", "I look.", (Call("get_weather", {"city": "Rome"}), Call("get_weather", {"city": "Oslo"}))
            ),
            Message("tool", "sunny"),
            Message("tool", "rain"),
            Message("assistant", "Sun, rain."),
            Message("system", "It is late."),
            Message("user", "Thanks"),
        ],
        [WEATHER],
    )
    assert prompt.messages[0]["content"].endswith("\n\nBe brief.")
    assert prompt.messages[1:] == [
        {"role": "user", "content": "Rome?\nAnd Oslo?"},
        {"role": "assistant", "content": 'I look.\n[get_weather(city="Rome"), get_weather(city="Oslo")]'},
        {"role": "user", "content": "Function result: sunny\nFunction result: rain"},
        {"role": "assistant", "content": "Sun, rain."},
        {"role": "user", "content": "It is late.\nThanks"},
    ]


def test_the_same_record_gives_the_same_prompt() -> None:
    messages, tools = [Message("user", "Hi")], [WEATHER, tool_of("a b", ["c d", "c_d"])]
    assert build_prompt(messages, tools).messages == build_prompt(messages, tools).messages


@given(st.lists(tool_names, min_size=1, max_size=6, unique=True), st.lists(argument_names, max_size=6, unique=True))
def test_every_name_can_be_called_and_comes_back(names_of_tools: list[str], arguments: list[str]) -> None:
    names = ToolNames([tool_of(name, arguments) for name in names_of_tools])
    shown = [names.shown(name) for name in names_of_tools]
    assert len(set(shown)) == len(shown)
    assert [names.original(name) for name in shown] == names_of_tools
    for name in names_of_tools:
        spelt = [names.shown_argument(name, argument) for argument in arguments]
        assert [names.original_argument(name, argument) for argument in spelt] == arguments
        ast.parse(f"{names.shown(name)}({', '.join(f'{argument}=1' for argument in spelt)})")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("math.sqrt", "math.sqrt"), ("products/list", "products_list"), ("1st", "_1st"), ("class", "class_"),
     ("a.class", "a.class_"), ("a..b", "a._.b"), ("ﬁnd", "find"), ("été", "été"), ("", "_"), ("☃", "_")],
)  # fmt: skip
def test_how_names_are_spelt(name: str, shown: str) -> None:
    assert ToolNames([tool_of(name, [])]).shown(name) == shown


def test_a_name_that_is_fine_keeps_it_before_one_that_is_not() -> None:
    names = ToolNames([tool_of("a b", []), tool_of("a-b", []), tool_of("a_b", [])])
    assert [names.shown(name) for name in ("a b", "a-b", "a_b")] == ["a_b_2", "a_b_3", "a_b"]


def test_thousands_of_names_spelt_alike_are_numbered() -> None:
    alike = ["".join(marks) for marks in islice(product("-/ !?+", repeat=7), 60_000)]
    tools = ToolNames([tool_of("t", alike)])
    assert len({tools.shown_argument("t", name) for name in alike}) == len(alike)
    assert tools.shown_argument("t", alike[2]) == f"{tools.shown_argument('t', alike[0])}_3"


@pytest.mark.parametrize(
    "name",
    [
        "math.sqrt",
        "math_sqrt",
        "Get-User Info",
        "get_user_info",
        "functions.Get_User_Info",
        "api.math.sqrt",
        "MATH.SQRT",
    ],
)
def test_an_offered_tool_is_known_however_it_is_spelt(name: str) -> None:
    assert ToolNames([tool_of("math.sqrt", []), tool_of("Get-User Info", [])]).offers(name)


@pytest.mark.parametrize("name", ["sqrt", "math", "get", "I could use math.sqrt", "", "."])
def test_another_name_is_not_offered(name: str) -> None:
    assert not ToolNames([tool_of("math.sqrt", []), tool_of("Get-User Info", [])]).offers(name)


# Private-use letters, marks that templates or scanners use, and what looks like our own text.
ODD = st.sampled_from(
    ["\ue000" + "1\ue001", "{tools}", "# Functions", "<think>", "\u2028", "\x85", "%s", "{}", "\n", "\\"]
)
contents = st.lists(ODD | st.text(max_size=8), min_size=1, max_size=4).map("".join)


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), contents), max_size=5),
    contents,
    st.lists(st.tuples(tool_names, contents, argument_names), max_size=4, unique_by=lambda tool: tool[0]),
)
def test_question_and_tools_stand_in_the_prompt_once(
    history: list[tuple[Any, str]], question: str, drawn: list[tuple[str, str, str]]
) -> None:
    messages = [Message(role, f"said {i}: {text}") for i, (role, text) in enumerate([*history, ("user", question)])]
    tools = [
        Tool(name, f"tool {i}: {text}", {"type": "object", "properties": {argument: {"description": text}}})
        for i, (name, text, argument) in enumerate(drawn)
    ]
    prompt = build_prompt(messages, tools).messages
    roles = [message["role"] for message in prompt]
    assert roles == [role for role, _ in groupby(roles)]
    whole = "\0".join(message["content"] for message in prompt)
    assert [whole.count(message.content) for message in messages] == [1] * len(messages)
    assert whole.endswith(messages[-1].content)
    start = prompt[0]["content"].index("# Functions\n") + len("# Functions\n")
    shown = json.JSONDecoder().raw_decode(prompt[0]["content"], start)[0]
    names = ToolNames(tools)
    assert [(tool["name"], tool["description"]) for tool in shown] == [
        (names.shown(tool.name), tool.description) for tool in tools
    ]
    assert all(whole.count(f"tool {i}: ") == 1 for i in range(len(tools)))


def test_tags_that_hold_each_other_are_taken_out() -> None:
    assert (
        render_turn("a" + "<thi" * 50_000 + "<think>" + "nk>" * 50_000 + "b</think>", (), None, ToolNames([])).thought
        == "ab"
    )


def test_a_turn_without_calls_is_the_response() -> None:
    names = ToolNames([])
    assert render_turn(None, (), " I <think>cannot. ", names).text == "<think></think>\nI cannot."
    assert render_turn("Hm.", (), None, names).text == f"<think>Hm.</think>\n{NO_CALL_RESPONSE}"
