"""The words for a step: metrics of its groups, and the reason when nothing can be learnt."""

from __future__ import annotations

import pytest

from components.egpo_rl.step_log import (
    FLAT_STEPS,
    Explainer,
    GroupFacts,
    HeldOut,
    held_out_metrics,
    held_out_rise,
    reward_metrics,
)


def group(reasons: list[str], calls_wanted: bool = True) -> GroupFacts:
    return GroupFacts(
        index=0,
        calls_wanted=calls_wanted,
        rewards=[float(not reason) for reason in reasons],
        solved=[not reason for reason in reasons],
        reasons=reasons,
        lengths=[10] * len(reasons),
        finished=[reason != "truncated" for reason in reasons],
        examples={reason: f"text of {reason}" for reason in reasons},
    )


RIGHT, HALF = group(["", ""]), group(["", "wrong_value"])


def explain(*groups: GroupFacts) -> list[str]:
    return Explainer(64).explain(groups, reward_metrics(groups))


def test_metrics_by_kind_and_reason():
    metrics = reward_metrics([HALF, group(["called", ""], False), group(["no_thought", "no_thought"])])
    assert metrics["reward"] == pytest.approx(2 / 6)
    assert metrics["reward_call"] == pytest.approx(1 / 4)
    assert metrics["reward_no_call"] == pytest.approx(1 / 2)
    assert metrics["dead_others"] == pytest.approx(1 / 3)
    assert metrics["dead_all_right"] == 0
    assert {name: share for name, share in metrics.items() if name.startswith("failure/")} == {
        "failure/called": pytest.approx(1 / 6),
        "failure/no_thought": pytest.approx(2 / 6),
        "failure/wrong_value": pytest.approx(1 / 6),
    }


@pytest.mark.parametrize(
    ("groups", "reason", "example"),
    [
        ([RIGHT, RIGHT], "every rollout is right", None),
        ([group(["truncated"] * 2)], "are cut at max_new_tokens=64", "text of truncated"),
        ([group(["no_thought", "no_newline", "no_thought"])], "the format is not met", "text of no_thought"),
        ([group(["wrong_value", "wrong_name", "wrong_value"])], "no rollout is right", "text of wrong_value"),
        ([RIGHT, group(["wrong_name"] * 2)], "50% of the groups are all right, 50% all wrong", "text of wrong_name"),
    ],
)
def test_a_step_without_advantages_says_why(groups, reason, example):
    text = "\n".join(explain(*groups))
    assert reason in text
    assert ("for example" in text) == (example is not None)
    assert example is None or example in text


def test_nothing_is_said_while_there_is_something_to_learn():
    assert explain(HALF, RIGHT) == []


def test_a_reward_that_stays_is_explained_and_the_example_given_once():
    explainer = Explainer(64)
    texts = ["\n".join(explainer.explain([HALF], reward_metrics([HALF]))) for _ in range(FLAT_STEPS + 1)]
    assert texts[: FLAT_STEPS - 1] == [""] * (FLAT_STEPS - 1)
    assert f"flat for {FLAT_STEPS} steps" in texts[-2] and "text of wrong_value" in texts[-2]
    assert "flat" in texts[-1] and "for example" not in texts[-1]


def test_the_rise_on_held_out_prompts_is_of_each_prompt_against_itself():
    before = [HeldOut(3, True, 0.0), HeldOut(5, True, 0.5), HeldOut(8, False, 1.0)]
    after = [HeldOut(8, False, 1.0), HeldOut(3, True, 0.5), HeldOut(5, True, 0.75)]
    assert held_out_metrics(before) == {
        "held_out_reward": 0.5, "held_out_reward_call": 0.25, "held_out_reward_no_call": 1.0
    }  # fmt: skip
    # differences 0.5, 0.25, 0: mean 0.25, standard deviation 0.25
    assert held_out_rise(before, after) == pytest.approx({"held_out_rise": 0.25, "held_out_rise_error": 0.25 / 3**0.5})


def test_an_error_wants_two_prompts():
    assert held_out_rise([HeldOut(0, True, 0.0)], [HeldOut(0, True, 1.0)]) == {"held_out_rise": 1.0}
    assert held_out_rise([], []) == {} == held_out_metrics([])
