"""The arithmetic of scores: intervals, the paired test, the leaderboard's sums. Known values from the literature."""

from __future__ import annotations

import json
from itertools import product
from math import comb

import pytest

from components.bfcl_eval.questions import SIZES
from components.bfcl_eval.scores import (
    Graded,
    category_scores,
    compare,
    flat_metrics,
    official_groups,
    run_groups,
    summary_table,
    wilson_interval,
)
from components.errors import InputError

PYTHON = tuple(name for name in SIZES if name != "live_relevance")


@pytest.mark.parametrize(
    ("correct", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_newcombes_published_values(correct, n, low, high):
    """Newcombe 1998, Statistics in Medicine 17:857, table I, method 3."""
    assert wilson_interval(correct, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_at_the_ends():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert wilson_interval(7, 7)[1] == 1.0 and wilson_interval(0, 7)[0] == 0.0


def outcomes(better: int, worse: int, both: int = 0, neither: int = 0) -> tuple[dict[str, bool], dict[str, bool]]:
    pairs = [(False, True)] * better + [(True, False)] * worse + [(True, True)] * both + [(False, False)] * neither
    first = {str(i): before for i, (before, _) in enumerate(pairs)}
    return first, {str(i): after for i, (_, after) in enumerate(pairs)}


@pytest.mark.parametrize(("better", "worse"), [(9, 1), (1, 9), (5, 5), (0, 6), (12, 3), (300, 250)])
def test_mcnemar_is_the_binomial_test_on_the_changed(better, worse):
    pair = compare(*outcomes(better, worse, both=20, neither=30))
    n, k = better + worse, min(better, worse)
    assert pair.p == pytest.approx(min(1.0, 2 * sum(comb(n, i) for i in range(k + 1)) / 2**n), rel=1e-9)
    assert pair.difference == pytest.approx((better - worse) / pair.n)
    low, high = pair.interval
    assert low <= pair.difference <= high and low < high
    # the test at 5 % and the interval are two views of one thing
    assert (low > 0 or high < 0) == (pair.p < 0.05)


def test_the_interval_of_a_difference_is_clopper_pearsons():
    pair = compare(*outcomes(8, 2, both=90))  # 8 of 10: 0.4439 to 0.9748 in every table
    assert pair.interval == pytest.approx(((2 * 0.44390 - 1) / 10, (2 * 0.97479 - 1) / 10), abs=2e-5)


def test_nothing_changed_says_nothing():
    pair = compare(*outcomes(0, 0, both=4, neither=3))
    assert (pair.n, pair.better, pair.worse, pair.p, pair.difference, pair.interval) == (7, 0, 0, 1.0, 0.0, None)
    assert compare({}, {}).difference == 0.0


def test_swapping_the_models_mirrors_the_pair():
    one, two = outcomes(7, 3, both=5)
    pair, mirrored = compare(one, two), compare(two, one)
    assert mirrored.difference == -pair.difference and mirrored.p == pair.p
    assert mirrored.interval == pytest.approx((-pair.interval[1], -pair.interval[0]))


def test_official_overall_of_a_perfect_single_turn_model():
    perfect = dict.fromkeys(SIZES, 1.0)
    groups = official_groups(perfect)
    # Java and JavaScript are not run: simple is a third; multi-turn and agentic count 0
    assert groups["non_live"] == pytest.approx((1 / 3 + 3) / 4)
    assert groups["overall"] == pytest.approx(0.1 * groups["non_live"] + 0.1 + 0.1)
    assert official_groups(perfect | {"simple_java": 1.0, "simple_javascript": 1.0})["overall"] == pytest.approx(0.3)
    assert run_groups(perfect) == dict.fromkeys(("non_live", "live", "irrelevance", "overall_single_turn"), 1.0)


def test_live_is_weighted_and_the_others_are_not():
    accuracy = {"live_simple": 1.0, "live_multiple": 0.0, "live_parallel": 0.0, "live_parallel_multiple": 0.0}
    assert official_groups(accuracy)["live"] == pytest.approx(258 / 1351)
    assert run_groups({"simple_python": 1.0, "multiple": 0.0})["non_live"] == 0.5
    assert official_groups({"irrelevance": 1.0})["irrelevance"] == 0.5


def test_what_was_not_run_is_left_out_of_the_run_means():
    assert run_groups({"live_relevance": 1.0}) == {}
    assert run_groups({"irrelevance": 0.4}) == {"irrelevance": 0.4, "overall_single_turn": 0.4}
    assert run_groups({"live_simple": 0.5, "live_parallel": 0.5}) == pytest.approx(
        {"live": 0.5, "overall_single_turn": 0.5}
    )


def graded(category: str, rights: str) -> list[Graded]:
    return [
        Graded(f"{category}_{i}", category, mark == "1", "" if mark == "1" else f"reason {mark}", "", mark != "c", 10)
        for i, mark in enumerate(rights)
    ]


def test_category_scores_count_everything():
    scores = category_scores(graded("multiple", "11ab0bc") + graded("irrelevance", "1"))
    entry = scores["multiple"]
    assert (entry["n"], entry["of"], entry["correct"], entry["cut"]) == (7, 200, 2, 1)
    assert list(entry["reasons"].items()) == [("reason b", 2), ("reason 0", 1), ("reason a", 1), ("reason c", 1)]
    assert sum(entry["reasons"].values()) + entry["correct"] == entry["n"] == sum(entry["format"].values())
    assert scores["irrelevance"]["accuracy"] == 1.0


def scores_of(accuracy: float) -> dict:
    categories = category_scores(
        [item for name in PYTHON for item in graded(name, ("1" * round(10 * accuracy)).ljust(10, "0"))]
    )
    shares = {name: entry["accuracy"] for name, entry in categories.items()}
    return {"categories": categories, "over_what_was_run": run_groups(shares), "official": official_groups(shares)}


def test_metrics_keep_category_and_group_of_one_name_apart():
    scores = scores_of(1.0)
    scores["categories"]["irrelevance"]["accuracy"] = 0.25
    metrics = flat_metrics(scores)
    assert metrics["irrelevance"] == 0.25 and metrics["mean_irrelevance"] != 0.25
    assert set(PYTHON) < set(metrics) and {"overall_single_turn", "official_overall"} < set(metrics)


def test_summary_table_has_a_column_for_each_model_there_is(tmp_path):
    for name, accuracy in (("base", 0.1), ("egpo_rl", 0.9)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scores.json").write_text(json.dumps(scores_of(accuracy)))
    columns, rows = summary_table(tmp_path)
    assert columns == ["category", "questions", "base", "EGPO"]
    assert [row[0] for row in rows[: len(PYTHON)]] == list(PYTHON)
    assert rows[0] == ["simple_python", "10 of 400", "10.0 %", "90.0 %"]
    assert all(len(row) == 4 and row[3].endswith(" %") for row in rows)
    assert len({row[0] for row in rows}) == len(rows)


@pytest.mark.parametrize("content", [None, "", "{"])
def test_a_broken_evaluation_folder_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "scores.json").write_text(content)
    with pytest.raises(InputError, match=str(tmp_path)):
        summary_table(tmp_path)


def test_every_group_of_outcomes_adds_up():
    for better, worse, both, neither in product((0, 2), (0, 3), (0, 1), (1, 4)):
        pair = compare(*outcomes(better, worse, both, neither))
        assert pair.n == better + worse + both + neither and 0 <= pair.p <= 1
