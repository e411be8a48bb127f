"""How the built-in source describes a tool: its parameters, what users say for each, and how they ask.

A slot is one parameter: its JSON schema, a draw of (value, what the user writes), and the clauses that can carry it
in a sentence. No sentence is built here (sample_source.py does that).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from random import Random
from string import Formatter
from typing import Any

from components.data_refine import sample_values as values
from components.function_calls.record import Tool

Draw = Callable[[Random], tuple[Any, str]]
NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


@dataclass(frozen=True)
class Slot:
    """One parameter. `clauses` hold one `{}` each; none means that only the requests themselves mention it."""

    schema: Mapping[str, Any]
    draw: Draw
    clauses: tuple[str, ...]
    required: bool = True


@dataclass(frozen=True)
class Template:
    """One tool and the ways to ask for it.

    `aim` completes "The user wants ...". An ask that ends with "?" or "." is a sentence, any other an imperative
    without end mark; `{slot}` stands for what the user writes for a slot. `spread` names the slots that may be
    listed ("in Oslo, Rome and Lima") to mean one call each.
    """

    name: str
    domain: str
    aim: str
    description: str
    slots: Mapping[str, Slot]
    asks: tuple[str, ...]
    spread: tuple[str, ...] = ()
    mentioned: Mapping[str, frozenset[str]] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        names = {ask: frozenset(name for _, name, _, _ in Formatter().parse(ask) if name) for ask in self.asks}
        object.__setattr__(self, "mentioned", names)

    def tool(self, name: str) -> Tool:
        """The tool as it is offered, under the spelling `name`."""
        required = [slot for slot, item in self.slots.items() if item.required]
        properties = {slot: dict(item.schema) for slot, item in self.slots.items()}
        return Tool(name, self.description, {"type": "object", "properties": properties, "required": required})


def optional(slot: Slot, default: Any = None) -> Slot:
    """The same parameter when it may be left out."""
    schema = slot.schema if default is None else {**slot.schema, "default": default}
    return replace(slot, schema=schema, required=False)


def text(description: str, pool: Sequence[str], *clauses: str) -> Slot:
    """A string out of a word list."""

    def draw(random: Random) -> tuple[Any, str]:
        word = random.choice(pool)
        return word, word

    return Slot({"type": "string", "description": description}, draw, clauses)


def quoted(description: str, pool: Sequence[str], *clauses: str) -> Slot:
    """A longer string, which users put between quotes."""

    def draw(random: Random) -> tuple[Any, str]:
        word = random.choice(pool)
        mark = random.choice("\"'") if "'" not in word else '"'
        return word, f"{mark}{word}{mark}"

    return Slot({"type": "string", "description": description}, draw, clauses)


def made(description: str, make: Callable[[Random], str], *clauses: str) -> Slot:
    """A string made up on the spot: a date, a time, a code, a name."""

    def draw(random: Random) -> tuple[Any, str]:
        word = make(random)
        return word, word

    return Slot({"type": "string", "description": description}, draw, clauses)


def whole(description: str, low: int, high: int, *clauses: str, step: int = 1, limits: bool = False) -> Slot:
    """An integer; small ones are sometimes written as words, large ones sometimes with commas."""

    def draw(random: Random) -> tuple[Any, str]:
        number = random.randrange(low, high + 1, step)
        if 0 <= number < len(NUMBER_WORDS) and random.random() < 0.3:
            return number, NUMBER_WORDS[number]
        return number, f"{number:,}" if number >= 1000 and random.random() < 0.3 else str(number)

    bounds = {"minimum": low, "maximum": high} if limits else {}
    return Slot({"type": "integer", "description": description, **bounds}, draw, clauses)


def code_number(description: str, low: int, high: int, *clauses: str) -> Slot:
    """An integer that names something (an order, a card): always plain digits."""

    def draw(random: Random) -> tuple[Any, str]:
        number = random.randint(low, high)
        return number, str(number)

    return Slot({"type": "integer", "description": description}, draw, clauses)


def decimal(description: str, low: float, high: float, digits: int, *clauses: str) -> Slot:
    """A number with decimals."""

    def draw(random: Random) -> tuple[Any, str]:
        number = round(random.uniform(low, high), digits)
        number = number if number % 1 else round(number + 10**-digits, digits)  # keeps its decimals when written
        return number, str(number)

    return Slot({"type": "number", "description": description}, draw, clauses)


def choice(description: str, options: Sequence[str] | Mapping[str, Sequence[str]], *clauses: str) -> Slot:
    """An enum; a mapping says how users write each value."""
    written = options if isinstance(options, Mapping) else {option: (option,) for option in options}

    def draw(random: Random) -> tuple[Any, str]:
        option = random.choice(list(written))
        return option, random.choice(written[option])

    return Slot({"type": "string", "enum": list(written), "description": description}, draw, clauses)


def flag(description: str, yes: Sequence[str], no: Sequence[str]) -> Slot:
    """A boolean; users say it by a whole phrase."""

    def draw(random: Random) -> tuple[Any, str]:
        state = random.random() < 0.6
        return state, random.choice(yes if state else no)

    return Slot({"type": "boolean", "description": description}, draw, ("{}",))


def several(description: str, item: Slot, low: int, high: int, *clauses: str) -> Slot:
    """An array of different items, listed in a sentence; its order is the order of the words."""

    def draw(random: Random) -> tuple[Any, str]:
        drawn: dict[str, Any] = {}
        for _ in range(random.randint(low, high)):
            value, words = item.draw(random)
            drawn.setdefault(words, value)
        return list(drawn.values()), listed(list(drawn), random)

    kind = {key: value for key, value in item.schema.items() if key != "description"}
    return Slot({"type": "array", "items": kind, "description": description}, draw, clauses)


def group(description: str, parts: Mapping[str, Slot], written: str, *clauses: str) -> Slot:
    """A nested object; `written` says how its parts are put into words."""

    def draw(random: Random) -> tuple[Any, str]:
        drawn = {name: part.draw(random) for name, part in parts.items()}
        value = {name: item for name, (item, _) in drawn.items()}
        return value, written.format(**{name: words for name, (_, words) in drawn.items()})

    schema = {
        "type": "object",
        "properties": {name: dict(part.schema) for name, part in parts.items()},
        "required": list(parts),
        "description": description,
    }
    return Slot(schema, draw, clauses)


def listed(words: Sequence[str], random: Random) -> str:
    """ "a", "a and b", "a, b and c" in one of the usual ways."""
    if len(words) < 2:
        return "".join(words)
    last = random.choice((" and ", " and ", ", and " if len(words) > 2 else " and ", " as well as "))
    return ", ".join(words[:-1]) + last + words[-1]


# What several tools share.


def day(random: Random) -> str:
    """A date as YYYY-MM-DD."""
    return (date(2026, 1, 1) + timedelta(days=random.randrange(1000))).isoformat()


def clock(random: Random) -> str:
    """A time as HH:MM."""
    return f"{random.randint(6, 22):02d}:{random.choice((0, 0, 15, 30, 45)):02d}"


def full_name(random: Random) -> str:
    """First and last name."""
    return f"{random.choice(values.FIRST_NAMES)} {random.choice(values.LAST_NAMES)}"


def email(random: Random) -> str:
    """An address under a reserved domain."""
    name = f"{random.choice(values.FIRST_NAMES)}.{random.choice(values.LAST_NAMES)}".lower()
    return f"{name}@example.{random.choice(('com', 'org', 'net'))}"


def code(pattern: str) -> Callable[[Random], str]:
    """A maker of codes: `A` becomes a letter, `9` a digit, the rest stays."""

    def make(random: Random) -> str:
        letters = {"A": "ABCDEFGHJKLMNPQRSTUVWXYZ", "9": "0123456789"}
        return "".join(random.choice(letters.get(mark, mark)) for mark in pattern)

    return make


def city(description: str, *clauses: str) -> Slot:
    """A city."""
    return text(description, values.CITIES, *clauses)


def on_day(description: str, *clauses: str) -> Slot:
    """A date slot; the description gets the format."""
    return made(f"{description}, YYYY-MM-DD.", day, *(clauses or ("on {}", "for {}")))


def at_time(description: str, *clauses: str) -> Slot:
    """A time slot; the description gets the format."""
    return made(f"{description}, HH:MM.", clock, *(clauses or ("at {}",)))
