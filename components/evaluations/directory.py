"""The files of an evaluation directory: written here and read here, nowhere else.

    scores.json, outcomes.jsonl    what schema.py says; the first must follow from the second
    questions.jsonl.gz             what was asked: with it, pages are drawn wherever the directory was copied to
    generations/                   the answers, in the official tool's result layout (components/bfcl_eval writes it)
    own/                           of the same model on one's own records: an evaluation directory like this one

A directory may be here or in S3: one of its own, or a folder of a stage that was published.
"""

from __future__ import annotations

import gzip
import json
import tempfile
import zlib
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from components.errors import InputError
from components.evaluations.schema import (
    AskedQuestion,
    Evaluation,
    Outcome,
    Part,
    Scores,
    by_category,
    question_shares,
    questions_digest,
)
from components.files import atomic_write, expand_home, gzip_lines, read_json, write_json
from components.services.storage import download_folder, is_remote, split_uri
from components.stages.publishing import resolve_published

SCORES, OUTCOMES, QUESTIONS, GENERATIONS = "scores.json", "outcomes.jsonl", "questions.jsonl.gz", "generations"
OWN_FOLDER = "own"
LARGEST_OUTCOMES = 1024 * 2**20  # bytes; some five million answers


class _Answer(Part, extra="ignore"):
    """What a page needs of a line in generations/."""

    id: str
    turn: str


def write_evaluation(folder: Path, evaluation: Evaluation, questions: Iterable[AskedQuestion] = ()) -> None:
    """Write questions, outcomes and then scores into `folder`, each whole or not at all; `own` below it."""
    if evaluation.own is not None:
        write_evaluation(folder / OWN_FOLDER, evaluation.own)
    if questions := list(questions):
        with gzip_lines(folder / QUESTIONS) as file:
            file.writelines(question.model_dump_json() + "\n" for question in questions)
    with atomic_write(folder / OUTCOMES) as file:
        file.writelines(outcome.model_dump_json() + "\n" for outcome in evaluation.outcomes)
    write_json(folder / SCORES, evaluation.scores.model_dump(mode="json"))


def holds_evaluation(folder: Path) -> bool:
    """Whether `folder` is meant as an evaluation directory: it has a scores.json, of whatever content."""
    return (folder / SCORES).exists()


@contextmanager
def evaluation_folder(place: str) -> Iterator[Path]:
    """An evaluation directory as a folder here, fetched for the time being where `place` is in S3.

    Raises:
        InputError: there is nothing.
    """
    if not is_remote(place):
        yield expand_home(place)
        return
    split_uri(place)  # refuses what is no address, by the name it was given
    found = resolve_published(place)
    if found == place.rstrip("/"):  # a model's folder inside a published stage has the pointer one level above
        above, _, name = found.rpartition("/")
        stage = resolve_published(above) if above.count("/") > 2 else above
        found = f"{stage}/{name}"
    with tempfile.TemporaryDirectory(prefix="callforge-") as folder:
        download_folder(found, Path(folder))
        try:
            yield Path(folder)
        except InputError as error:
            raise InputError(str(error).replace(folder, found)) from None


def read_scores(folder: Path) -> Scores:
    """scores.json of an evaluation directory.

    Raises:
        InputError: there is none, or it is not one of ours; the text says why.
    """
    path = folder / SCORES
    try:
        return _validated(Scores, json.dumps(read_json(path)), path)
    except FileNotFoundError:
        raise InputError(
            f"evaluation {folder}: not an evaluation directory, because there is no {SCORES}; name the folder of one "
            "model's evaluation"
        ) from None


def read_evaluation(folder: Path) -> Evaluation:
    """An evaluation directory: its scores, the outcomes that they are the sums of, and that on own records in it.

    Raises:
        InputError: a file is missing, is not one of ours, or the two do not belong together; the text says why.
    """
    scores = read_scores(folder)
    path = folder / OUTCOMES
    outcomes = _read_outcomes(path)
    seen = {(outcome.id, outcome.sample) for outcome in outcomes}
    if len(seen) < len(outcomes):
        raise InputError(f"{path}: not ours, because a sample of a question is there twice")
    if questions_digest(question_shares(outcomes)) != scores.questions.ids_sha256:
        raise InputError(f"{path}: it does not belong to {SCORES} beside it, because it has other questions")
    for name, found in by_category(outcomes).items():
        said, shares = scores.categories.get(name), question_shares(found)
        if said is None or (said.n, said.correct) != (len(shares), sum(shares.values())):
            raise InputError(
                f"{path}: it does not belong to {SCORES} beside it, because {name} has {sum(shares.values()):g} of "
                f"{len(shares)} right here and {f'{said.correct:g} of {said.n}' if said else 'nothing'} there"
            )
    if not holds_evaluation(folder / OWN_FOLDER):
        return Evaluation(scores, outcomes)
    own = read_evaluation(folder / OWN_FOLDER)
    if own.scores.model.weights_sha256 != scores.model.weights_sha256:
        raise InputError(f"{folder / OWN_FOLDER}: it does not belong to {folder}, because other weights were evaluated")
    return Evaluation(scores, outcomes, own)


def read_questions(folder: Path, wanted: Container[str]) -> dict[str, AskedQuestion]:
    """The questions of those ids; {} where the directory was copied without them.

    Raises:
        InputError: the file is damaged.
    """
    path = folder / QUESTIONS
    try:
        with gzip.open(path) as file:
            asked = (_validated(AskedQuestion, line, f"{path}, line {number}") for number, line in enumerate(file, 1))
            return {question.id: question for question in asked if question.id in wanted}
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read ({error}); evaluate the model again") from None


def read_turns(folder: Path, wanted: Container[str]) -> dict[str, str]:
    """The model's whole answers to the questions of those ids; {} where the directory was copied without them.

    Raises:
        InputError: a file of generations/ is damaged.
    """
    turns = {}
    for path in sorted((folder / GENERATIONS).glob("*/*/*_result.json")):
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                answer = _validated(_Answer, line, f"{path}, line {number}")
                if answer.id in wanted:
                    turns[answer.id] = answer.turn
    return turns


def _read_outcomes(path: Path) -> list[Outcome]:
    try:
        if path.stat().st_size > LARGEST_OUTCOMES:
            raise InputError(f"{path}: not ours, because it is larger than {LARGEST_OUTCOMES:,} bytes")
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise InputError(f"evaluation {path.parent}: there is no {OUTCOMES}; evaluate the model again") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return [_validated(Outcome, line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


AnyPart = TypeVar("AnyPart", bound=Part)


def _validated(kind: type[AnyPart], text: str | bytes, where: object) -> AnyPart:
    """JSON text as `kind`: read as JSON, where a list may stand for a tuple, and strict otherwise."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        raise InputError(
            f"{where}: not ours, because {f'{field}: ' if field else ''}{message}; evaluate the model again"
        ) from None
