"""index.html of a run: every page of its stages, with the sentence that it opens with. Only reads what they wrote."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from components.services.report import Link, Links, read_heading, write_report
from components.stages.catalogue import NAMES
from components.stages.folder import MANIFEST

INDEX, REPORT = "index.html", "report.html"


def write_run_page(folder: Path, profile: str) -> Path:
    """Write the page into the run directory `folder`; returns its path."""
    done = [stage for stage in NAMES if (folder / stage / MANIFEST).is_file()]
    left = [stage for stage in NAMES if stage not in done]
    state = f"not finished yet: {', '.join(left)}" if left else "all stages are finished"
    pages = [page for stage in NAMES for page in _pages(folder, stage)]
    write_report(folder / INDEX, f"Run {folder.name}", f"Profile {profile}; {state}.", [Links("Pages", pages)])
    return folder / INDEX


def _pages(folder: Path, stage: str) -> Iterator[Link]:
    """The stage's page, then those in folders of it: what the run started from, then its stages in their order."""
    order = {name: place for place, name in enumerate(NAMES)}

    def place(path: Path) -> tuple[int, int, Path]:
        return len(path.parts), order.get(path.parent.name, -1), path

    for path in sorted((folder / stage).rglob(REPORT), key=place):
        title, sentence = read_heading(path)
        address = path.relative_to(folder).as_posix()
        yield Link(address, title or address, sentence)
