"""The gate: who may take the champion's place and why not, and how often it errs, in simulation."""

from __future__ import annotations

import numpy as np
import pytest

from components.evaluations.comparison import Comparison
from components.evaluations.groups import SIZES
from components.evaluations.intervals import Changes
from components.model_registration.gate import (
    MARGIN,
    Decision,
    against_base,
    against_champion,
    judge_against_base,
    judge_against_champion,
)
from tests.evaluation_support import evaluation

ASKED = tuple(name for name in SIZES if name != "live_relevance")
CALLS = tuple(name for name in ASKED if "irrelevance" not in name)


def comparisons(of_each: int, gained: float, lost: float, count: int = 1000, **shares: tuple[float, float]):
    """`count` drawn comparisons of two models: a question is gained and lost with those chances, by category.

    of_each: questions of each category, at most as many as there are. shares: other chances for irrelevance.
    """
    generator = np.random.default_rng(0)
    moves = {name: shares.get("irrelevance", (gained, lost)) if name not in CALLS else (gained, lost) for name in ASKED}
    drawn = {}
    for name, (up, down) in moves.items():
        n = min(of_each, SIZES[name])
        drawn[name] = n, generator.multinomial(n, [up, down, 1 - up - down], size=count).tolist()
    for i in range(count):
        found = {}
        for name, (n, rows) in drawn.items():
            up, down, _ = rows[i]
            found[name] = Changes(n, up, down, up - down, up + down)
        yield Comparison(found)


def passed(found, judge=judge_against_champion) -> float:
    decisions = [judge(comparison).passed for comparison in found]
    return sum(decisions) / len(decisions)


FULL = 10_000  # all questions of every category


@pytest.mark.parametrize("of_each", [FULL, 100, 16, 3])
@pytest.mark.parametrize("changed", [0.04, 0.1, 0.3])
def test_of_two_equal_models_one_passes_at_most_five_times_in_a_hundred(of_each, changed):
    assert passed(comparisons(of_each, changed / 2, changed / 2)) <= 0.05 + 0.02  # three standard errors of the draws


@pytest.mark.parametrize("of_each", [FULL, 100, 16, 3])
@pytest.mark.parametrize("changed", [0.05, 0.1, 0.3])
def test_a_model_three_points_worse_passes_at_most_once_in_a_hundred(of_each, changed):
    assert passed(comparisons(of_each, (changed - 0.03) / 2, (changed + 0.03) / 2)) <= 0.01


@pytest.mark.parametrize("changed", [0.06, 0.1, 0.2])
def test_a_model_four_points_better_passes_nine_times_in_ten_on_the_full_set(changed):
    assert passed(comparisons(FULL, (changed + 0.04) / 2, (changed - 0.04) / 2)) >= 0.9


def test_better_calls_with_irrelevance_as_it_was_passes_nine_times_in_ten():
    assert passed(comparisons(FULL, 0.07, 0.03, irrelevance=(0.03, 0.03))) >= 0.9


def test_better_calls_do_not_pay_for_irrelevance_lost():
    assert passed(comparisons(FULL, 0.2, 0.02, irrelevance=(0.02, 0.02 + MARGIN))) <= 0.05
    found = next(comparisons(FULL, 0.2, 0.02, irrelevance=(0.0, 0.15)))
    (failed,) = judge_against_champion(found).reasons("failed")
    assert failed.startswith("irrelevance: it lost more than 5 points: -1")


def test_a_small_sample_decides_nothing_and_says_so():
    decision = judge_against_champion(next(comparisons(3, 0.03, 0.03)))
    assert not decision.passed and not decision.reasons("failed")
    assert "not shown to be better" in decision.reasons("undecided")[0]
    assert all("the questions are too few to tell" in reason for reason in decision.reasons("undecided"))
    assert [reason.split(":")[0] for reason in decision.reasons("undecided")[1:]] == ["non_live", "live", "irrelevance"]


def test_without_a_champion_a_model_is_held_against_its_base():
    # A base that never calls: all calls wrong, all irrelevance right.
    learned = comparisons(FULL, 0.6, 0.0, irrelevance=(0.0, 0.2), count=200)
    assert passed(learned, judge_against_base) == 1.0
    calls_for_everything = comparisons(FULL, 0.08, 0.0, irrelevance=(0.0, 0.9), count=200)
    assert passed(calls_for_everything, judge_against_base) == 0.0
    for of_each in (FULL, 16, 3):
        assert passed(comparisons(of_each, 0.05, 0.05), judge_against_base) <= 0.05


BASE = dict.fromkeys(CALLS, "000") | {"irrelevance": "111", "live_irrelevance": "111"}


def verdicts(decision: Decision) -> list[str]:
    return [rule.verdict for rule in decision.rules]


def test_the_demos_model_does_not_become_champion():
    """8.3 % right in all against its base's 33.3 %: two calls gained, all but one of irrelevance lost."""
    trained = BASE | {"simple_python": "100", "live_simple": "100", "irrelevance": "000", "live_irrelevance": "100"}
    decision = against_base(evaluation(trained), evaluation(BASE))
    assert not decision.passed and verdicts(decision) == ["undecided", "failed"]


def test_a_better_model_passes_with_its_reasons():
    worse, better = (dict.fromkeys(ASKED, "1" * right + "0" * (60 - right)) for right in (24, 45))
    decision = against_champion(evaluation(better), evaluation(worse))
    assert decision.passed and set(verdicts(decision)) == {"met"}
    assert decision.rules[0].reason.startswith("better than the champion in calls and irrelevance: calls +35.0 points")
    back = against_champion(evaluation(worse), evaluation(better))
    assert set(verdicts(back)) == {"failed"} and back.rules[0].reason.startswith("worse than the champion")


def test_the_champion_itself_does_not_take_its_place():
    same = evaluation(dict.fromkeys(ASKED, "10" * 100))
    assert not against_champion(same, same).passed


@pytest.mark.parametrize("judge", [against_base, against_champion])
def test_what_was_measured_otherwise_is_refused(judge):
    decision = judge(evaluation(BASE, seed=1), evaluation(BASE))
    assert verdicts(decision) == ["failed"]
    assert "measured differently from" in decision.rules[0].reason and "seed: 0 and 1" in decision.rules[0].reason


@pytest.mark.parametrize("judge", [against_base, against_champion])
@pytest.mark.parametrize(("asked", "missing"), [("multiple", "irrelevance"), ("irrelevance", "calls")])
def test_one_kind_of_question_decides_nothing(judge, asked, missing):
    decision = judge(evaluation({asked: "1" * 200}), evaluation({asked: "0" * 200}))
    assert verdicts(decision) == ["undecided"] and f"no question of {missing}" in decision.rules[0].reason
