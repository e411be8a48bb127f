"""Several models' evaluation directories, read and paired: what the stage, `callforge evaluate` and `callforge compare`
show. No model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from components.errors import InputError
from components.evaluations.comparison import Compared, compare_models, own_obstacle
from components.evaluations.directory import OWN_FOLDER, evaluation_folder, read_evaluation
from components.evaluations.pages import write_comparison
from components.evaluations.tables import TextTable, paired_table
from components.evaluations.words import distinct_names


@dataclass(frozen=True)
class ComparedFolders:
    """What was compared: each benchmark, own records first, with the models' directories; and what could not be."""

    benchmarks: Sequence[tuple[Compared, Mapping[str, Path]]]
    note: str

    def write_page(self, path: Path) -> None:
        """The page of scores, differences, and the questions that changed."""
        write_comparison(path, self.benchmarks, self.note)

    def tables(self) -> list[TextTable]:
        """A table for every two models."""
        compared = [compared for compared, _ in self.benchmarks]
        return [paired_table(compared, one, two) for one, two in compared[0].pairs]


@contextmanager
def compare_places(places: Sequence[str]) -> Iterator[ComparedFolders]:
    """The evaluation directories at `places`, here or in S3, compared; the first is what the others are held against.

    Raises:
        InputError: as `compare_folders` does; or fewer than two are named, or one twice.
    """
    if len(places) < 2:
        raise InputError("compare: name two evaluation directories or more, the earlier model first")
    names = distinct_names(places)
    with ExitStack() as stack:
        folders = [stack.enter_context(evaluation_folder(place)) for place in places]
        yield compare_folders(dict(zip(names, folders, strict=True)))


def compare_folders(folders: Mapping[str, Path]) -> ComparedFolders:
    """Evaluation directories, by the models' names, compared. Own records are where all were asked the same ones.

    Raises:
        InputError: a folder is not an evaluation directory, or damaged; or two were measured differently.
    """
    models = {name: read_evaluation(folder) for name, folder in folders.items()}
    benchmarks: list[tuple[Compared, Mapping[str, Path]]] = []
    own = {name: one.own for name, one in models.items() if one.own is not None}
    note = own_obstacle(models)
    if own and not note:
        benchmarks.append((compare_models(own), {name: folder / OWN_FOLDER for name, folder in folders.items()}))
    benchmarks.append((compare_models(models), folders))
    return ComparedFolders(benchmarks, note)
