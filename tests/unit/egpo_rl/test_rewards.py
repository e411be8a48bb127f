"""What each reward gives to each kind of turn, and why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.egpo_rl.rewards import REWARDS, binary, format_bonus, graded
from components.function_calls.prompt import build_prompt, render_turn
from components.function_calls.record import Call, Message, Record, Tool

TOOLS = tuple(
    Tool(
        name,
        "",
        {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
        },
    )
    for name in ("get-weather", "get_time")
)


def record(*answers: Call) -> Record:
    return Record("r", "test", (Message("user", "?"),), TOOLS, answers)


ONE = record(Call("get-weather", {"city": "Rome", "days": 2}))
TWO = record(Call("get-weather", {"city": "Rome"}), Call("get_time", {"city": "Oslo"}))
NONE = record()
NAMES = build_prompt(ONE.messages, TOOLS).names


@pytest.mark.parametrize(
    ("text", "of", "reward", "reason"),
    [
        ('<think>x</think>\n[get_weather(city="Rome", days=2)]', ONE, 1, ""),
        ('<think>x</think>\n[get_time(city="Oslo"), get_weather(city="Rome")]', TWO, 1, ""),
        ("<think>x</think>\nNo function can do that.", NONE, 1, ""),
        ('<think>x</think>\n[get_weather(city="Rome", days=3)]', ONE, 0, "wrong_value"),
        ('<think>x</think>\n[get_weather(city="Rome")]', TWO, 0, "wrong_count"),
        ('<think>x</think>\n[get_time(city="Rome", days=2)]', ONE, 0, "wrong_name"),
        ("<think>x</think>\nNo function can do that.", ONE, 0, "not_a_list"),
        ('<think>x</think>\n[get_weather(city="Rome")]', NONE, 0, "called"),
        ('<think>x</think>\n[get_weather(city="Rome"]', NONE, 0, "syntax"),
        ('<think>x</think>\nget_weather(city="Rome")', NONE, 0, "no_brackets"),
        ('<think>x</think>\n```[get_weather(city="Rome")]```', NONE, 0, "no_brackets"),
        ('<think>x</think>\n[ # as you wish\nget_weather(city="Rome", days=2)] # done', ONE, 0, "comment"),
        ('<think>x</think>\n{"name": "get_weather", "arguments": {"city": "Rome"}}', NONE, 0, "json_call"),
        ('<think>x</think>\n<tool_call>{"name": "f"}</tool_call>', NONE, 0, "call_markup"),
        ('<think>x</think>\nSure:\n- get_weather(city="Rome")', NONE, 0, "call_in_text"),
        ("<think>x</think>\nNo: get_weather(city) does not book trains.", NONE, 1, ""),
        ("<think>x</think>\n[Note] No function can do that.", NONE, 1, ""),
        ("<think>x</think>\n[]", NONE, 0, "empty_list"),
        ("No function can do that.", NONE, 0, "no_thought"),
        ('[get_weather(city="Rome", days=2)]', ONE, 0, "no_thought"),
        ('<think>x\n[get_weather(city="Rome", days=2)]', ONE, 0, "thought_not_closed"),
    ],
)
def test_binary(text, of, reward, reason):
    given = binary(text, True, of, NAMES)
    assert (given.value, given.solved, given.reason) == (reward, reason == "", reason)


def test_a_cut_completion_earns_nothing_even_where_it_would_be_right():
    text = "<think>x</think>\nNo function can do"
    for name, reward in REWARDS.items():
        given = reward(text, False, NONE, NAMES)
        assert (given.value, given.solved, given.reason) == (0, False, "truncated"), name


def test_the_gold_turn_is_right_for_every_record(make_records):
    for of in make_records(20):
        names = build_prompt(of.messages, of.tools).names
        turn = render_turn(of.cot, of.answers, of.response, names)
        for name, reward in REWARDS.items():
            given = reward(turn.text, True, of, names)
            assert given.solved and given.value == (1.5 if name == "format_bonus" else 1), (of.id, name, given)


def test_format_bonus_is_given_for_the_frame_alone():
    assert format_bonus("<think>x</think>\n[nonsense", True, ONE, NAMES).value == 0.5
    assert format_bonus("[get_weather()]", True, ONE, NAMES).value == 0


@pytest.mark.parametrize(
    ("answer", "of", "reward"),
    [
        ('[get_weather(city="Rome", days=2)]', ONE, 1.0),
        ('[get_weather(city="Rome", days=3)]', ONE, (1 + 1 + 0.5) / 3),
        ('[get_weather(city="Rome")]', ONE, (1 + 0.5 + 0.5) / 3),
        ('[get_time(city="Rome", days=2)]', ONE, 0.0),
        ('[get_time(city="Oslo")]', TWO, 0.5),
        ('[get_time(city="Oslo"), get_time(city="Oslo")]', TWO, 0.5),
        ("No.", ONE, 0.0),
        ('[get_time(city="Oslo")]', NONE, 0.0),
    ],
)
def test_graded(answer, of, reward):
    assert graded(f"<think>x</think>\n{answer}", True, of, NAMES).value == pytest.approx(reward)


@given(st.text(alphabet='<think>/[]()=,"\\ \nfgetcityRomdays12', max_size=80), st.sampled_from([ONE, TWO, NONE]))
@settings(max_examples=200)
def test_no_text_breaks_a_reward(text, of):
    for reward in REWARDS.values():
        given = reward(text, True, of, NAMES)
        assert 0 <= given.value <= 1.5
        assert given.solved == (given.reason == "")
