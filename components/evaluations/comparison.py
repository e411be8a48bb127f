"""Two evaluations on the same questions: may they be compared, what differs, and how sure that is. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.errors import InputError
from components.evaluations.groups import GROUPS, Mean, category_weights
from components.evaluations.intervals import Changes, Difference, paired_difference
from components.evaluations.schema import Evaluation, Outcome, Scores, by_category, question_shares


@dataclass(frozen=True)
class Comparison:
    """The second evaluation against the first.

    changes: by category. gained, lost: ids of the questions that the second has more, and less, often right.
    """

    changes: Mapping[str, Changes]
    gained: Sequence[str] = ()
    lost: Sequence[str] = ()

    def difference(self, mean: Mean) -> Difference | None:
        """The paired difference of a mean over what was asked; None when no question of it was."""
        weights = category_weights(mean, self.changes)
        return paired_difference(self.changes, weights) if weights else None

    def category_difference(self, category: str) -> Difference:
        """The paired difference of one category."""
        return paired_difference(self.changes, {category: 1.0})

    def group_differences(self) -> dict[str, Difference]:
        """The paired difference of every group of which a question was asked."""
        found = {group: self.difference(mean) for group, mean in GROUPS.items()}
        return {group: difference for group, difference in found.items() if difference is not None}


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


def compare(first: Evaluation, second: Evaluation) -> Comparison:
    """Pair the outcomes of two models by question.

    Raises:
        InputError: they were measured differently (see obstacles).
    """
    if found := obstacles(first.scores, second.scores):
        raise InputError(
            f"{second.scores.model.name} and {first.scores.model.name} cannot be compared, because they were not "
            f"measured in the same way ({'; '.join(found)}); evaluate both with the same settings"
        )
    return compare_outcomes(first.outcomes, second.outcomes)


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
