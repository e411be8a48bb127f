"""What decides a stage's result, and nothing else: the rule by which work is kept, continued or redone.

Settings that decide it (components/settings.py marks those that do not), the content of its inputs and of the files
that settings name, the version of the prompt where prompts are rendered, and the stage's own version. Pages, timings
and places on a disk are not part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.files import sha256_of_json
from components.function_calls.prompt import PROMPT_VERSION
from components.sections import Section, deciding_settings, extendable_setting, flatten
from components.services.storage import content_tag
from components.stages.catalogue import Stage


def identity(stage: Stage, config: Section, input_digests: Mapping[str, str]) -> dict[str, Any]:
    """What decides the result of `stage`, as JSON values.

    Args:
        input_digests: content of each input (folder.input_digest).

    Raises:
        InputError: a file that a setting names is not there.
    """
    named = {name: content_tag(uri) for name, uri in config.inputs().items()}
    found: dict[str, Any] = {
        "version": stage.version,
        "settings": deciding_settings(config),
        "inputs": {**input_digests, **named},
    }
    return found | ({"prompt_version": PROMPT_VERSION} if stage.renders_prompts else {})


def digest(stage: Stage, value: Mapping[str, Any]) -> str:
    """One name for a piece of work, as the manifest has it."""
    return sha256_of_json({"stage": stage.name, "identity": value})


def checkpoint_key(stage: Stage, config: Section, input_digests: Mapping[str, str]) -> str:
    """What a checkpoint is tied to: the identity, except for a length that changes no step."""
    found = identity(stage, config, input_digests)
    if (name := extendable_setting(config)) is not None:
        del found["settings"][name]
    return digest(stage, found)


def goes_on(earlier: Mapping[str, Any], now: Mapping[str, Any], config: Section) -> bool:
    """Whether work begun as `earlier` may be continued as `now`: the same, or longer where length changes no step.

    `config` is of `now`.
    """
    if earlier == now:
        return True
    name = extendable_setting(config)
    if name is None:
        return False
    before, after = (dict(item.get("settings", {})) for item in (earlier, now))
    length, longer = before.pop(name, None), after.pop(name, None)
    if not isinstance(length, int) or not isinstance(longer, int) or longer < length:
        return False
    return {**earlier, "settings": before} == {**now, "settings": after}


def changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two identities, in words."""
    before, after = (dict(flatten(item.get("settings", {}))) for item in (earlier, now))
    texts = [f"{name} was {before.get(name)}, is {after[name]}" for name in after if before.get(name) != after[name]]
    inputs = earlier.get("inputs", {})
    texts += [f"other {name}" for name, value in now["inputs"].items() if inputs.get(name) != value]
    versions = {"version": "another version of the stage", "prompt_version": "another prompt"}
    texts += [text for name, text in versions.items() if earlier.get(name) != now.get(name)]
    return "; ".join(texts) or "other settings"
