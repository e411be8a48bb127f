"""Promotion and rollback on a real MLflow registry."""

from __future__ import annotations

import json

import pytest

from components.errors import InputError
from components.model_registration.promotion import holder, promote, roll_back
from components.services.tracking import mlflow_client


@pytest.fixture
def registry(services, tmp_path):
    """`registry(0.5)` registers a version with that score; `.alias(name)` is who holds an alias."""

    class Registry:
        def __init__(self):
            self.client = mlflow_client()
            self.name = tmp_path.name
            self.client.create_registered_model(self.name)

        def __call__(self, overall: float | None) -> str:
            tags = {}
            if overall is not None:
                tags = {"bfcl.overall_single_turn": f"{overall:.4f}", "bfcl.simple_python": f"{overall:.4f}"}
            version = self.client.create_model_version(self.name, "s3://callforge/x", tags=tags).version
            self.client.set_registered_model_alias(self.name, "candidate", version)
            return str(version)

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
    assert any("60.0%" in line for line in lines)
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
    with pytest.raises(InputError, match=r"30\.0%"):
        promote(registry.name, bad, "champion")
    assert registry.alias("champion") == good
    assert registry.tags(bad)["callforge.gate"] == "failed"
    assert json.loads(registry.tags(bad)["callforge.gate_reasons"])["failed"]
    promote(registry.name, bad, "champion", force=True)
    assert registry.alias("champion") == bad and registry.alias("previous_champion") == good
    assert registry.tags(bad)["callforge.gate"] == "forced"


def test_a_version_without_scores_is_refused(registry):
    with pytest.raises(InputError, match="evaluate it"):
        promote(registry.name, registry(None), "champion")


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
