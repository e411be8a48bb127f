"""What an evaluation directory says: scores.json and outcomes.jsonl, made here and read here, nowhere else.

scores.json has what was measured, how, and the sums; outcomes.jsonl has a line for each answer, and the sums follow
from it. What is right was decided by the evaluator.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.errors import InputError
from components.evaluations.groups import GROUPS, OFFICIAL, OWN, category_weights, official_means
from components.evaluations.intervals import mean_interval, wilson_interval
from components.files import atomic_write, read_json, sha256_of_json, write_json

SCORES, OUTCOMES = "scores.json", "outcomes.jsonl"
LARGEST_OUTCOMES = 1024 * 2**20  # bytes; some five million answers

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Interval = tuple[Share, Share]


class _Part(BaseModel):
    # An unknown key is refused: what a reader does not know it cannot compare by.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Outcome(_Part):
    """One answer, graded.

    `reason` is "" when it is right, else the evaluator's code. `form` is the code of parse_turn for the whole turn, ""
    for one as trained. `sample` counts from 0. Lengths are in tokens. `finished`: the turn ended by itself.
    """

    id: str
    category: str
    sample: Count = 0
    right: bool
    reason: str
    form: str
    finished: bool
    prompt_tokens: Count
    completion_tokens: Count


class EvaluatedModel(_Part):
    """What was evaluated: `name` for people, `weights_sha256` of its own files (an adapter's only), for machines."""

    name: str
    reference: str
    weights_sha256: str
    base_weights_sha256: str | None = None
    """Of the base model below an adapter; None for a whole model."""


class Evaluator(_Part):
    """Who graded."""

    name: str
    version: str
    data: str


class Sampling(_Part):
    """How the answers were drawn; temperature 0 is greedy."""

    temperature: Annotated[float, Field(ge=0)]
    samples: Annotated[int, Field(ge=1)] = 1
    max_new_tokens: Count
    max_prompt_tokens: Count
    dtype: str
    sampler: str = "transformers"


class Asked(_Part):
    """Which questions: `asked` of the benchmark's `of`, and the sha256 over their ids in order."""

    asked: Count
    of: Count
    sample_per_category: Count
    ids_sha256: str

    @property
    def is_sample(self) -> bool:
        """Whether questions of the categories were left out."""
        return self.asked < self.of


class CategoryScore(_Part):
    """Sums of one category. `correct` is a sum of shares where a question was answered several times."""

    n: Annotated[int, Field(ge=1)]
    of: Count
    correct: Annotated[float, Field(ge=0)]
    accuracy: Share
    interval: Interval
    reasons: dict[str, Count]
    forms: dict[str, Count]
    cut: Count
    mean_completion_tokens: Annotated[float, Field(ge=0)]


class GroupScore(_Part):
    """A mean over those categories of a group that were asked."""

    questions: Count
    accuracy: Share
    interval: Interval


class Scores(_Part):
    """Contents of scores.json. `rescore` is the command that grades the generations again with the official tool."""

    model: EvaluatedModel
    evaluator: Evaluator
    prompt_version: str
    seed: Count
    sampling: Sampling
    questions: Asked
    categories: Annotated[dict[str, CategoryScore], Field(min_length=1)]
    groups: dict[str, GroupScore]
    official: dict[str, Share]
    rescore: str = ""

    @model_validator(mode="after")
    def _adds_up(self) -> Scores:
        for name, entry in self.categories.items():
            if abs(entry.correct - entry.accuracy * entry.n) > 1e-6 * entry.n:
                raise ValueError(
                    f"{name}: {entry.correct:g} of {entry.n} right is not an accuracy of {entry.accuracy:g}"
                )
        if sum(entry.n for entry in self.categories.values()) != self.questions.asked:
            raise ValueError("the categories do not add up to the questions asked")
        return self


@dataclass(frozen=True)
class Evaluation:
    """An evaluation directory in memory; outcomes in the order of the questions, samples of one side by side."""

    scores: Scores
    outcomes: Sequence[Outcome]


def questions_digest(ids: Iterable[str]) -> str:
    """Hex sha256 over the ids, in order: the same digest means the same questions."""
    return sha256_of_json(list(ids))


def make_scores(
    outcomes: Sequence[Outcome],
    sizes: Mapping[str, int],
    *,
    model: EvaluatedModel,
    evaluator: Evaluator,
    prompt_version: str,
    seed: int,
    sampling: Sampling,
    sample_per_category: int,
    rescore: str = "",
) -> Scores:
    """The sums over `outcomes`, and how they were measured.

    Args:
        sizes: number of questions that the benchmark has in each category.
    """
    categories = category_scores(outcomes, sizes)
    accuracy = {name: entry.accuracy for name, entry in categories.items()}
    return Scores(
        model=model,
        evaluator=evaluator,
        prompt_version=prompt_version,
        seed=seed,
        sampling=sampling,
        questions=Asked(
            asked=sum(entry.n for entry in categories.values()),
            of=sum(entry.of for entry in categories.values()),
            sample_per_category=sample_per_category,
            ids_sha256=questions_digest(question_shares(outcomes)),
        ),
        categories=categories,
        groups=group_scores(categories),
        official=official_means(accuracy),
        rescore=rescore,
    )


def question_shares(outcomes: Iterable[Outcome]) -> dict[str, float]:
    """For each question, in order, the share of its samples that are right."""
    marks: dict[str, list[bool]] = {}
    for outcome in outcomes:
        marks.setdefault(outcome.id, []).append(outcome.right)
    return {identifier: sum(found) / len(found) for identifier, found in marks.items()}


def category_scores(outcomes: Sequence[Outcome], sizes: Mapping[str, int]) -> dict[str, CategoryScore]:
    """The sums of each category, in the order in which they were asked."""
    scores = {}
    for category, found in by_category(outcomes).items():
        shares = question_shares(found)
        n, correct = len(shares), sum(shares.values())
        scores[category] = CategoryScore(
            n=n,
            of=sizes[category],
            correct=correct,
            accuracy=correct / n,
            interval=wilson_interval(correct, n),
            reasons=_counts(item.reason for item in found if not item.right),
            forms=_counts(item.form or "ok" for item in found),
            cut=sum(not item.finished for item in found),
            mean_completion_tokens=round(sum(item.completion_tokens for item in found) / len(found), 1),
        )
    return scores


def by_category(outcomes: Iterable[Outcome]) -> dict[str, list[Outcome]]:
    """The outcomes of each category, in order."""
    found: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        found.setdefault(outcome.category, []).append(outcome)
    return found


def group_scores(categories: Mapping[str, CategoryScore]) -> dict[str, GroupScore]:
    """The mean of each group over those of its categories that were asked; a group without any is absent."""
    shares = {name: entry.accuracy for name, entry in categories.items()}
    sizes = {name: entry.n for name, entry in categories.items()}
    groups = {}
    for group, parts in GROUPS.items():
        if weights := category_weights(parts, categories):
            mean, interval = mean_interval(shares, sizes, weights)
            asked = sum(sizes[name] for name in weights)
            groups[group] = GroupScore(questions=asked, accuracy=mean, interval=interval)
    return groups


def _counts(codes: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(codes).items(), key=lambda item: (-item[1], item[0])))


