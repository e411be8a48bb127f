"""Promotion and rollback on a real MLflow registry."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from components.errors import GateError, InputError, WorkError
from components.evaluations.directory import write_evaluation
from components.model_registration import change, promotion
from components.model_registration.evidence import publish_evaluation
from components.model_registration.gate import Decision, Rule
from components.model_registration.promotion import promote, roll_back
from components.model_registration.registry import holder
from components.services.mlflow_server import mlflow_client
from pipelines import cli
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
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            write_evaluation(folder, evaluation(dict.fromkeys(ASKED, marks), **conditions))
            return publish_evaluation(folder, f"{root}/{tmp_path.name}")

        def alias(self, alias: str) -> str | None:
            return holder(self.client, self.name, alias)

        def tags(self, version: str) -> dict[str, str]:
            return dict(self.client.get_model_version(self.name, version).tags)

    return Registry()


@pytest.fixture
def open_gate(monkeypatch):
    """Every version passes: what is tried is how aliases move."""
    monkeypatch.setattr(promotion, "decide", lambda *_: Decision((Rule("met", "open"),)))


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
    with pytest.raises(GateError, match=r"worse than the champion: calls -20\.0 points"):
        promote(registry.name, bad, "champion")
    assert registry.alias("champion") == good
    assert registry.tags(bad)["callforge.gate"] == "failed"
    verdicts = [rule["verdict"] for rule in json.loads(registry.tags(bad)["callforge.gate_reasons"])]
    assert verdicts == ["failed"] * 4
    promote(registry.name, bad, "champion", force=True)
    assert registry.alias("champion") == bad and registry.alias("previous_champion") == good
    assert registry.tags(bad)["callforge.gate"] == "forced"


def test_a_version_without_scores_is_refused(registry):
    with pytest.raises(GateError, match="evaluate it"):
        promote(registry.name, registry(None), "champion")


def test_a_first_champion_is_held_against_its_base(registry):
    no_better = registry(0.0)
    with pytest.raises(GateError, match="not shown to be better than its base: calls"):
        promote(registry.name, no_better, "champion")
    assert registry.alias("champion") is None
    promote(registry.name, registry(0.5), "champion")


def test_own_records_are_in_the_way_of_a_champion_that_lost_on_them(registry):
    """They are beside the evaluation in S3, and read again from there."""
    asked = {"own_calls": "1" * 200}
    promote(registry.name, registry(0.5, own=evaluation(asked)), "champion")
    worse = registry(0.7, own=evaluation(asked | {"own_calls": "10" * 100}))
    with pytest.raises(GateError, match=r"own calls: it lost more than 5 points: -50\.0 points"):
        promote(registry.name, worse, "champion")
    unasked = registry(0.7)
    with pytest.raises(GateError, match="own records: only the champion was asked some"):
        promote(registry.name, unasked, "champion")


def test_a_version_whose_base_was_not_evaluated_is_refused(registry):
    version = registry(0.5)
    registry.client.delete_model_version_tag(registry.name, version, "callforge.base_evaluation")
    with pytest.raises(GateError, match="its base was not evaluated beside it"):
        promote(registry.name, version, "champion")


def test_a_champion_that_was_measured_otherwise_is_said(registry):
    promote(registry.name, registry(0.5), "champion")
    with pytest.raises(GateError, match=r"measured differently from the champion .seed: 0 and 1"):
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
    with pytest.raises(InputError, match="challenger or champion is expected, not 'candidat'"):
        promote(registry.name, version, "candidat")
    assert registry.alias("challenger") is None and registry.alias("candidate") == version


def test_rolling_back_walks_the_list_of_champions(registry, open_gate):
    """After 1, 2, 3 and 2 again, it does not go to and fro between the last two."""
    one, two, three = registry(None), registry(None), registry(None)
    for version in (one, two, three, two):
        promote(registry.name, version, "champion")
    ends = []
    for _ in range(3):
        roll_back(registry.name)
        ends.append(registry.alias("champion"))
    assert ends == [three, two, one]


def test_a_champion_set_in_mlflow_itself_is_on_the_way_back(registry, open_gate):
    one, two, three = registry(None), registry(None), registry(None)
    promote(registry.name, one, "champion")
    registry.client.set_registered_model_alias(registry.name, "champion", two)
    promote(registry.name, three, "champion")
    assert registry.tags(three)["callforge.gate_champion"] == two
    roll_back(registry.name)
    assert (registry.alias("champion"), registry.alias("previous_champion")) == (two, one)


def test_a_version_is_a_number(registry, open_gate):
    registry(None)
    second = registry(None)
    promote(registry.name, second, "champion")
    assert promote(registry.name, f"0{second}", "champion") == [
        f"{registry.name} version {second} is the champion already"
    ]
    assert registry.alias("previous_champion") is None


class Killed(BaseException):
    """The process ends here."""


def killed_at(monkeypatch, number: int) -> None:
    """Let the process die before its write `number` (of aliases and tags), from 0."""
    from mlflow import MlflowClient

    left = [number]
    for name in (
        "set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag",
        "set_registered_model_tag", "delete_registered_model_tag",
    ):  # fmt: skip
        real = getattr(MlflowClient, name)

        def write(*arguments, real=real, **named):
            if left[0] <= 0:
                raise Killed
            left[0] -= 1
            return real(*arguments, **named)

        monkeypatch.setattr(MlflowClient, name, write)


def state(registry):
    aliases = {name: registry.alias(name) for name in ("candidate", "challenger", "champion", "previous_champion")}
    tags = registry.client.get_registered_model(registry.name).tags
    return aliases, json.loads(tags["callforge.champions"]), [name for name in tags if "change" in name]


@pytest.mark.parametrize("number", range(1, 10))
def test_a_promotion_that_was_killed_is_finished_by_the_next_call(registry, open_gate, monkeypatch, number):
    first, second = registry(None), registry(None)
    promote(registry.name, first, "champion")
    with monkeypatch.context() as patch:
        killed_at(patch, number)
        with pytest.raises(Killed):
            promote(registry.name, second, "champion")
    assert promote(registry.name, second, "champion")
    aliases, champions, plans = state(registry)
    assert aliases == {"candidate": None, "challenger": None, "champion": second, "previous_champion": first}
    assert champions == [first, second] and plans == []


@pytest.mark.parametrize("number", range(2, 7))
def test_a_rollback_that_was_killed_goes_back_once(registry, open_gate, monkeypatch, number):
    one, two, three = registry(None), registry(None), registry(None)
    for version in (one, two, three):
        promote(registry.name, version, "champion")
    with monkeypatch.context() as patch:
        killed_at(patch, number)
        with pytest.raises(Killed):
            roll_back(registry.name)
    roll_back(registry.name)
    aliases, champions, plans = state(registry)
    assert (aliases["champion"], aliases["previous_champion"]) == (two, one)
    assert champions == [one, two] and plans == []


def test_of_two_promotions_at_once_the_better_version_ends_as_champion(registry):
    """Whoever comes second is compared with whoever came first."""
    first, worse, better = registry(0.2), registry(0.4), registry(0.7)
    promote(registry.name, first, "champion")
    ends = []

    def run(version):
        try:
            ends.append(promote(registry.name, version, "champion"))
        except GateError as error:
            ends.append(str(error))

    threads = [threading.Thread(target=run, args=(version,)) for version in (worse, better)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == 2 and registry.alias("champion") == better
    _, champions, plans = state(registry)
    assert champions in ([first, worse, better], [first, better]) and plans == []
    assert registry.tags(better)["callforge.gate_champion"] == champions[-2]


def test_another_change_under_way_is_waited_for_and_then_named(registry, open_gate, monkeypatch):
    version = registry(None)
    monkeypatch.setattr(change, "PATIENCE_SECONDS", 0.0)
    seven = "promoting version 7 to champion"
    with change.sole_change(registry.client, registry.name, seven), pytest.raises(WorkError, match=f"{seven} is under"):
        promote(registry.name, version, "champion")
    promote(registry.name, version, "champion")


def test_a_change_that_was_taken_for_dead_writes_nothing(registry, open_gate, monkeypatch):
    first, second = registry(None), registry(None)
    write = change.Write(kind="alias", name="champion", version=first)
    with (
        pytest.raises(WorkError, match="another change has begun"),
        change.sole_change(registry.client, registry.name, "promoting version 1 to champion") as slow,
    ):
        monkeypatch.setattr(change, "_is_gone", lambda *_: True)  # as on another machine, after LEASE_SECONDS
        promote(registry.name, second, "champion")
        slow.carry_out([write])
    assert registry.alias("champion") == second


@pytest.mark.parametrize("value", ["", "[" * 3000, '{"what": 1}', "no json"])
def test_junk_among_the_announced_changes_stops_nobody(registry, open_gate, value):
    version = registry(None)
    registry.client.set_registered_model_tag(registry.name, "callforge.change.junk", value)
    registry.client.set_registered_model_tag(registry.name, "callforge.champions", value)
    promote(registry.name, version, "champion")
    assert state(registry)[1:] == ([version], [])


def test_the_command_finds_the_embedded_registry_and_a_refusal_has_its_own_exit_code(
    registry, forget_services, monkeypatch, capsys
):
    version = registry(0.0)
    forget_services()
    monkeypatch.setattr(sys, "argv", ["callforge", "promote", registry.name, version])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 3
    assert f"{registry.name} version {version} may not be champion" in capsys.readouterr().err
