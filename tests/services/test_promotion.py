"""Promotion and rollback on a real MLflow registry."""

from __future__ import annotations

import json

import pytest

from components.errors import InputError
from components.evaluations.schema import write_evaluation
from components.model_registration.evidence import publish_evaluation
from components.model_registration.promotion import holder, promote, roll_back
from components.services.mlflow_server import mlflow_client
from tests.evaluation_support import evaluation

ASKED = ("simple_python", "live_simple", "irrelevance")


@pytest.fixture
def registry(services, root, tmp_path):
    """`registry(0.5)` registers a version that has half of 200 questions of each kind right; its base has none.

    `.alias(name)` is who holds an alias.
    """

    class Registry:
        def __init__(self):
            self.client = mlflow_client()
            self.name = tmp_path.name
            self.client.create_registered_model(self.name)

        def __call__(self, share: float | None, **conditions) -> str:
            tags = {}
            if share is not None:
                tags = {
                    "callforge.evaluation": self.published(share, **conditions),
                    "callforge.base_evaluation": self.published(0.0, **conditions),
                }
            version = self.client.create_model_version(self.name, "s3://callforge/x", tags=tags).version
            self.client.set_registered_model_alias(self.name, "candidate", version)
            return str(version)

        def published(self, share: float, **conditions) -> str:
            right = round(200 * share)
            marks = "1" * right + "0" * (200 - right)
            write_evaluation(tmp_path, evaluation(dict.fromkeys(ASKED, marks), **conditions))
            return publish_evaluation(tmp_path, f"{root}/{tmp_path.name}")

        def alias(self, alias: str) -> str | None:
            return holder(self.client, self.name, alias)

        def tags(self, version: str) -> dict[str, str]:
            return dict(self.client.get_model_version(self.name, version).tags)

    return Registry()


def test_the_way_to_champion_and_back(registry):
    first = registry(0.50)
    promote(registry.name, "candidate", "challenger")
    assert registry.alias("challenger") == first and registry.alias("candidate") is None
    promote(registry.name, "challenger", "champion")
    assert registry.alias("champion") == first and registry.alias("challenger") is None

    second, third = registry(0.55), registry(0.60)
    promote(registry.name, second, "champion")
    assert (registry.alias("champion"), registry.alias("previous_champion")) == (second, first)
    assert registry.alias("candidate") == third, "another version's alias is left alone"
    lines = promote(registry.name, third, "champion")
    assert lines[0].startswith("gate: met: better than the champion in calls and irrelevance: calls +5.0 points")
    assert (registry.alias("champion"), registry.alias("previous_champion")) == (third, second)

    roll_back(registry.name)
    assert (registry.alias("champion"), registry.alias("previous_champion")) == (second, first)
    assert "callforge.rolled_back" in registry.tags(third)
    roll_back(registry.name)
    assert (registry.alias("champion"), registry.alias("previous_champion")) == (first, None)
    with pytest.raises(InputError, match="previous_champion"):
        roll_back(registry.name)


def test_the_gate_refuses_and_says_so_on_the_version(registry):
    good, bad = registry(0.50), registry(0.30)
    promote(registry.name, good, "champion")
    with pytest.raises(InputError, match=r"worse than the champion: calls -20\.0 points"):
        promote(registry.name, bad, "champion")
    assert registry.alias("champion") == good
    assert registry.tags(bad)["callforge.gate"] == "failed"
    verdicts = [rule["verdict"] for rule in json.loads(registry.tags(bad)["callforge.gate_reasons"])]
    assert verdicts == ["failed"] * 4
    promote(registry.name, bad, "champion", force=True)
    assert registry.alias("champion") == bad and registry.alias("previous_champion") == good
    assert registry.tags(bad)["callforge.gate"] == "forced"


def test_a_version_without_scores_is_refused(registry):
    with pytest.raises(InputError, match="evaluate it"):
        promote(registry.name, registry(None), "champion")


def test_a_first_champion_is_held_against_its_base(registry):
    no_better = registry(0.0)
    with pytest.raises(InputError, match="calls: not shown to be better than its base"):
        promote(registry.name, no_better, "champion")
    assert registry.alias("champion") is None
    promote(registry.name, registry(0.5), "champion")


def test_a_version_whose_base_was_not_evaluated_is_refused(registry):
    version = registry(0.5)
    registry.client.delete_model_version_tag(registry.name, version, "callforge.base_evaluation")
    with pytest.raises(InputError, match="its base was not evaluated beside it"):
        promote(registry.name, version, "champion")


def test_a_champion_that_was_measured_otherwise_is_said(registry):
    promote(registry.name, registry(0.5), "champion")
    with pytest.raises(InputError, match=r"not measured as the champion was .seed: 0 and 1"):
        promote(registry.name, registry(0.9, seed=1), "champion")


def test_an_evaluation_that_is_gone_from_s3_is_named(registry):
    version = registry(0.5)
    registry.client.set_model_version_tag(registry.name, version, "callforge.evaluation", "s3://callforge/no/such")
    with pytest.raises(InputError, match="s3://callforge/no/such: there is nothing"):
        promote(registry.name, version, "champion")


def test_promoting_the_champion_again_changes_nothing(registry):
    first, second = registry(0.5), registry(0.6)
    promote(registry.name, first, "champion")
    promote(registry.name, second, "champion")
    assert "already" in promote(registry.name, second, "champion")[0]
    assert registry.alias("previous_champion") == first


@pytest.mark.parametrize("version", ["99", "nobody"])
def test_missing_versions_are_named(registry, version):
    registry(0.5)
    with pytest.raises(InputError, match=version):
        promote(registry.name, version, "champion")


def test_a_missing_model_is_named(services):
    with pytest.raises(InputError, match="no-such-model"):
        promote("no-such-model", "candidate", "champion")
    with pytest.raises(InputError, match="no-such-model"):
        roll_back("no-such-model")


def test_an_alias_that_promotion_does_not_give_is_named(registry):
    version = registry(0.50)
    with pytest.raises(InputError, match="challenger or champion is wanted, not 'candidat'"):
        promote(registry.name, version, "candidat")
    assert registry.alias("challenger") is None and registry.alias("candidate") == version
