"""The gate: who may take the champion's place, and why not."""

from __future__ import annotations

import pytest

from components.model_registration.gate import MAX_REGRESSION, decide


def tags(overall: str = "0.5000", **changes: str) -> dict[str, str]:
    """Tags as registration writes them."""
    found = {
        "bfcl.simple_python": "0.6000",
        "bfcl.irrelevance": "0.4000",
        "bfcl.mean_non_live": "0.6000",
        "bfcl.mean_irrelevance": "0.4000",
        "bfcl.overall_single_turn": overall,
        "bfcl.official_overall": "0.1000",
        "bfcl.evaluator": "bfcl-eval 2026.3.23",
        "bfcl.questions": "40 of 640",
        "bfcl.questions_sha256": "aa",
        "bfcl.sampling": '{"temperature": 0.0}',
        "callforge.commit": "abc",
    }
    return found | {f"bfcl.{name}": value for name, value in changes.items()}


def test_the_first_champion_only_has_to_be_evaluated():
    assert decide(tags(), None).passed
    decision = decide({"callforge.commit": "abc"}, None)
    assert not decision.passed and "evaluate it" in decision.failed[0]


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (tags("0.4900"), ["overall_single_turn 49.0%", "50.0%"]),
        (tags("0.6000", simple_python="0.5700"), ["simple_python", "3.0% worse"]),
        (tags("0.9000", questions_sha256="bb"), ["questions_sha256", "evaluate both alike"]),
        (tags("0.9000", evaluator="bfcl-eval 2027"), ["evaluator"]),
        (tags("0.9000", sampling='{"temperature": 1.0}'), ["sampling"]),
        (tags("0.9000", multiple="0.9000"), ["categories"]),
    ],
    ids=[
        "worse in sum",
        "worse in one category",
        "other questions",
        "other evaluator",
        "other sampling",
        "other categories",
    ],
)
def test_refusals_have_a_reason(candidate, words):
    decision = decide(candidate, tags())
    assert len(decision.failed) == 1
    for word in words:
        assert word in decision.failed[0]


def test_as_good_as_the_champion_is_good_enough():
    assert decide(tags(), tags()).passed
    assert decide(tags("0.5500", simple_python="0.7000"), tags()).passed


def test_a_small_loss_in_one_category_is_allowed():
    allowed = f"{0.6 - MAX_REGRESSION + 0.001:.4f}"
    assert decide(tags(simple_python=allowed), tags()).passed


def test_every_broken_rule_is_named():
    decision = decide(tags("0.3000", simple_python="0.3000", irrelevance="0.1000"), tags())
    assert len(decision.failed) == 3


def test_group_means_are_no_categories():
    """They fall with their categories; to count both would refuse twice."""
    assert decide(tags("0.5000", mean_non_live="0.1000"), tags()).passed
