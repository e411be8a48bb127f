"""callforge.json, the card of a model directory: which stage made it, from what, with what."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.errors import InputError
from components.files import read_json

CARD = "callforge.json"


class BaseModelReference(BaseModel):
    """What the user called the base model, and the digest of its weights (base_models.weights_digest)."""

    model_config = ConfigDict(frozen=True)
    reference: str
    sha256: str


def library_versions() -> dict[str, str]:
    """Versions of what decides the numbers: Python and the libraries that train."""
    versions = {"python": platform.python_version()}
    for name in ("callforge", "torch", "transformers", "peft", "tokenizers", "safetensors"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"  # callforge run from a checkout that is not installed
    return versions


class ModelCard(BaseModel):
    """Contents of callforge.json. `parents` are digests by name, e.g. of the records and of the adapter trained on."""

    model_config = ConfigDict(frozen=True)
    stage: str
    base_model: BaseModelReference
    prompt_version: str
    parents: dict[str, str] = Field(default_factory=dict)
    config: dict[str, Any] = Field(default_factory=dict)
    library_versions: dict[str, str] = Field(default_factory=library_versions)


def has_card(folder: Path) -> bool:
    """Whether callforge wrote this directory."""
    return (folder / CARD).exists()


def read_card(folder: Path) -> ModelCard:
    """The card of a model directory.

    Raises:
        InputError: there is none, or it lacks something.
    """
    try:
        return ModelCard.model_validate(read_json(folder / CARD))
    except FileNotFoundError:
        raise InputError(f"model {folder}: there is no {CARD}; a model directory of callforge is expected") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"model {folder}: {CARD}: {where}: {first['msg']}") from None
