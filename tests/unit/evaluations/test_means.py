"""Means of categories: the leaderboard's as the official tool's code has them, those over what was asked by hand."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.evaluations.means import (
    CALLS,
    LIVE,
    MEANS,
    NON_LIVE,
    OFFICIAL,
    SIZES,
    category_weights,
    official_means,
)

SINGLE_TURN = tuple(name for name in SIZES if name != "live_relevance")
EVERYTHING = tuple(category_weights(OFFICIAL["overall"]))
# The official tool's sums of the scores on standard input, as files in the folder it is given. Its registry of models,
# which imports every API client, is replaced by one model.
LEADERBOARD = """
import json, os, sys, types
from pathlib import Path
os.environ["BFCL_PROJECT_ROOT"] = sys.argv[1]
registry = types.ModuleType("bfcl_eval.constants.model_config")
scores = json.load(sys.stdin)
registry.MODEL_CONFIG_MAPPING = {name: types.SimpleNamespace(
    display_name=name, url="u", org="o", license="l", input_price=None, output_price=None, is_fc_model=False
) for name in scores}
sys.modules[registry.__name__] = registry
from bfcl_eval.eval_checker import eval_runner_helper as tool
table = {name: {"cost": {"input_data": [], "output_data": []}, "latency": {"data": []}} for name in scores}
for name, categories in scores.items():
    for category, (accuracy, count) in categories.items():
        tool.record_result(table, name, category, accuracy, count)
tool.generate_leaderboard_csv(table, Path(sys.argv[1]))
"""


def test_the_official_code_gives_the_same_sums(tmp_path):
    sizes = dict.fromkeys(EVERYTHING, 200) | SIZES
    drawn = random.Random(3)
    accuracies = {
        model: {name: drawn.random() for name in asked}
        for model, asked in (("everything", EVERYTHING), ("single-turn", SINGLE_TURN))
    }
    scores = {
        model: {name: (share, sizes[name]) for name, share in accuracy.items()}
        for model, accuracy in accuracies.items()
    }
    subprocess.run(
        [sys.executable, "-c", LEADERBOARD, str(tmp_path)],
        input=json.dumps(scores), text=True, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    with (tmp_path / "data_overall.csv").open() as file:
        rows = {row["Model"]: row for row in csv.DictReader(file)}
    for model, columns in (
        (
            "everything",
            {
                "Overall Acc": "overall",
                "Non-Live AST Acc": "non_live",
                "Live Acc": "live",
                "Multi Turn Acc": "multi_turn",
                "Irrelevance Detection": "irrelevance",
            },
        ),
        ("single-turn", {"Overall Acc": "overall", "Live Acc": "live", "Irrelevance Detection": "irrelevance"}),
    ):
        ours = official_means(accuracies[model])
        for column, mean in columns.items():
            assert rows[model][column] == f"{100 * ours[mean]:.2f}%", (model, column)
    (agentic,) = [row for row in csv.DictReader((tmp_path / "data_agentic.csv").open()) if row["Model"] == "everything"]
    assert agentic["Agentic Overall Acc"] == f"{100 * official_means(accuracies['everything'])['agentic']:.2f}%"


def test_official_overall_of_a_perfect_single_turn_model():
    perfect = dict.fromkeys(SIZES, 1.0)
    means = official_means(perfect)
    # Java and JavaScript are not run: simple is a third; multi-turn and agentic count 0
    assert means["non_live"] == pytest.approx((1 / 3 + 3) / 4)
    assert means["overall"] == pytest.approx(0.1 * means["non_live"] + 0.1 + 0.1)
    assert means["overall_of_asked"] == pytest.approx(1.0)
    with_all = official_means(perfect | {"simple_java": 1.0, "simple_javascript": 1.0})
    assert with_all["overall"] == pytest.approx(0.3)


def test_live_is_weighted_and_the_others_are_not():
    assert category_weights(LIVE)["live_simple"] == pytest.approx(258 / 1351)
    assert category_weights(NON_LIVE, ("simple_python", "multiple")) == {"simple_python": 0.5, "multiple": 0.5}
    assert category_weights(NON_LIVE)["simple_java"] == pytest.approx(1 / 12)
    assert category_weights(CALLS, ("parallel", "live_parallel")) == {"parallel": 0.5, "live_parallel": 0.5}
    assert category_weights(CALLS, ("live_relevance", "irrelevance")) == {}


def test_calls_and_irrelevance_share_no_category():
    assert not set(category_weights(MEANS["calls"])) & set(category_weights(MEANS["irrelevance"]))


@given(st.sets(st.sampled_from(EVERYTHING), min_size=1))
def test_weights_over_what_was_asked_are_a_mean_of_it(asked):
    for mean in [*MEANS.values(), *OFFICIAL.values()]:
        weights = category_weights(mean, asked)
        assert set(weights) == asked & set(category_weights(mean))
        assert not weights or sum(weights.values()) == pytest.approx(1)
        assert all(weight > 0 for weight in weights.values())
