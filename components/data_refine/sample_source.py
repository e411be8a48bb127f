"""The built-in sources: records made up from templates, the same ones for the same seed.

`sample` has every category and tools of many domains. `sample/home` has requests to five tools of a home, each for one
call or none, which a small model learns in minutes. Every argument's value appears in the question. Nothing is taken
from a benchmark or from other data. They are there to run the whole chain without a download and to teach the shape of
a turn; they do not replace real records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from random import Random
from typing import Any

from components.data_refine.sample_slots import Template, listed
from components.data_refine.sample_tools_home import HOME_TOOLS
from components.data_refine.sample_tools_knowledge import KNOWLEDGE_TOOLS
from components.data_refine.sample_tools_leisure import LEISURE_TOOLS
from components.data_refine.sample_tools_office import OFFICE_TOOLS
from components.data_refine.sample_tools_travel import TRAVEL_TOOLS
from components.data_refine.sample_values import GENERAL_AIMS, GENERAL_REQUESTS, TOPICS
from components.function_calls.record import Call, Category, Message, Record, Tool

Templates = tuple[Template, ...]
TEMPLATES: Templates = HOME_TOOLS + LEISURE_TOOLS + TRAVEL_TOOLS + OFFICE_TOOLS + KNOWLEDGE_TOOLS


@dataclass(frozen=True)
class SampleSource:
    """What a built-in source makes its records of: tools, and the share of each category."""

    templates: Templates
    shares: dict[Category, float]


SOURCES: dict[str, SampleSource] = {
    "sample": SampleSource(
        TEMPLATES,
        {"simple": 0.30, "multiple": 0.25, "parallel": 0.15, "parallel_multiple": 0.15, "no_call": 0.15},
    ),
    "sample/home": SampleSource(
        tuple(template for template in HOME_TOOLS if template.domain == "home"),
        {"simple": 0.45, "multiple": 0.35, "no_call": 0.20},
    ),
}

IMPERATIVES = (
    "{A}.", "{A}.", "{A}, please.", "Please {a}.", "Can you {a}?", "Could you {a}?", "Could you please {a}?",
    "I need you to {a}.", "I'd like you to {a}.", "Help me {a}.", "Would you {a}?", "Hi, can you {a}?",
    "Go ahead and {a}.", "Hello! Please {a}.", "{A}, thanks.", "Kindly {a}.", "It's time to {a}.",
    "You should {a} for me.", "{A} for me.",
)  # fmt: skip
REPEATS = ("Do the same for {}.", "And the same for {}.", "Repeat that for {}.", "Likewise for {}.")
LINKS = ("", "", "Also, ", "Then ", "After that, ", "And ", "Next, ", "On top of that, ", "Besides that, ")
LEADS = {
    "weather": ("I'm planning my week.", "We want to be outside a lot."),
    "home": ("I just got home.", "We have guests tonight.", "I'm leaving the house soon."),
    "food": ("We are getting hungry.", "I'm cooking for friends."),
    "health": ("I was at the doctor today.", "I'm trying to take better care of myself."),
    "travel": ("I'm planning a trip.", "My holidays are coming up.", "I have to travel for work."),
    "media": ("I have a free evening.", "It's a long bus ride."),
    "messages": ("I'm in a hurry.",),
    "family": ("It's a busy week for us.",),
    "shopping": ("I'm doing some shopping.", "It's for my sister."),
    "finance": ("I'm sorting out my money.", "We are saving for a house."),
    "calendar": ("My week is filling up.", "I'm back at my desk."),
    "shipping": ("I have things to send.", "I'm waiting for a delivery."),
    "maps": ("I'm new in this area.", "We are on the road."),
    "energy": ("Our power bill is too high.",),
    "sports": ("I want to get fit again.", "I'm a big sports fan."),
    "library": ("I read a lot these days.",),
    "language": ("I'm writing to a friend abroad.",),
    "science": ("I'm preparing for a lab class.", "It's for my homework."),
    "math": ("I'm checking some numbers.",),
    "operations": ("I'm on call today.", "We had an incident."),
    "work": ("There's a lot to do at the office.",),
    "study": ("I have an exam soon.",),
}
OPENINGS = ("The user wants", "The user asks for", "This is about", "Asked for:")
REFUSALS = (
    "None of the tools I have can help with {}.", "I can't do that: no offered tool is made for {}.",
    "Sorry, the available tools do not cover {}.", "There is no tool here for {}, so I can't call one.",
)  # fmt: skip
QUESTIONS = (
    "I can do that, but I still need the {}.", "Which {} should I use?", "Please tell me the {} first.",
    "The {} is missing. What should it be?",
)  # fmt: skip


@dataclass(frozen=True)
class Phrase:
    """One request in words: a clause without end mark, and whole sentences that follow it."""

    form: str  # "imperative", "?" or "."
    core: str
    tail: tuple[str, ...] = ()


Gold = tuple[tuple[Template, dict[str, Any]], ...]  # the right calls
Request = tuple[tuple[Phrase, ...], Gold]


@dataclass(frozen=True)
class Draft:
    """What a record is made of before it gets its id."""

    phrases: tuple[Phrase, ...]
    gold: Gold
    offered: tuple[Template, ...]
    absent: str = ""  # why no call is right: what the user wants, or the missing slot
    missing: str = ""


def sample_records(size: int, seed: int, name: str = "sample") -> Iterator[Record]:
    """Yield `size` records of the source `name`, no two with the same question and tools; a longer sample starts with
    the shorter one."""
    source = SOURCES[name]
    random = Random(f"callforge {name} {seed}")
    prefix = name.replace("/", "-")
    seen: set[bytes] = set()
    made = 0
    while made < size:
        category = random.choices([*source.shares], [*source.shares.values()])[0]
        record = _record(_draft(category, source.templates, random), f"{prefix}-{seed}-{made:06d}", name, random)
        text = "\0".join([record.messages[0].content, *sorted(tool.name for tool in record.tools)])
        key = blake2b(text.encode(), digest_size=8).digest()
        if key not in seen:
            seen.add(key)
            made += 1
            yield record


def _draft(category: Category, templates: Templates, random: Random) -> Draft:
    template = random.choice(templates)
    if category == "no_call":
        draft = _missing_value if random.random() < 0.25 else _unrelated
        return draft(template, templates, random)
    if category in ("simple", "multiple"):
        phrases, gold = _request(template, random)
    elif category == "parallel":
        phrases, gold = _repeated(template, random)
    else:
        others = _others((template,), templates, random.choice((1, 1, 2)), random)
        requests = [_request(item, random) for item in (template, *others)]
        phrases = tuple(phrase for request in requests for phrase in request[0])
        gold = tuple(call for request in requests for call in request[1])
    used = tuple({id(item): item for item, _ in gold}.values())
    extra = {"multiple": random.choice((1, 1, 1, 2, 2, 3)), "parallel_multiple": random.choice((0, 0, 1))}.get(
        category, 0
    )
    return Draft(phrases, gold, _shuffled((*used, *_others(used, templates, extra, random)), random))


def _request(template: Template, random: Random) -> Request:
    drawn = _draw(template, random)
    return (_phrase(template, _words(drawn), random),), ((template, _values(drawn)),)


def _repeated(template: Template, random: Random) -> Request:
    """Several calls of one tool: lists in one sentence, or one request after the other."""
    count = random.choice((2, 2, 3, 3, 4))
    if template.spread and random.random() < 0.65:
        paired = len(template.spread) > 1 and random.random() < 0.4
        request = _listing(template, random.sample(template.spread, 2 if paired else 1), count, random)
        if request is not None:
            return request
    requests = [_request(template, random) for _ in range(min(count, 3))]
    gold = tuple(call for _, calls in requests for call in calls)
    if any(gold[i] == gold[j] for i in range(len(gold)) for j in range(i)):
        return _repeated(template, random)
    return tuple(phrase for phrases, _ in requests for phrase in phrases), gold


def _listing(template: Template, slots: Sequence[str], count: int, random: Random) -> Request | None:
    """One request in which each of `slots` holds a list, one call per place in the lists; None when items repeat."""
    drawn = _draw(template, random)
    rows = [{slot: template.slots[slot].draw(random) for slot in slots} for _ in range(count)]
    words = {slot: [row[slot][1] for row in rows] for slot in slots}
    if any(len(set(items)) < count for items in words.values()):
        return None
    gold = tuple((template, {**_values(drawn), **_values(row)}) for row in rows)
    if len(slots) == 1 and random.random() < 0.25:
        first, *others = words[slots[0]]
        phrase = _phrase(template, {**_words(drawn), slots[0]: first}, random)
        again = random.choice(REPEATS).format(listed(others, random))
        return (replace(phrase, tail=(*phrase.tail, again)),), gold
    lists = {slot: listed(items, random) for slot, items in words.items()}
    phrase = _phrase(template, {**_words(drawn), **lists}, random)
    return (replace(phrase, core=f"{phrase.core}, respectively") if len(slots) > 1 else phrase,), gold


def _unrelated(template: Template, templates: Templates, random: Random) -> Draft:
    """A request that none of the offered tools answers."""
    offered = _others((template,), templates, random.choice((1, 1, 2, 3)), random, near=0.3)
    if random.random() < 0.35:
        index = random.randrange(len(GENERAL_REQUESTS))
        topic = random.choice(TOPICS)
        sentence = GENERAL_REQUESTS[index].format(topic)
        phrase = Phrase(sentence[-1], sentence[:-1])
        return Draft((phrase,), (), offered, absent=f"{GENERAL_AIMS[index]} about {topic}")
    phrases, _ = _request(template, random)
    return Draft(phrases, (), offered, absent=template.aim)


def _missing_value(template: Template, templates: Templates, random: Random) -> Draft:
    """A request for an offered tool that leaves out a required value."""
    drawn = _draw(template, random)
    slots = [slot for slot in drawn if template.slots[slot].required]
    random.shuffle(slots)
    for slot in slots:
        words = {name: text for name, text in _words(drawn).items() if name != slot}
        if _askable(template, words):
            others = _others((template,), templates, random.choice((0, 0, 1, 2)), random)
            offered = _shuffled((template, *others), random)
            return Draft((_phrase(template, words, random),), (), offered, absent=template.name, missing=slot)
    return _unrelated(template, templates, random)


def _draw(template: Template, random: Random) -> dict[str, tuple[Any, str]]:
    """Values and words for the required slots and about half of the optional ones, no two strings alike."""
    while True:
        drawn = {
            name: slot.draw(random) for name, slot in template.slots.items() if slot.required or random.random() < 0.45
        }
        words = [text for _, text in drawn.values()]
        if len(set(words)) == len(words):
            return drawn


def _words(drawn: dict[str, tuple[Any, str]]) -> dict[str, str]:
    return {name: text for name, (_, text) in drawn.items()}


def _values(drawn: dict[str, tuple[Any, str]]) -> dict[str, Any]:
    return {name: value for name, (value, _) in drawn.items()}


def _askable(template: Template, words: dict[str, str]) -> list[str]:
    """The asks that can be used when exactly the slots of `words` are to be said."""
    return [
        ask
        for ask, mentioned in template.mentioned.items()
        if mentioned <= words.keys() and all(template.slots[slot].clauses for slot in words.keys() - mentioned)
    ]


def _phrase(template: Template, words: dict[str, str], random: Random) -> Phrase:
    ask = random.choice(_askable(template, words))
    rest = [slot for slot in words if slot not in template.mentioned[ask]]
    if random.random() < 0.5:
        random.shuffle(rest)
    clauses = [random.choice(template.slots[slot].clauses).format(words[slot]) for slot in rest]
    form = ask[-1] if ask[-1] in "?." else "imperative"
    core = ask.rstrip("?.").format(**words)
    inside = [clause for clause in clauses if not clause[0].isupper()]
    tail = [f"{clause}." for clause in clauses if clause[0].isupper()]
    if form == "." and inside:  # a finished statement takes its clauses as a sentence of its own
        tail.insert(0, f"{_capital(' '.join(inside))}, please.")
        inside = []
    return Phrase(form, " ".join([core, *inside]), tuple(tail))


def _sentence(phrases: tuple[Phrase, ...], random: Random) -> str:
    """The requests as one text."""
    plain = all(phrase.form == "imperative" and not phrase.tail for phrase in phrases)
    if len(phrases) > 1 and plain and random.random() < 0.6:
        link = random.choice((" and ", ", then ", ", and also ", " and then "))
        core = link.join(phrase.core for phrase in phrases)
        return _wrapped(Phrase("imperative", core), random)
    if len(phrases) > 1 and random.random() < 0.15:
        lines = [f"{number}. {_capital(phrase.core)}{_mark(phrase)}" for number, phrase in enumerate(phrases, 1)]
        return "\n".join([random.choice(("Please do this:", "My list for today:", "A few things:")), *lines])
    parts = [_wrapped(phrases[0], random)]
    for phrase in phrases[1:]:
        link = random.choice(LINKS)
        imperative = phrase.form == "imperative"
        text = " ".join([phrase.core + ("." if imperative else phrase.form), *phrase.tail])
        keep = link and (
            imperative or text.startswith(("What ", "How ", "Is ", "Where ", "Which ", "Can ", "Will ", "Do "))
        )
        parts.append(link + (text[0].lower() + text[1:] if keep else text) if keep else _capital(text))
    return " ".join(parts)


def _mark(phrase: Phrase) -> str:
    return " ".join(["." if phrase.form == "imperative" else phrase.form, *phrase.tail])


def _wrapped(phrase: Phrase, random: Random) -> str:
    if phrase.form != "imperative":
        text = _capital(phrase.core) + phrase.form
    else:
        text = random.choice(IMPERATIVES).format(a=phrase.core, A=_capital(phrase.core))
    return " ".join([text, *phrase.tail])


def _record(draft: Draft, identifier: str, source: str, random: Random) -> Record:
    style = random.choices(("snake", "dotted", "camel"), (0.5, 0.3, 0.2))[0]
    tools = tuple(template.tool(_spelled(template, style)) for template in draft.offered)
    question = _sentence(draft.phrases, random)
    if question.endswith(".") and random.random() < 0.1:
        question = question[:-1]
    domain = draft.gold[0][0].domain if draft.gold else ""
    if domain and random.random() < 0.15:
        question = f"{random.choice(LEADS[domain])} {question}"
    answers = tuple(Call(_spelled(template, style), arguments) for template, arguments in draft.gold)
    if answers:
        thought, response = _thought(draft, answers, random), None
    else:
        thought, response = _refusal(draft, tools, style, random)
    messages = (Message("user", question),)
    return Record(identifier, source, messages, tools, answers, thought, response)


def _thought(draft: Draft, answers: Sequence[Call], random: Random) -> str:
    """From the request to the arguments, in few words."""
    opening = random.choice(OPENINGS)
    if len(answers) == 1:
        template, arguments = draft.gold[0]
        text = f"{opening} {template.aim}. {answers[0].name} fits: {_said(arguments)}."
        left_out = [slot for slot in template.slots if slot not in arguments]
        if left_out and random.random() < 0.5:
            text += f" {listed(left_out, random)} {'is' if len(left_out) == 1 else 'are'} not given."
        return text
    names = {call.name for call in answers}
    if len(names) == 1:
        said = "; ".join(_said(call.arguments) for call in answers)
        count, aim = len(answers), draft.gold[0][0].aim
        return f"{opening} {aim}, {count} times. {count} calls of {answers[0].name}: {said}."
    aims = listed([template.aim for template, _ in draft.gold], random)
    return f"{opening} {aims}. " + " ".join(f"{call.name}: {_said(call.arguments)}." for call in answers)


def _refusal(draft: Draft, tools: Sequence[Tool], style: str, random: Random) -> tuple[str, str]:
    """Thought and reply when no call is right."""
    if draft.missing:
        template = next(item for item in draft.offered if item.name == draft.absent)
        slot = draft.missing.replace("_", " ")
        thought = (
            f"The user wants {template.aim}. {_spelled(template, style)} would fit, "
            f"but {draft.missing} is required and not given. I ask for it."
        )
        return thought, random.choice(QUESTIONS).format(slot)
    offered = "; ".join(f"{tool.name} is for {item.aim}" for tool, item in zip(tools, draft.offered, strict=True))
    verdict = "It does not fit" if len(tools) == 1 else "None fits"
    thought = f"The user wants {draft.absent}. {offered}. {verdict}, so no call."
    return thought, random.choice(REFUSALS).format(draft.absent)


def _said(arguments: dict[str, Any]) -> str:
    return ", ".join(f"{name} is {_literal(value)}" for name, value in arguments.items()) or "no arguments"


def _literal(value: Any) -> str:
    """The value as the answer writes it: JSON, but with Python's True and False."""
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_literal, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_literal(key)}: {_literal(item)}' for key, item in value.items())}}}"
    return json.dumps(value, ensure_ascii=False)


def _others(
    used: Sequence[Template], templates: Templates, count: int, random: Random, near: float = 0.6
) -> tuple[Template, ...]:
    """`count` further tools, of a domain in use with probability `near`."""
    chosen: list[Template] = list(used)
    for _ in range(count):
        left = [template for template in templates if template not in chosen]
        related = [template for template in left if template.domain in {item.domain for item in used}]
        chosen.append(random.choice(related if related and random.random() < near else left))
    return tuple(chosen[len(used) :])


def _shuffled(items: Sequence[Template], random: Random) -> tuple[Template, ...]:
    return tuple(random.sample(items, len(items)))


def _spelled(template: Template, style: str) -> str:
    """The tool's name in one of the spellings met in practice."""
    if style == "dotted":
        return f"{template.domain}.{template.name}"
    if style == "camel":
        first, *rest = template.name.split("_")
        return first + "".join(word.capitalize() for word in rest)
    return template.name


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
