"""What hypothesis draws: JSON values, tools with any names, calls of them."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from components.function_calls.record import Call, Tool

# Lone surrogates included: JSON escapes can spell them.
texts = st.text(st.characters() | st.sampled_from("\ud83d\ude00\udfff<>\"'\\"), max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4), max_leaves=8
)
words = st.sampled_from(
    ["city", "from", "class", "a-b", "a_b", "Get User", "Get_User", "ﬁ", "fi", "1st", "é", "x.y", "_"]
)
argument_names = words | st.text(min_size=1, max_size=8)
tool_names = (
    words | st.sampled_from(["math.sqrt", "a.b-c", "a..b", "import.me", "None"]) | st.text(min_size=1, max_size=8)
)


def tool_of(name: str, arguments: list[str], schema: dict[str, Any] | None = None) -> Tool:
    return Tool(name, "", {"type": "object", "properties": {argument: schema or {} for argument in arguments}})


@st.composite
def tools_and_calls(draw: st.DrawFn) -> tuple[list[Tool], list[Call]]:
    """Tools with arguments of any name, and calls of them; some arguments are not in the schema."""
    names = draw(st.lists(tool_names, min_size=1, max_size=4, unique=True))
    tools = [tool_of(name, draw(st.lists(argument_names, max_size=4, unique=True))) for name in names]
    calls = []
    for tool in draw(st.lists(st.sampled_from(tools), min_size=1, max_size=4)):
        known = st.sampled_from([*tool.parameters["properties"], "extra argument"])
        calls.append(Call(tool.name, draw(st.dictionaries(known, json_values, max_size=4))))
    return tools, calls
