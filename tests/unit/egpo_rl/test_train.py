"""The stage as a whole on a tiny model: its files and figures, and what wrong input gets."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from components.egpo_rl import loop, rewards, train
from components.egpo_rl.interruption import StoppedError
from components.egpo_rl.update import Learner
from components.errors import InputError, WorkError
from components.files import write_json
from components.function_calls.record import Message
from components.language_models.adapters import adapter_digest
from components.language_models.base_models import resolve_model
from components.language_models.model_card import read_card
from components.language_models.model_directory import load_model, merge_adapter
from tests.unit.egpo_rl.egpo_support import SMALL, change, odd_letters, outputs_of, stage_inputs


@pytest.fixture
def outputs(inputs, tmp_path):
    return outputs_of(inputs, tmp_path / "egpo_rl")


@pytest.fixture
def half_right(monkeypatch):
    """A random model is never right by the real reward; by this one it is, half the time."""
    monkeypatch.setitem(rewards.REWARDS, "binary", odd_letters)


def metrics_of(outputs):
    return [json.loads(line) for line in (outputs.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_a_model_and_its_story(inputs, outputs, half_right, capsys):
    final = train.run(SMALL, inputs, outputs)
    told = capsys.readouterr().out
    assert {"held_out_reward_before", "held_out_reward", "reward"} <= final.keys()
    rise = final["held_out_reward"] - final["held_out_reward_before"]
    assert final["held_out_rise"] == pytest.approx(rise)
    assert f"held out, rise: {rise:+.3f} (standard error {final['held_out_rise_error']:.3f})" in told
    lines = metrics_of(outputs)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        assert {
            "reward", "reward_call", "solved", "loss", "grad_norm", "entropy_answer", "bonus", "bonus_spread",
            "bonus_capped", "dead_all_right", "dead_others", "clip_share", "length", "truncated", "learning_rate",
            "seconds_sample", "seconds_reward", "seconds_reference", "seconds_update", "seconds", "sampler_kl",
            "unique_token_share",
        } <= line.keys()  # fmt: skip
        assert line["unique_token_share"] < 0.5
        assert line["sampler_kl"] < 1e-6, "the sampler and the trainer are the same model"
        assert f"step {line['step']}/3  reward {line['reward']:.3f}" in told
    trained = load_model(resolve_model(outputs.folder / "model"))
    start = load_file(inputs["model"] / "model" / "adapter_model.safetensors")
    end = load_file(outputs.folder / "model" / "adapter_model.safetensors")
    assert any(not torch.equal(start[name], end[name]) for name in start)
    assert trained.model.active_adapter == "default"
    card = read_card(outputs.folder / "model")
    assert (card.stage, card.config["seed"]) == ("egpo_rl", 0)
    assert card.parents == {**outputs.input_digests, "adapter": adapter_digest(trained.model)}
    rows = [json.loads(line) for line in (outputs.folder / "samples.jsonl").read_text().splitlines()]
    assert {row["of"] for row in rows} == {"held out, before", "training", "held out, after"}
    page = (outputs.folder / "report.html").read_text()
    assert "Reward on held-out prompts" in page and "Reward" in page and "wrong_value" in page


def test_a_line_separator_in_a_question_ends_no_run(tmp_path, tiny_model, make_records, half_right):
    records = [
        replace(record, messages=(Message("user", f"one\u2028two\u0085 {record.id}"),)) for record in make_records(30)
    ]
    inputs = stage_inputs(tmp_path, tiny_model, records)
    outputs = outputs_of(inputs, tmp_path / "egpo_rl")
    train.run(change(SMALL, {"steps": 1}), inputs, outputs)
    assert "one\u2028two\u0085" in (outputs.folder / "report.html").read_text()


def test_a_bfloat16_base_trains_a_float32_adapter(inputs, outputs, half_right):
    train.run(change(SMALL, {"dtype": "bfloat16", "update.gradient_checkpointing": True}), inputs, outputs)
    assert all(line["grad_norm"] > 0 and line["sampler_kl"] < 0.01 for line in metrics_of(outputs))
    adapter = load_file(outputs.folder / "model" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_weights_are_trained_from_the_merged_model_on(inputs, outputs, half_right, tmp_path, dtype):
    source = inputs["model"] / "model"
    file = source / "adapter_model.safetensors"
    save_file({name: torch.full_like(tensor, 0.01) for name, tensor in load_file(file).items()}, file)
    write_json(source / "callforge.json", read_card(source).model_copy(update={"parents": {}}).model_dump())
    config = change(
        SMALL,
        {"trained_weights": "all", "dtype": dtype, "update.learning_rate": 1e-3, "algorithm.kl_coefficient": 0.01},
    )
    train.run(change(config, {"steps": 0}), inputs, outputs)
    start = load_file(merge_adapter(resolve_model(source), tmp_path / "merged", "float32") / "model.safetensors")
    untouched = load_file(outputs.folder / "model" / "model.safetensors")
    assert start.keys() == untouched.keys() and all(torch.equal(start[name], untouched[name]) for name in start)
    train.run(config, inputs, outputs)
    assert all(line["grad_norm"] > 0 and line["sampler_kl"] < 0.01 for line in metrics_of(outputs))
    rounding, *_, moved = (line["kl"] for line in metrics_of(outputs))
    assert 0 <= 1e4 * rounding < moved, "reference and policy are computed alike"
    end = load_file(outputs.folder / "model" / "model.safetensors")
    assert all(not torch.equal(start[name], end[name]) and end[name].dtype == torch.float32 for name in start)
    card = read_card(outputs.folder / "model")
    assert (card.stage, card.base_model) == ("egpo_rl", read_card(source).base_model)
    assert {"records", "model"} == card.parents.keys()
    # It can be trained again: the stage takes a whole model where it took an adapter.
    second = inputs | {"model": outputs.folder}
    again = outputs_of(second, tmp_path / "again")
    train.run(change(config, {"steps": 1}), second, again)
    assert load_model(resolve_model(again.folder / "model")).tokenizer.chat_template


def test_a_model_alone_has_nothing_to_shard(inputs, outputs, half_right, capsys):
    train.run(change(SMALL, {"shard_model": True, "steps": 1}), inputs, outputs)
    assert "shard_model has no effect" in capsys.readouterr().out


def test_no_step_leaves_the_adapter_as_it_was(inputs, outputs):
    train.run(change(SMALL, {"steps": 0}), inputs, outputs)
    name = "adapter_model.safetensors"
    start, end = load_file(inputs["model"] / "model" / name), load_file(outputs.folder / "model" / name)
    assert all(torch.equal(start[key], end[key]) for key in start)


def test_a_flat_reward_is_explained_with_an_example(inputs, outputs, capsys):
    final = train.run(SMALL, inputs, outputs)
    told = capsys.readouterr().out
    assert final["reward"] == 0
    assert "every group's rewards are equal: " in told and "are cut at max_new_tokens=10; raise it" in told
    assert told.count("for example:") == 1
    assert all(line["loss"] == 0 and line["dead_others"] == 1 for line in metrics_of(outputs))


def test_refilling_replaces_dead_groups(inputs, outputs, half_right):
    config = change(SMALL, {"rollout.group_size": 2, "rollout.refill_rounds": 3, "rollout.prompts_per_step": 3})
    train.run(config, inputs, outputs)
    lines = metrics_of(outputs)
    assert max(line["groups"] for line in lines) > 3
    for line in lines:
        alive = line["groups"] * (1 - line["dead_all_right"] - line["dead_others"])
        assert alive == pytest.approx(3) or line["groups"] > 3


def test_bad_steps_are_skipped_and_too_many_stop_the_run(inputs, outputs, half_right, capsys, monkeypatch):
    accumulate = Learner.accumulate

    def poisoned(self, batch):
        result = accumulate(self, batch)
        next(iter(self.parameters.values())).grad[0, 0] = float("nan")
        return result

    monkeypatch.setattr(Learner, "accumulate", poisoned)
    with pytest.raises(WorkError, match="not finite in 2 steps in a row"):
        train.run(change(SMALL, {"update.max_bad_steps": 2}), inputs, outputs)
    assert "step skipped (1 in a row)" in capsys.readouterr().out
    assert [line.get("skipped") for line in metrics_of(outputs)] == [1.0, 1.0]


def test_shared_and_padded_paths_that_differ_stop_the_run_before_the_first_step(inputs, outputs, monkeypatch):
    from components.language_models import shared_prefix

    padded = shared_prefix.score_padded

    def broken(model, groups, temperature, **rest):
        return padded(model, groups, temperature * 1.5, **rest)

    monkeypatch.setattr(shared_prefix, "score_padded", broken)
    with pytest.raises(WorkError, match="differ"):
        train.run(SMALL, inputs, outputs)
    assert metrics_of(outputs) == []


def test_shared_and_padded_paths_are_compared_again_after_a_resume(inputs, outputs, half_right, monkeypatch):
    checked = []
    monkeypatch.setattr(loop, "check_sharing", lambda *_, **__: checked.append(torch.is_autocast_enabled("cpu")))
    config = change(SMALL, {"dtype": "bfloat16"})
    train.run(config, inputs, outputs)
    (outputs.checkpoints / "step-0000003.safetensors").unlink()
    train.run(config, inputs, outputs)
    assert checked == [True, True]


@pytest.mark.parametrize("moment", ["before", "after"])
def test_told_to_stop_while_answering_held_out_prompts(inputs, outputs, half_right, monkeypatch, moment):
    answer = loop.sample_held_out

    def stopped(*arguments):
        if arguments[-1].endswith(moment):
            raise StoppedError
        return answer(*arguments)

    monkeypatch.setattr(loop, "sample_held_out", stopped)
    with pytest.raises(WorkError, match=f"at step {0 if moment == 'before' else 3} of 3; start the same run again"):
        train.run(SMALL, inputs, outputs)
    monkeypatch.setattr(loop, "sample_held_out", answer)
    assert "held_out_reward_before" in train.run(SMALL, inputs, outputs)
    rows = [json.loads(line) for line in (outputs.folder / "samples.jsonl").read_text().splitlines()]
    told = [(row["step"], row["of"]) for row in rows if row["of"] != "training"]
    assert told == [(0, "held out, before")] * SMALL.held_out + [(3, "held out, after")] * SMALL.held_out


def test_a_checkpoint_of_another_version_is_passed_over(inputs, outputs, half_right, capsys):
    train.run(SMALL, inputs, outputs)
    for path in outputs.checkpoints.glob("step-*"):
        with safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["state"]) | {"of_another_version": 1}
        save_file(load_file(path), path, {"state": json.dumps(header)})
    train.run(SMALL, inputs, outputs)
    assert "step-0000003.safetensors cannot be read" in capsys.readouterr().out
    assert [line["step"] for line in metrics_of(outputs)] == [1, 2, 3]


def test_a_checkpoint_of_other_settings_is_left_alone(inputs, outputs, half_right, capsys):
    train.run(SMALL, inputs, outputs)
    capsys.readouterr()
    train.run(change(SMALL, {"update.learning_rate": 1e-3}), inputs, outputs)
    told = capsys.readouterr().out
    assert "is of other settings or inputs; it is not used" in told
    assert "resuming after" not in told
    assert [line["step"] for line in metrics_of(outputs)] == [1, 2, 3]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory, tiny_model, make_records):
    """Inputs, and the outputs of an undisturbed run of SMALL."""
    folder = tmp_path_factory.mktemp("small")
    inputs = stage_inputs(folder, tiny_model, make_records(30))
    done = outputs_of(inputs, folder / "egpo_rl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(rewards.REWARDS, "binary", odd_letters)
        train.run(SMALL, inputs, done)
    return inputs, done


def test_more_steps_go_on_from_the_checkpoint_and_fewer_start_again(outputs, small_run, half_right, capsys):
    inputs, unbroken = small_run
    adapter = "model/adapter_model.safetensors"
    train.run(change(SMALL, {"steps": 2}), inputs, outputs)
    train.run(SMALL, inputs, outputs)
    assert "resuming after step 2" in capsys.readouterr().out
    assert [line["step"] for line in metrics_of(outputs)] == [1, 2, 3]
    assert (outputs.folder / adapter).read_bytes() == (unbroken.folder / adapter).read_bytes()
    train.run(change(SMALL, {"steps": 1}), inputs, outputs)
    told = capsys.readouterr().out
    assert "step-0000003.safetensors is of step 3, and the run ends with step 1; it is not used" in told
    assert [line["step"] for line in metrics_of(outputs)] == [1]


OPERATIONAL = {
    "checkpoint.every": 1,
    "checkpoint.keep": 1,
    "update.max_bad_steps": 1,
    "update.unique_tokens_per_pass": 1000,
    "update.gradient_checkpointing": True,
    "shard_model": True,  # one process has nothing to split
    "processes": 1,
    "rollout.sampler_urls": ["http://unused"],
}


def test_settings_that_do_not_decide_the_result_do_not_change_it(outputs, small_run, half_right, capsys):
    inputs, unbroken = small_run
    # No prompt is longer than 1000 - 10 tokens, so the shorter limit leaves the same ones.
    config = change(SMALL, {"rollout.max_prompt_tokens": 900})
    train.run(change(config, {"steps": 1}), inputs, outputs)
    train.run(change(config, OPERATIONAL), inputs, outputs)
    assert "resuming after step 1" in capsys.readouterr().out, "the checkpoint is of the same work"
    for line, expected in zip(metrics_of(outputs), metrics_of(unbroken), strict=True):
        assert line["reward"] == expected["reward"]
        assert line["grad_norm"] == pytest.approx(expected["grad_norm"], rel=1e-4)


def test_a_broken_checkpoint_is_passed_over(inputs, outputs, half_right, capsys):
    train.run(SMALL, inputs, outputs)
    expected = (outputs.folder / "model" / "adapter_model.safetensors").read_bytes()
    newest = outputs.checkpoints / "step-0000003.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    capsys.readouterr()
    train.run(SMALL, inputs, outputs)
    told = capsys.readouterr().out
    assert "step-0000003.safetensors cannot be read" in told and "resuming after step 2" in told
    assert (outputs.folder / "model" / "adapter_model.safetensors").read_bytes() == expected


def test_what_a_killed_run_left_half_written_is_cleared(inputs, outputs, half_right):
    partial = outputs.checkpoints / ".partial-x1y2" / "step-0000002.safetensors"
    adapter = outputs.checkpoints / "adapters" / "rank0" / "policy-v2-z3" / "adapter_config.json"
    for path in (partial, adapter):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    train.run(SMALL, inputs, outputs)
    assert not partial.exists() and not adapter.exists()


def test_only_the_last_checkpoints_are_kept(inputs, outputs, half_right):
    train.run(change(SMALL, {"checkpoint.every": 1, "checkpoint.keep": 1}), inputs, outputs)
    assert [path.name for path in outputs.checkpoints.iterdir()] == ["step-0000003.safetensors"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rollout.max_prompt_tokens": 16}, "max_prompt_tokens"),
        ({"rollout.max_new_tokens": 4096}, "max_new_tokens=4096: no room is left for a prompt"),
    ],
)
def test_settings_that_leave_nothing_to_train_on(inputs, outputs, settings, message):
    with pytest.raises(InputError, match=message):
        train.run(change(SMALL, settings), inputs, outputs)


def test_more_processes_than_gpus_are_refused(inputs, outputs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError, match="3 is more than the 2 GPUs"):
        train.run(change(SMALL, {"processes": 3}), inputs, outputs)


def test_an_adapter_for_other_weights_is_refused(inputs, outputs, tmp_path):
    card = inputs["model"] / "model" / "callforge.json"
    value = json.loads(card.read_text())
    value["base_model"]["sha256"] = "0" * 64
    card.write_text(json.dumps(value))
    with pytest.raises(InputError, match="other weights"):
        train.run(SMALL, inputs, outputs)


def test_an_adapter_that_does_not_fit_is_refused(inputs, outputs):
    file = inputs["model"] / "model" / "adapter_model.safetensors"
    save_file({name: tensor[:, :-1].contiguous() for name, tensor in load_file(file).items()}, file)
    with pytest.raises(InputError, match="adapter"):
        train.run(SMALL, inputs, outputs)


def test_a_model_that_is_no_adapter_is_refused(inputs, outputs, tiny_model):
    with pytest.raises(InputError, match=r"callforge\.json"):
        train.run(SMALL, inputs | {"model": tiny_model}, outputs)
