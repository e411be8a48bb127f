"""Comparing two evaluations: paired by question, and only what was measured in the same way."""

from __future__ import annotations

import pytest

from components.errors import InputError
from components.evaluations.comparison import Label, by_label, compare, obstacles
from components.evaluations.means import BALANCE
from components.evaluations.schema import Evaluator
from tests.evaluation_support import evaluation


def test_questions_are_paired_and_named():
    first = evaluation({"simple_python": "0011", "irrelevance": "111"})
    second = evaluation({"simple_python": "0111", "irrelevance": "001"})
    found = compare(first, second)
    assert found.gained == ["simple_python_1"]
    assert found.lost == ["irrelevance_0", "irrelevance_1"]
    python = found.changes["simple_python"]
    assert (python.n, python.gained, python.lost) == (4, 1, 0)
    differences = found.mean_differences()
    assert differences["calls"].mean == 0.25 and differences["irrelevance"].mean == pytest.approx(-2 / 3)
    assert "multi_turn" not in differences
    assert found.difference(BALANCE).mean == pytest.approx((0.25 - 2 / 3) / 2)


def test_groups_are_weighted_as_their_means_are():
    marks = {"live_simple": "0000", "live_multiple": "0000"}
    one, two = evaluation(marks), evaluation(marks | {"live_multiple": "1111"})
    difference = compare(one, two).mean_differences()["live"]
    assert difference.mean == pytest.approx(two.scores.means["live"].accuracy) == pytest.approx(1053 / 1311)


def test_samples_are_paired_by_question():
    sampled = {"sampling": {"samples": 2}}
    found = compare(
        evaluation({"multiple": "1/0 0/0 1/1"}, **sampled), evaluation({"multiple": "1/1 0/0 0/1"}, **sampled)
    )
    assert (found.gained, found.lost) == (["multiple_0"], ["multiple_2"])
    changes = found.changes["multiple"]
    assert (changes.n, changes.total, changes.squares) == (3, 0.0, 0.5)


@pytest.mark.parametrize(
    ("conditions", "word"),
    [
        ({"evaluator": Evaluator(name="bfcl-eval", version="2", data="BFCL_v4")}, "evaluator"),
        ({"prompt_version": "2"}, "prompt version: 1 and 2"),
        ({"seed": 1}, "seed: 0 and 1"),
        ({"sampling": {"samples": 2}}, "samples: 1 and 2"),
    ],
)
def test_what_was_measured_otherwise_is_named_and_refused(conditions, word):
    one, two = evaluation({"multiple": "10"}), evaluation({"multiple": "11"}, **conditions)
    (found,) = obstacles(one.scores, two.scores)
    assert found.startswith(word)
    with pytest.raises(InputError, match=f"not measured in the same way .*{word}"):
        compare(one, two)


def test_other_questions_are_not_compared():
    for marks in ({"multiple": "101"}, {"parallel": "10"}, {"multiple": "10", "parallel": "1"}):
        with pytest.raises(InputError, match="questions"):
            compare(evaluation({"multiple": "10"}), evaluation(marks))


def test_changes_are_told_by_label_what_lost_most_first():
    first, second = evaluation({"own_calls": "0111"}), evaluation({"own_calls": "1001"})
    ids = [f"own_calls_{n}" for n in range(4)]
    labels = {ids[0]: ["rain"], ids[1]: ["rain", "mail"], ids[2]: ["mail"], ids[3]: ["time"], "another": ["no"]}
    found = by_label(first.outcomes, second.outcomes, labels)
    assert list(found) == ["mail", "rain", "time"]
    assert found["mail"] == Label(2, 2.0, 0.0, [], [ids[1], ids[2]])
    assert found["rain"] == Label(2, 1.0, 1.0, [ids[0]], [ids[1]])


def test_who_sampled_does_not_matter():
    one, two = evaluation({"multiple": "10"}), evaluation({"multiple": "11"}, sampling={"sampler": "vllm"})
    assert compare(one, two).gained == ["multiple_1"]
