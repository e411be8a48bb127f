"""What a section of settings is: frozen, typed, read from JSON, and marked by what decides a stage's result.

The settings themselves are in components/settings.py, the rule by which work is kept or done again in
components/stages.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from components.errors import InputError, without_login

_SHOWN = Repr()  # of a value in an error: what a person can read
_SHOWN.maxstring = _SHOWN.maxother = 200
_SHOWN.maxlist = _SHOWN.maxdict = 10
_SHOWN.maxlevel = 4


@dataclass(frozen=True)
class Operational:
    """Marks a setting that does not decide what a stage makes, rounding aside: a run goes on when it was changed."""


@dataclass(frozen=True)
class Extendable:
    """Marks a length that no step before it depends on: a run goes on from its checkpoint when it was raised."""


class Section(BaseModel):
    """Settings that belong together, nested where that helps.

    Frozen and typed; an unknown name, a wrong type or a value out of range is an error.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )
    renamed: ClassVar[dict[str, str]] = {}
    """Earlier names of settings that are refused with the new one."""

    @field_validator("*")
    @classmethod
    def _is_no_template(cls, value: Any) -> Any:
        """Settings are parameters of a pipeline, in which Kubeflow and Argo would replace such a text."""
        if any("{{" in text for text in (value if isinstance(value, tuple) else [value]) if isinstance(text, str)):
            raise ValueError("{{ begins a placeholder of Kubeflow's and cannot be part of a setting")
        return value

    @field_validator("*")
    @classmethod
    def _holds_no_login(cls, value: Any) -> Any:
        """Settings are stored, and shown on a run's page."""
        texts = [text for text in (value if isinstance(value, tuple) else [value]) if isinstance(text, str)]
        if any(without_login(text) != text for text in texts):
            raise ValueError("an address without user and password is expected: settings are stored and shown")
        return value

    def inputs(self) -> dict[str, str]:
        """Files and objects that settings name and whose bytes the outputs depend on, by the settings' names."""
        return {}


AnySection = TypeVar("AnySection", bound=Section)


def is_section(annotation: Any) -> bool:
    """Whether a setting of this type is a section of its own."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def mark_of(field: Any) -> Operational | Extendable | None:
    """The mark of a setting, given as pydantic's FieldInfo; without one it decides the result."""
    return next((item for item in field.metadata if isinstance(item, Operational | Extendable)), None)


def deciding_settings(section: Section) -> dict[str, Any]:
    """The settings that decide what a stage makes, as JSON values; nested as in the section, operational ones left out.

    Equal ones, with equal inputs and code, give equal results: on a CPU to the bit, unless an operational setting that
    changes the order of sums was changed in between.
    """
    found: dict[str, Any] = {}
    values = section.model_dump(mode="json")
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            if inner := deciding_settings(value):
                found[name] = inner
        elif not isinstance(mark_of(field), Operational):
            found[name] = values[name]
    return found


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values as pairs of a dotted name and a value: {"a": {"b": 1}} gives ("a.b", 1)."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def extendable_setting(section: Section) -> str | None:
    """The name of the section's setting that may be raised when a run goes on, if it has one."""
    fields = type(section).model_fields
    return next((name for name, field in fields.items() if isinstance(mark_of(field), Extendable)), None)


def read_section(section: type[AnySection], values: dict[str, Any], name: str) -> AnySection:
    """Validate `values` (parsed JSON) as `section`; `name` is the prefix used in errors.

    Raises:
        InputError: naming every wrong field, its value and what is allowed.
    """
    try:
        # JSON has no tuples: lists are read as them, everything else stays strict.
        return section.model_validate_json(json.dumps(values))
    except RecursionError:
        raise InputError(f"{name or 'settings'}: nested too deeply; no setting is") from None
    except ValidationError as error:
        problems = [_problem(section, name, item) for item in error.errors(include_url=False)]
        raise InputError("; ".join(problems)) from None


def _problem(section: type[Section], name: str, item: Any) -> str:
    where = ".".join([name, *(str(part) for part in item["loc"])]).strip(".")
    owner: Any = section
    if item["type"] == "extra_forbidden":
        for part in item["loc"][:-1]:
            owner = owner.model_fields[part].annotation
        return _unknown(where, owner, str(item["loc"][-1]))
    if item["type"] == "model_type":
        for part in item["loc"]:
            owner = owner.model_fields[part].annotation
        return no_value(where, owner, item["input"])
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "json_invalid":  # half a surrogate pair, or nested beyond all sense
        return f"{where or 'settings'}: {message[0].lower()}{message[1:]}"
    if item["type"] == "value_error" and isinstance(item["input"], dict):  # of a whole section: it names the setting
        return f"{where}.{message}"
    return f"{where}: {message[0].lower()}{message[1:]}, not {_SHOWN.repr(_without_logins(item['input']))}"


def _without_logins(value: Any) -> Any:
    """Before it is shortened: a cut address cannot be told to hold a login."""
    if isinstance(value, list):
        return [_without_logins(item) for item in value]
    return without_login(value) if isinstance(value, str) else value


def _unknown(where: str, section: type[Section], name: str) -> str:
    """Says that `section` has no setting `name`, and which one was meant."""
    parent = where.removesuffix(name)
    if parent and (moved := section.renamed.get(name) or _in_one_section_of(section, name)):
        return f"{where} is now {parent}{moved}"
    names = list(section.model_fields)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
    return f"{where}: there is no such setting; {hint}"


def _in_one_section_of(section: type[Section], name: str) -> str:
    types: dict[str, Any] = {inner: field.annotation for inner, field in section.model_fields.items()}
    found = [f"{inner}.{name}" for inner, kind in types.items() if is_section(kind) and name in kind.model_fields]
    return found[0] if len(found) == 1 else ""


def no_value(where: str, section: type[Section], value: Any) -> str:
    """Says that `where` is a section of settings where `value` was given."""
    names = list(section.model_fields)
    if names[0] == "name":
        return f"{where} is now {where}.name; {where} is a section of its own"
    return (
        f"{where}: a section of settings ({', '.join(names)}), not {_SHOWN.repr(value)}; write {where}.{names[0]}=..."
    )
