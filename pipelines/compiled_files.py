"""Files made from the code and committed: pipelines/compiled/*.yaml and docs/settings.md, written or verified.

The YAML depends only on the code and the image names, never on the machine, so equal bytes mean that nothing is stale.
The committed files name the images of the release; what is uploaded is compiled anew, for those of the environment.
"""

from __future__ import annotations

import re
import tempfile
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components import images
from components.errors import InputError
from components.sections import Extendable, Operational, is_section, mark_of
from components.settings import Settings
from pipelines.profiles import CLUSTER_PROFILES, DEFAULT_CLUSTER_PROFILE, find_profile

ROOT = Path(__file__).parents[1]
COMPILED = Path(__file__).parent / "compiled"
SETTINGS_PAGE = ROOT / "docs" / "settings.md"
_IMAGE = re.compile(r"[a-z0-9]([a-z0-9._-]|:\d|/(?=[a-z0-9]))*:\w[\w.-]{0,127}", re.ASCII)


def write_files() -> list[Path]:
    """Write them all; returns their paths."""
    files = dict(_contents())
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    for path in set(COMPILED.glob("*.yaml")) - files.keys():
        path.unlink()
    return list(files)


def stale_files() -> list[Path]:
    """The files that are not what this code makes: missing, different, or no longer made."""
    files = dict(_contents())
    different = [path for path, text in files.items() if not path.exists() or path.read_text("utf-8") != text]
    return different + sorted(set(COMPILED.glob("*.yaml")) - files.keys())


def write_pipelines(folder: Path) -> list[Path]:
    """Write only the pipelines, below `folder`; returns their paths.

    Raises:
        InputError: CALLFORGE_REGISTRY or CALLFORGE_IMAGE_TAG makes no name of an image, or nothing can be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in _pipelines():
            paths.append(folder / name)
            paths[-1].write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"{folder}: the pipelines cannot be written there ({error.strerror})") from None
    return paths


def compiled_name(pipeline: str, profile: str) -> str:
    """File name of the compiled `pipeline` of a cluster profile; the default profile has the plain name."""
    return f"{pipeline}.yaml" if profile == DEFAULT_CLUSTER_PROFILE else f"{pipeline}-{profile}.yaml"


def _contents() -> Iterator[tuple[Path, str]]:
    yield from ((COMPILED / name, text) for name, text in _pipelines())
    yield SETTINGS_PAGE, settings_page()


def _pipelines() -> Iterator[tuple[str, str]]:
    """File name and text of each."""
    for image in (images.LIGHT, images.TRAIN):
        if not _IMAGE.fullmatch(image):
            raise InputError(
                f"image {image!r}: CALLFORGE_REGISTRY is a host and folders in small letters, with no slash at the end"
                " (registry.example.com/team), CALLFORGE_IMAGE_TAG at most 128 letters, digits, '_', '.' and '-'"
            )
    from pipelines.evaluate import evaluate
    from pipelines.promote import promote
    from pipelines.train import train

    for name in CLUSTER_PROFILES:
        yield compiled_name("train", name), _compile(train(find_profile(name)))
    for pipeline, function in (("evaluate", evaluate), ("promote", promote)):
        text = _compile(function(find_profile(DEFAULT_CLUSTER_PROFILE)))
        yield compiled_name(pipeline, DEFAULT_CLUSTER_PROFILE), text


def _compile(pipeline: Any) -> str:
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text("utf-8")


def settings_page() -> str:
    """docs/settings.md: every setting with type, default and meaning, as components/settings.py states them."""
    lines = [
        "# Settings",
        "",
        "Written by `callforge compile` from components/settings.py; change it there.",
        "",
        "Every name below works in `--set section.name=value`, in the pipeline's parameter `settings`"
        ' (`{"egpo_rl.steps": 50}`) and in a profile of pipelines/profiles.py. Endpoints and credentials are not'
        " settings: they come from the environment.",
        "",
        "When a run goes on with other settings, the last column says what happens. `redo`: the setting decides the"
        " stage's result, so the stage and those after it are done again. `extend`: a larger number goes on from the"
        " last checkpoint, a smaller one starts again. `keep`: the setting does not change the result and may be"
        " changed at any time. Some of these change the order of sums, and so the last digits of what is computed from"
        " there on; their meaning says so.",
    ]
    for name, field in Settings.model_fields.items():
        lines += _section_lines(field.annotation, name, "##")
    return "\n".join(lines) + "\n"


def _section_lines(section: Any, name: str, heading: str) -> Iterator[str]:
    fields = section.model_fields.items()
    yield from ("", f"{heading} {name}", "", _one_line(section.__doc__), "")
    yield from ("| setting | type | default | meaning | change |", "| --- | --- | --- | --- | --- |")
    yield from (_row(field, f"{name}.{inner}") for inner, field in fields if not is_section(field.annotation))
    for inner, field in fields:
        if is_section(field.annotation):
            yield from _section_lines(field.annotation, f"{name}.{inner}", "###")


def _row(field: Any, name: str) -> str:
    limits = ", ".join(text for item in field.metadata if (text := _limit(item)))
    kind = f"{_type_name(field.annotation)}{', ' + limits if limits else ''}"
    change = {Operational: "keep", Extendable: "extend"}.get(type(mark_of(field)), "redo")
    cells = (kind, _default(field.default), _one_line(field.description), change)
    return f"| `{name}` | {' | '.join(map(_cell, cells))} |"


def _type_name(annotation: Any) -> str:
    if typing.get_origin(annotation) is typing.Literal:
        return " / ".join(f"`{value}`" for value in typing.get_args(annotation))
    if typing.get_origin(annotation) is tuple:
        item = typing.get_args(annotation)[0]
        return f"list of {_type_name(item)}"
    return {int: "integer", float: "number", str: "text", bool: "true / false"}[annotation]


def _limit(item: Any) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    parts = [f"{sign} {getattr(item, name)}" for name, sign in signs.items() if hasattr(item, name)]
    pattern = getattr(item, "pattern", None)
    return ", ".join([*parts, *([f"`{pattern}`"] if pattern else [])])


def _default(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "empty" if value == "" else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _one_line(text: str | None) -> str:
    return re.sub(r"\s+", " ", text or "").strip()
