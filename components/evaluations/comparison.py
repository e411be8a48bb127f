"""Comparing is a step of its own, over outcomes: may evaluations be compared, what differs, how sure that is.

Pure functions; compare.py reads the directories and writes the page.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from components.errors import InputError
from components.evaluations.intervals import CONFIDENCE, Changes, Difference, paired_difference
from components.evaluations.means import MEANS, Mean, category_weights
from components.evaluations.schema import Evaluation, Outcome, Scores, by_category, question_shares


@dataclass(frozen=True)
class Comparison:
    """The second evaluation against the first.

    changes: by category. gained, lost: ids of the questions that the second has more, and less, often right.
    """

    changes: Mapping[str, Changes]
    gained: Sequence[str] = ()
    lost: Sequence[str] = ()

    def difference(self, mean: Mean, confidence: float = CONFIDENCE) -> Difference | None:
        """The paired difference of a mean over what was asked; None when no question of it was."""
        weights = category_weights(mean, self.changes)
        return paired_difference(self.changes, weights, confidence) if weights else None

    def category_difference(self, category: str) -> Difference:
        """The paired difference of one category."""
        return paired_difference(self.changes, {category: 1.0})

    def mean_differences(self) -> dict[str, Difference]:
        """The paired difference of every mean of which a question was asked."""
        found = {name: self.difference(mean) for name, mean in MEANS.items()}
        return {name: difference for name, difference in found.items() if difference is not None}


@dataclass(frozen=True)
class Label:
    """The questions that share a label, such as a tool: how many, right before and after, gained and lost."""

    questions: int
    before: float
    after: float
    gained: Sequence[str]
    lost: Sequence[str]


@dataclass(frozen=True)
class Compared:
    """Several models on the same questions: their evaluations by name, and every pair in the order of the names."""

    evaluations: Mapping[str, Evaluation]
    pairs: Mapping[tuple[str, str], Comparison]

    @property
    def scores(self) -> Mapping[str, Scores]:
        """The sums of each model."""
        return {name: evaluation.scores for name, evaluation in self.evaluations.items()}


def obstacles(first: Scores, second: Scores) -> list[str]:
    """What was measured differently, in words; two evaluations may be compared when there is nothing.

    Who sampled (transformers or vLLM) may differ: the distribution drawn from is the same.
    """
    pairs: dict[str, tuple[object, object]] = {
        "evaluator": (_evaluator(first), _evaluator(second)),
        "prompt version": (first.prompt_version, second.prompt_version),
        "questions": (_questions(first), _questions(second)),
        "seed": (first.seed, second.seed),
    }
    own, other = (scores.sampling.model_dump(exclude={"sampler"}) for scores in (first, second))
    pairs |= {name.replace("_", " "): (own[name], other[name]) for name in own}
    return [f"{name}: {one} and {two}" for name, (one, two) in pairs.items() if one != two]


def compare(first: Evaluation, second: Evaluation, names: tuple[str, str] = ("", "")) -> Comparison:
    """Pair the outcomes of two models by question; those on own records are not looked at.

    Args:
        names: what errors call the two, where others than their own.

    Raises:
        InputError: they were measured differently (see obstacles).
    """
    if found := obstacles(first.scores, second.scores):
        one, two = (name or item.scores.model.name for name, item in zip(names, (first, second), strict=True))
        raise InputError(
            f"{two} and {one} cannot be compared, because they were not measured in the same way "
            f"({'; '.join(found)}); evaluate both with the same settings"
        )
    return compare_outcomes(first.outcomes, second.outcomes)


def compare_models(models: Mapping[str, Evaluation]) -> Compared:
    """Pair the outcomes of every two models by question; those on own records are not looked at.

    Raises:
        InputError: two of them were measured differently (see obstacles).
    """
    pairs = {(one, two): compare(models[one], models[two], (one, two)) for one, two in combinations(models, 2)}
    return Compared(models, pairs)


def own_obstacle(models: Mapping[str, Evaluation]) -> str:
    """Why the models cannot be compared on own records, in words; "" where they can, or no model was asked any."""
    asked = {name: one.own.scores for name, one in models.items() if one.own is not None}
    if asked and len(asked) < len(models):
        return f"own records were asked of {' and '.join(asked)} only"
    for (one, first), (two, second) in combinations(asked.items(), 2):
        if found := obstacles(first, second):
            return f"own records were not measured in the same way for {one} and {two} ({'; '.join(found)})"
    return ""


def compare_outcomes(first: Sequence[Outcome], second: Sequence[Outcome]) -> Comparison:
    """Pair outcomes by question; both have answers to the same questions."""
    before, after = question_shares(first), question_shares(second)
    change = {identifier: after[identifier] - before[identifier] for identifier in before}
    return Comparison(
        {
            category: count_changes([change[identifier] for identifier in question_shares(found)])
            for category, found in by_category(first).items()
        },
        gained=[identifier for identifier, moved in change.items() if moved > 0],
        lost=[identifier for identifier, moved in change.items() if moved < 0],
    )


def by_label(
    first: Sequence[Outcome], second: Sequence[Outcome], labels: Mapping[str, Collection[str]]
) -> dict[str, Label]:
    """What changed for each label, the one that lost most first; a question with several labels counts for each.

    Args:
        labels: by the question's id; questions without one are left out.
    """
    before, after = question_shares(first), question_shares(second)
    ids: dict[str, list[str]] = {}
    for identifier in before:
        for label in labels.get(identifier, ()):
            ids.setdefault(label, []).append(identifier)
    found = {
        label: Label(
            len(asked),
            sum(before[one] for one in asked),
            sum(after[one] for one in asked),
            [one for one in asked if after[one] > before[one]],
            [one for one in asked if after[one] < before[one]],
        )
        for label, asked in ids.items()
    }
    return dict(sorted(found.items(), key=lambda item: (item[1].after - item[1].before, item[0])))


def count_changes(changes: Sequence[float]) -> Changes:
    """Sums over the changes of one category's questions."""
    return Changes(
        n=len(changes),
        gained=sum(moved > 0 for moved in changes),
        lost=sum(moved < 0 for moved in changes),
        total=sum(changes),
        squares=sum(moved * moved for moved in changes),
    )


def _evaluator(scores: Scores) -> str:
    return f"{scores.evaluator.name} {scores.evaluator.version}, data {scores.evaluator.data}"


def _questions(scores: Scores) -> str:
    return f"{scores.questions.asked} with sha256 {scores.questions.ids_sha256[:12]}"