def flat_metrics(scores: Scores) -> dict[str, float]:
    """The scores as metrics: each category, `mean_<group>` over what was asked, and the official overall."""
    metrics = {name: entry.accuracy for name, entry in scores.categories.items()}
    metrics |= {f"mean_{name}": entry.accuracy for name, entry in scores.groups.items() if name not in OWN}
    of_leaderboard = category_weights(OFFICIAL["overall"], scores.categories)
    return metrics | ({"official_overall": scores.official["overall"]} if of_leaderboard else {})


def write_evaluation(folder: Path, evaluation: Evaluation) -> None:
    """Write outcomes.jsonl and then scores.json into `folder`, each whole or not at all."""
    with atomic_write(folder / OUTCOMES) as file:
        file.writelines(outcome.model_dump_json() + "\n" for outcome in evaluation.outcomes)
    write_json(folder / SCORES, evaluation.scores.model_dump(mode="json"))


def holds_evaluation(folder: Path) -> bool:
    """Whether `folder` is meant as an evaluation directory: it has a scores.json, of whatever content."""
    return (folder / SCORES).exists()


def read_scores(folder: Path) -> Scores:
    """scores.json of an evaluation directory.

    Raises:
        InputError: there is none, or it is not one of ours; the text says why.
    """
    path = folder / SCORES
    try:
        return _validated(Scores, json.dumps(read_json(path)), path)
    except FileNotFoundError:
        raise InputError(f"evaluation {folder}: there is no {SCORES}; name the folder of an evaluation") from None


def read_evaluation(folder: Path) -> Evaluation:
    """An evaluation directory: its scores, and the outcomes that they are the sums of.

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
    return Evaluation(scores, outcomes)


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


AnyPart = TypeVar("AnyPart", bound=_Part)


def _validated(kind: type[AnyPart], text: str | bytes, where: object) -> AnyPart:
    """JSON text as `kind`: read as JSON, where a list may stand for a tuple, and strict otherwise."""
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        message = message[:1].lower() + message[1:]
        raise InputError(f"{where}: not ours, because {f'{field}: ' if field else ''}{message}") from None
