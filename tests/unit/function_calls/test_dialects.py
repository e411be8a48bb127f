"""What reads as a call where no call is right, and what stays text: a table of both, and real answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.function_calls.dialects import foreign_form
from components.function_calls.parse import MAX_DEPTH, parse_turn
from components.function_calls.prompt import NO_CALL_RESPONSE, ToolNames
from tests.unit.function_calls.function_call_strategies import tool_of

NAMES = ToolNames(
    [
        tool_of("get_weather", ["city", "days"]),
        tool_of("math.sqrt", ["x"]),
        tool_of("Get-User Info", ["id"]),
        tool_of("search", ["query"]),
        tool_of("get_time", []),
    ]
)


def reading(answer: str, names: ToolNames | None = NAMES) -> str:
    return parse_turn(f"<think>so</think>\n{answer}", names).reason


CALL = 'get_weather(city="Rome")'
JSON = '{"name": "get_weather", "arguments": {"city": "Rome"}}'
UNKNOWN = '{"name": "book_train", "arguments": {"number": 1}}'

CALLS = [
    # code: alone, in fences and quotes, as statements, after prose
    CALL,
    f"`{CALL}`",
    f"```\n{CALL}\n```",
    f"```python\n{CALL}\n```",
    f"```py\nresult = {CALL}\nprint(result)\n```",
    f"~~~\n{CALL}\n~~~",
    f"{CALL}\nmath.sqrt(x=4)",
    f"{CALL}; math.sqrt(x=4)",
    f"{CALL}, math.sqrt(x=4)",
    f"{CALL} and get_time()",
    f"{CALL};",
    f"({CALL},)",
    f"({CALL})",
    f"x = {CALL}",
    f"x: str = {CALL}",
    f"await {CALL}",
    f"print({CALL})",
    f"return {CALL}",
    f"functions.{CALL}",
    f"default_api.{CALL}",
    f"{CALL}  # as asked",
    'get_weather(\n    city="Rome",  # don\'t ask\n)',
    "get_weather(city='Rome', days=[1, 2])",
    f"- {CALL}",
    f"* `{CALL}`",
    f"1. {CALL}",
    f"2) **{CALL}**",
    f"**{CALL}**",
    f"> {CALL}",
    f'"{CALL}"',
    f"a) {CALL}",
    f"Sure:\n{CALL}",
    f"Sure: {CALL}",
    f"Sure! {CALL}",
    f"Okay.\n\n1. {CALL}\n2. get_time()",
    f"→ {CALL}",
    f"Let me look.\n```\n{CALL}\n```\nDone.",
    f"Call 1: {CALL}.",
    f"Calling now: `{CALL}`.",
    "Sure:\nget_time()",
    'Sure:\nget_weather("Rome")',
    "Sure:\nget_weather(city=Rome)",
    'Sure:\nget_weather(city="Rome"',
    "Sure:\nGET_WEATHER(city='Rome')",
    "Sure:\nmath_sqrt(x=4)",
    "Sure:\nGet-User Info(id=1)",
    "Sure:\nGet_User_Info(id=1)",
    "get_weather (city='Rome')",
    # a list with prose around it, or of another kind
    f"Sure: [{CALL}]",
    f"[{CALL}] is what I would call.",
    f"I need [{CALL}, get_time()] for that.",
    f"<think>{CALL}",
    f"[{CALL}]\n[get_time()]",
    f"[{CALL}]; [get_time()]",
    f"['{CALL}']",
    "[]",
    "[get_weather]",
    f"[{CALL}",
    f"[{CALL}].",
    "[get_weather(city='Rome')",
    "[Get-User Info(id=1)]",
    "[f(a=1)] [g()]",
    f"```\n[{CALL}]\n```",
    f"{CALL}]",
    # whatever it names: calls and nothing else
    "book_train(number=1)",
    "Sure: [book_train(number=1)]",
    "None of them.\n\n[book_train(number=1), pay()]",
    "[Note] None of them.\n[book_train(number=1)]",
    "book_train(1)",
    "book_train()",
    "book()()",
    "book[0](n=1)",
    "(book(n=1), pay())",
    "book(n=1)\npay(n=2)",
    "book(n=1); pay(n=2)",
    "x = book(n=1)",
    "book(n=1, # one\n m=2)",
    "book(n=1)  # sure",
    "book(n=" + "[" * MAX_DEPTH + "]" * MAX_DEPTH + ")",
    "(" * MAX_DEPTH + "book()" + ")" * MAX_DEPTH,
    "book(n='" + "x" * 40_000 + "')",
    "book(n=" + "-" * 20_000 + "1)",
    # JSON
    JSON,
    f"[{JSON}]",
    f"```json\n{JSON}\n```",
    f"Sure. {JSON}",
    JSON.replace('"', "'"),
    JSON.replace('"', '\\"'),
    JSON[:-2],
    UNKNOWN,
    f"[{UNKNOWN}]",
    f"functools[{UNKNOWN}]",
    '{"name": "none"}',
    '[{"name": "get_time"}]',
    '{"name": "get_weather", "parameters": {"city": "Rome"}}',
    '{"tool": "get_weather", "tool_input": {"city": "Rome"}}',
    '{"tool_name": "get_weather", "parameters": {}}',
    '{"function": "get_weather", "city": "Rome"}',
    '{"action": "get_weather", "action_input": "Rome"}',
    '{"get_weather": {"city": "Rome"}}',
    '{"type": "function", "function": {"name": "f", "arguments": "{}"}}',
    '{"tool_calls": [{"id": 1}]}',
    'Action: ```json\n[{"tool_name": "f", "parameters": {}}]```',
    # tags and tokens
    f"<tool_call>{JSON}</tool_call>",
    "<tool_call>none</tool_call>",
    f"<tool_call>\n{CALL}\n</tool_call>",
    f"<tool_calls>[{JSON}]</tool_calls>",
    f"<functioncall> {JSON}",
    f"<function_call>{JSON}</function_call>",
    f"<TOOLCALL>[{CALL}]</TOOLCALL>",
    '<function=get_weather>{"city": "Rome"}</function>',
    "<tool_use><name>f</name></tool_use>",
    "<function=get_weather>\n<parameter=city>\nRome\n</parameter>\n</function>",
    '<function name="f"><param name="a">1</param></function>',
    '<invoke name="f"><parameter name="a">1</parameter></invoke>',
    "<function_calls>\nf(a=1)\n</function_calls>",
    "<minimax:tool_call></minimax:tool_call>",
    "<seed:tool_call>",
    "<longcat_tool_call>",
    '<\uff5cDSML\uff5cinvoke name="f">',
    f"[TOOL_CALLS] [{JSON}]",
    '[TOOL_CALLS]get_weather[ARGS]{"city": "Rome"}',
    f"<|python_tag|>{CALL}",
    "<|python_tag|>weather.call(a=1)",
    f"<|tool_call|>[{JSON}]<|/tool_call|>",
    f"<|tool_call_start|>[{CALL}]<|tool_call_end|>",
    "<|tool_call:begin|>f",
    '<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"city": "Rome"}',
    'functions.get_weather:0{"city": "Rome"}',
    "<\uff5ctool\u2581calls\u2581begin\uff5c><\uff5ctool\u2581call\u2581begin\uff5c>function<\uff5ctool\u2581sep\uff5c>f",
    "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n</tool_call>",
    "<arg_key>city</arg_key>",
    f"<|action_start|><|plugin|>{JSON}<|action_end|>",
    "<|START_ACTION|>[]<|END_ACTION|>",
    '<|channel|>commentary to=functions.get_weather <|message|>{"city": "Rome"}',
    f"<<function>>{CALL}",
    f"```tool_code\nprint({CALL})\n```",
    f"```tool_call\n{JSON}\n```",
    "<start_function_call>call:get_weather{city:<escape>Rome<escape>}",
    "<|tool_call>call:get_weather{city:1}<tool_call|>",
    "call:get_weather{city:Rome}",
    'get_weather\n{"city": "Rome"}',
    '>>>get_weather\n{"city": "Rome"}',
    '✿FUNCTION✿: get_weather\n✿ARGS✿: {"city": "Rome"}',
    "<|tools_prefix|>[]<|tools_suffix|>",
    "<get_weather><city>Rome</city></get_weather>",
    "<get_weather/>",
    '<get_weather city="Rome">',
    "<tool>get_weather</tool>",
    'Thought: I look.\nAction: get_weather\nAction Input: {"city": "Rome"}',
    'Tool: `get_weather`\nArguments:\n```json\n{"city": "Rome"}\n```',
    'get_weather: {"city": "Rome"}',
    'get_weather =>\n{"city": "Rome"}',
    "$ get_weather(city='Rome')",
    "@get_weather(city='Rome')",
    "\u200bget_weather(city='Rome')",
    "\ufeff- get_weather(city='Rome')",
]

TEXTS = [
    NO_CALL_RESPONSE,
    "I can't do that.",
    "No function fits (sorry).",
    "I'm sorry, but I can't book trains.",
    # a sentence that mentions a call
    'weather_at(city="?") needs a city; which one?',
    'get_weather(city="?") needs a city; which one?',
    'I could call get_weather(city="Rome"), but that does not book trains.',
    "You could use `get_weather(city)` for the weather, though not for trains.",
    "get_weather(city, days) only gives the weather. Which city do you mean?",
    "Neither get_time() nor get_weather() can do that.",
    "The function get_time() takes no arguments.",
    "The tool `get_weather` needs a city.",
    "The get_weather tool is not for that: it needs a city (e.g. Rome).",
    "Use search (by name) for that.",
    "Search (2 results) is not possible.",
    "To search: give me a query (a few words).",
    # the tools described
    "I can only do this:\n- get_weather(city): the weather\n- get_time(): the time",
    "- get_weather(city)\n- math.sqrt(x)\nNone fits.",
    "1. get_weather: weather of a city\n2. search: the web\n\nNone books trains.",
    "**search** (query): searches. It does not book.",
    "Available functions: get_weather(city, days), get_time().",
    "Name: get_weather\nParameters: city, days",
    # brackets that open prose
    "[Note] None of the tools can book trains.",
    "[Booking](https://example.org/book) is not something I can do here.",
    "[1] says otherwise (see #5), so no tool fits.",
    "[Sorry] I cannot (yet) do that; see issue #12.",
    "(None of the tools fits.)",
    "The values: [1, 2]",
    "In Python: [f(x) for x in y]",
    # code that has nothing to do with the tools
    "```python\nprint('hello')\n```",
    "You can do it in Python:\n```python\ntotal = sum(x for x in range(10))\nprint(total)\n```",
    "Try `math.floor(2.5)`, which gives 2.",
    "The derivative of f(x) = x**2 is f'(x) = 2x.",
    "f(x) = x + 1, so f(2) = 3.",
    'In JSON: {"name": "Anna", "age": 3}.',
    '```json\n{"name": "Anna", "age": 3, "tags": []}\n```',
    '{"name": "Anna", "age": 3}',
    "Use `SELECT name FROM users WHERE id IN (1, 2)`.",
    "def area(r):\n    return 3.14 * r ** 2",
    "<b>No</b> tool fits.",
    "Write to a@b.org (or call +1 555 0100).",
    "Is 3 < 4 and 5 > 2? Yes (always).",
    "No tool fits :(",
    "A <placeholder> is not a city.",
    "What is the <city>?",
    "Call me (later); x = y (mod 7).",
    "Answer: no (not possible).",
    "get_weather: {city} is missing from the question.",
    "It costs $5 (or less) @home (no tool needed).",
    "HTTP 404: not found (see below).",
    "| tool | fits |\n| --- | --- |\n| get_weather | no |",
    "# No function fits\n\n1. None (sorry).\n2. Please say which city.",
    # how models answer where nothing fits
    "I'm sorry, but none of the available tools can book a train. I can, however, tell you the weather in a city.",
    "The request lacks a required parameter: `city`. Could you tell me which city (and for how many days) you mean?",
    "To solve the quadratic equation 2x^2 + 3x - 5 = 0, use x = (-b ± sqrt(b^2 - 4ac)) / (2a):\n\nx = (-3 ± 7) / 4, so "
    "x1 = 1 and x2 = -2.5.",
    "The area of a circle is `A = pi * r**2` (r is the radius). For r = 3:\n\n- A = 3.14159 * 9\n- A = 28.27 (rounded)",
    "Unfortunately, the function `get_weather` needs `city`, and `search` needs `query`; neither is given.",
    "I can do this:\n\n1. **Weather** (get_weather): by city\n2. **Root** (math.sqrt): of a number\n\nWhich one?",
    "Based on the question, none of the functions can be used. The given question lacks the parameters required.",
    "No, `get_weather()` returns the weather only. A sentiment needs another tool, e.g. `analyze(text)`.",
    "In Python you would write:\n\n```python\nimport math\n\nprint(math.floor(2.5))  # 2\n```\n\nI cannot run it here.",
    "The capital of France is Paris (population: 2.1 million; source: INSEE, 2023).",
    "```\nSELECT name, COUNT(*) FROM users GROUP BY name;\n```\nruns this on your side; I have no database tool.",
    "Photosynthesis: 6 CO2 + 6 H2O -> C6H12O6 + 6 O2 (with light).",
    'A "tool" named `search` exists, but it takes {query}, not a date.',
    "申し訳ありませんが、その機能(列車の予約)はありません。",
    "请问您要查询哪个城市的天气?(例如 北京)",
]


@pytest.mark.parametrize("answer", CALLS)
def test_calls_in_any_dialect_are_no_text(answer: str) -> None:
    assert reading(answer) != "not_a_list"


@pytest.mark.parametrize("answer", TEXTS)
def test_prose_and_unrelated_code_stay_text(answer: str) -> None:
    assert reading(answer) == "not_a_list"


@given(st.text(max_size=200) | st.lists(st.sampled_from([*CALLS[:20], *TEXTS[:20]]), max_size=4).map("\n".join))
def test_any_text_is_answered(text: str) -> None:
    assert foreign_form(text, NAMES) in ("", "call_markup", "json_call", "call_in_text")


@given(st.sampled_from(TEXTS), st.sampled_from(TEXTS))
def test_two_texts_are_a_text(one: str, other: str) -> None:
    assert reading(f"{one}\n\n{other}") == "not_a_list"


@given(
    st.sampled_from(TEXTS),
    st.sampled_from([CALL, f"[{CALL}]", f"```\n{CALL}\n```", JSON, f"<tool_call>{JSON}</tool_call>"]),
)
def test_prose_does_not_hide_a_call(text: str, call: str) -> None:
    assert reading(f"{text}\n\n{call}") != "not_a_list"
    assert reading(f"{call}\n\n{text}") != "not_a_list"


# Each is answered in a second; patterns that tried every start to the end of the text would take hours.
@pytest.mark.parametrize(
    "unit",
    [
        "get_weather(",
        "say get_weather(\n",
        "get_weather(city=1) x\n",
        "[get_weather(1) x",
        "x[",
        "(",
        " ",
        "\n",
        "*",
        '"',
        "'",
        '"a":',
        '"name":"x" ',
        "<a",
        "<",
        "<|a",
        "</:",
        ": ",
        "x = ",
        "a.",
        "1. \n",
        '"\\',
        "'''\\",
        "get_weather('",
        '\\"',
        "Action: x\n",
    ],
)
def test_hostile_texts_are_answered(unit: str) -> None:
    foreign_form("(" + unit * (300_000 // len(unit)), NAMES)
