"""What an evaluation directory says: the types of its files, and the sums that follow from the outcomes.

scores.json has what was measured, how, and the sums; outcomes.jsonl has a line for each answer, and the sums follow
from it; questions.jsonl.gz has what was asked, for pages. What is right was decided by the evaluator. The files
themselves are directory.py's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from components.evaluations.intervals import mean_interval, wilson_interval
from components.evaluations.means import MEANS, OFFICIAL, OWN, category_weights, official_means
from components.files import sha256_of_json

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Interval = tuple[Share, Share]


class Part(BaseModel):
    # An unknown key is refused: what a reader does not know it cannot compare by.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class Outcome(Part):
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


class EvaluatedModel(Part):
    """What was evaluated: `name` for people, `weights_sha256` of its own files (an adapter's only), for machines."""

    name: str
    reference: str
    weights_sha256: str
    base_weights_sha256: str | None = None
    """Of the base model below an adapter; None for a whole model."""


class Evaluator(Part):
    """Who graded."""

    name: str
    version: str
    data: str


class Sampling(Part):
    """How the answers were drawn; temperature 0 is greedy."""

    temperature: Annotated[float, Field(ge=0)]
    samples: Annotated[int, Field(ge=1)] = 1
    max_new_tokens: Count
    max_prompt_tokens: Count
    dtype: str
    sampler: str = "transformers"


class Asked(Part):
    """Which questions: `asked` of the benchmark's `of`, and the sha256 over their ids in order."""

    asked: Count
    of: Count
    sample_per_category: Count
    ids_sha256: str

    @property
    def is_sample(self) -> bool:
        """Whether questions of the categories were left out."""
        return self.asked < self.of


class CategoryScore(Part):
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


class MeanScore(Part):
    """A mean over those of its categories that were asked (means.py)."""

    questions: Count
    accuracy: Share
    interval: Interval


class Scores(Part):
    """Contents of scores.json. `rescore` is the command that grades the generations again with the official tool."""

    model: EvaluatedModel
    evaluator: Evaluator
    prompt_version: str
    seed: Count
    sampling: Sampling
    questions: Asked
    categories: Annotated[dict[str, CategoryScore], Field(min_length=1)]
    means: dict[str, MeanScore]
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


class AskedQuestion(Part):
    """What was asked: messages, tools and gold as in a record's JSON; `gold` is None where there is no answer key.

    `source` is where one's own record came from, "" for the benchmark's questions.
    """

    id: str
    category: str
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    gold: list[dict[str, Any]] | None
    source: str = ""


@dataclass(frozen=True)
class Evaluation:
    """One model's evaluation; outcomes in the order of the questions, samples of one side by side.

    own: of the same model on one's own records, where they were asked beside the benchmark.
    """

    scores: Scores
    outcomes: Sequence[Outcome]
    own: Evaluation | None = None


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
        means=mean_scores(categories),
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


def mean_scores(categories: Mapping[str, CategoryScore]) -> dict[str, MeanScore]:
    """Every mean over those of its categories that were asked; one without any is absent."""
    shares = {name: entry.accuracy for name, entry in categories.items()}
    sizes = {name: entry.n for name, entry in categories.items()}
    found = {}
    for name, parts in MEANS.items():
        if weights := category_weights(parts, categories):
            mean, interval = mean_interval(shares, sizes, weights)
            asked = sum(sizes[category] for category in weights)
            found[name] = MeanScore(questions=asked, accuracy=mean, interval=interval)
    return found


def _counts(codes: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(codes).items(), key=lambda item: (-item[1], item[0])))


def flat_metrics(scores: Scores) -> dict[str, float]:
    """The scores as metrics: each category, `mean_<mean>` over what was asked, and the official overall."""
    metrics = {name: entry.accuracy for name, entry in scores.categories.items()}
    metrics |= {f"mean_{name}": entry.accuracy for name, entry in scores.means.items() if name not in OWN}
    of_leaderboard = category_weights(OFFICIAL["overall"], scores.categories)
    return metrics | ({"official_overall": scores.official["overall"]} if of_leaderboard else {})
