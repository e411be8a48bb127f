"""Are a model's calls the gold calls? All or nothing, with a reason for every kind of failure.

Strict on purpose, as the reward of EGPO is: a text equals the gold text to the letter, an optional argument is given
exactly where the gold gives it. A default in a tool's schema is no excuse to leave an argument out that the gold
names, nor to add one it does not: defaults in real tool files are too often wrong or of another type. The official
BFCL checker, which knows several accepted values per argument, judges the evaluation (components/bfcl_eval).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.function_calls.arguments import fits_exactly
from components.function_calls.record import Call, Schema, Tool

# From the nearest miss to the farthest: of several unmatched calls the nearest names the reason.
REASONS = (
    "wrong_value",  # right type, another value
    "wrong_type",  # a value of another JSON type than the gold's
    "missing_optional_argument",  # the gold gives an optional argument, the call does not
    "unexpected_argument",  # the schema has the argument, the gold leaves it out
    "missing_argument",  # a required argument is absent
    "unknown_argument",  # an argument the schema does not have
    "wrong_name",  # another tool
    "wrong_count",  # more or fewer calls
)
_RANK = {reason: rank for rank, reason in enumerate(REASONS)}


@dataclass(frozen=True, slots=True)
class Match:
    """`ok`, or why not: one of REASONS."""

    ok: bool
    reason: str


_OK = Match(True, "")


def match(calls: Sequence[Call], answers: Sequence[Call], tools: Sequence[Tool]) -> Match:
    """Compare calls with gold calls as multisets: the order of calls means nothing, that of list items does.

    An integer equals a float of the same value where the tool's schema admits both, or says nothing; booleans are
    never numbers. Every call may be compared with every answer: parse_calls bounds how many there are.
    """
    if len(calls) != len(answers):
        return Match(False, "wrong_count")
    schemas = {tool.name: tool.parameters for tool in tools}
    # Equality under one schema is an equivalence: calls that fit the same gold call fit the same others, so taking the
    # first fit never spoils a better assignment and no search over permutations is needed.
    left = list(calls)
    unmatched = []
    fits: Fits = {}
    for answer in answers:
        schema = schemas.get(answer.name, _NO_SCHEMA)
        for index, call in enumerate(left):
            if call.name == answer.name and _same_arguments(call.arguments, answer.arguments, schema, fits):
                del left[index]
                break
        else:
            unmatched.append(answer)
    if not unmatched:
        return _OK
    if sorted(call.name for call in left) != sorted(answer.name for answer in unmatched):
        return Match(False, "wrong_name")
    nearest = len(REASONS)
    for answer in unmatched:
        schema = schemas.get(answer.name, _NO_SCHEMA)
        required = set(schema.get("required") or ())
        for call in left:
            if call.name == answer.name:
                reason = _difference(call.arguments, answer.arguments, schema, required, fits)
                nearest = min(nearest, _RANK[reason])
    return Match(False, REASONS[nearest])


_NO_SCHEMA: Schema = {}
# What fits_exactly answered, by the identities of value and schema: a schema may be large, and pairs share both.
Fits = dict[tuple[int, int], bool]


def _same_arguments(given: Mapping[str, Any], gold: Mapping[str, Any], schema: Schema, fits: Fits) -> bool:
    if given.keys() != gold.keys():
        return False
    return not any(_compare(value, gold[name], _schema_of(name, schema), fits) for name, value in given.items())


def _difference(
    given: Mapping[str, Any], gold: Mapping[str, Any], schema: Schema, required: set[str], fits: Fits
) -> str:
    """Reason why two calls of one tool differ; "" where they do not."""
    properties = schema.get("properties") or _NO_SCHEMA
    if any(name not in gold and name not in properties for name in given):
        return "unknown_argument"
    missing = gold.keys() - given.keys()
    if missing & required:
        return "missing_argument"
    if given.keys() - gold.keys():
        return "unexpected_argument"
    if missing:
        return "missing_optional_argument"
    reasons = [_compare(value, gold[name], _schema_of(name, schema), fits) for name, value in given.items()]
    return max(reasons, key=lambda reason: _RANK.get(reason, -1), default="")


def _schema_of(argument: str, schema: Schema) -> Schema:
    found = (schema.get("properties") or _NO_SCHEMA).get(argument, schema.get("additionalProperties"))
    return found if isinstance(found, dict) else _NO_SCHEMA


def _compare(value: Any, gold: Any, schema: Schema, fits: Fits) -> str:
    """ "" for equal values, else "wrong_type" or "wrong_value"."""
    fault = _fault(value, gold, _same_kind)
    if fault == "wrong_type":
        fault = _fault(value, gold, _same_number)
        if not fault and not (_fits(value, schema, fits) and _fits(gold, schema, fits)):
            return "wrong_type"
    return fault


def _fits(value: Any, schema: Schema, fits: Fits) -> bool:
    key = id(value), id(schema)
    if key not in fits:
        fits[key] = fits_exactly(value, schema)
    return fits[key]


def _same_kind(kind: type, gold_kind: type) -> bool:
    return kind is gold_kind


def _same_number(kind: type, gold_kind: type) -> bool:
    return kind is gold_kind or {kind, gold_kind} == {int, float}


def _fault(value: Any, gold: Any, alike: Callable[[type, type], bool]) -> str:
    """ "" for equal JSON values, else "wrong_type" or "wrong_value"; `alike` says which types may be equal."""
    if not alike(type(value), type(gold)):
        return "wrong_type"
    if type(value) is list:
        if len(value) != len(gold):
            return "wrong_value"
        return next(filter(None, (_fault(*pair, alike) for pair in zip(value, gold, strict=True))), "")
    if type(value) is dict:
        if value.keys() != gold.keys():
            return "wrong_value"
        return next(filter(None, (_fault(value[key], gold[key], alike) for key in gold)), "")
    return "" if value == gold else "wrong_value"
