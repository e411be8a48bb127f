"""The stage's page, from what registration.json says. Only draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.model_registration.lineage import HEADLINES
from components.services.report import Block, Link, Links, Table, Text, write_report

_SCORES = ("own.", "bfcl.")  # tags that begin so are the evaluation's


def write_page(path: Path, registration: Mapping[str, Any]) -> None:
    """Write the page of a version, or of weights that were merged and not registered."""
    tags, files = registration["tags"], registration["files"]
    size = sum(entry["size"] for entry in files.values()) / 1e6
    weights = (
        f"{registration['source']}\n\nThe manifest beside them names every file; its sha256 is "
        f"{registration['manifest_sha256']}."
    )
    places: list[Block] = [Text("Weights", weights)]
    if registration["version"] is not None:
        pages = Link(registration["page"], "The version"), Link(registration["run_page"], "The run and its curves")
        places.append(Links("In MLflow", pages))
    blocks: list[Block] = [
        *places,
        Table("Evaluation", ["figure", "value"], [item for item in tags.items() if item[0].startswith(_SCORES)]),
        Table(
            "Where it comes from", ["tag", "value"], [item for item in tags.items() if not item[0].startswith(_SCORES)]
        ),
        Table(
            "Files",
            ["name", "bytes", "sha256"],
            [[name, entry["size"], entry["sha256"]] for name, entry in files.items()],
        ),
    ]
    name = registration["model_name"]
    write_report(path, f"Registration of {name}", f"{_what(registration)}, {size:,.1f} MB; {_scores(tags)}.", blocks)


def _what(registration: Mapping[str, Any]) -> str:
    if registration["version"] is None:
        return "The weights were merged and not registered, because no MLflow server was named (MLFLOW_TRACKING_URI)"
    return (
        f"Version {registration['version']} of {registration['model_name']} was registered as {registration['alias']}"
    )


def _scores(tags: Mapping[str, str]) -> str:
    found = [f"{what} {100 * float(tags[tag]):.1f} %" for tag, what in HEADLINES if tag in tags]
    return ", ".join(found) or "it was not evaluated"
