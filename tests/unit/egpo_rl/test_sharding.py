"""A model split over two processes (gloo) is the model of one: gradients, sampling, a whole run, a checkpoint."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from components.language_models.base_models import resolve_model
from components.language_models.model_directory import load_model
from tests.unit.egpo_rl.egpo_support import (
    SMALL,
    Interruption,
    change,
    let_go,
    process_group,
    relative_difference,
    run_stage,
    wait_for_hold,
    write_gradients,
)
from tests.unit.egpo_rl.test_distributed import read, together

REWARDS = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]]  # two and one


@pytest.mark.parametrize("kl", [0.0, 0.5])
@pytest.mark.parametrize(("trained", "recomputed"), [("adapter", False), ("adapter", True), ("all", False)])
def test_gradients_are_those_of_one_process(children, tiny_model, make_groups, tmp_path, trained, recomputed, kl):
    groups = make_groups(REWARDS)
    longest = max(len(group.tokens.prompt) for group in groups)
    config = change(
        SMALL,
        {
            "trained_weights": trained,
            "update.gradient_checkpointing": recomputed,
            "algorithm.kl_coefficient": kl,
            "rollout.max_prompt_tokens": longest,
            "update.unique_tokens_per_pass": longest + 20,
        },
    )
    alone = children.Process(target=write_gradients, args=(tiny_model, groups, config, tmp_path / "one", {}))
    alone.start()
    alone.join()
    split = change(config, {"shard_model": True})
    together(
        children,
        write_gradients,
        lambda rank, environment: (tiny_model, groups, split, tmp_path / "two", environment),
    )
    (one, one_figures), (two, two_figures) = read(tmp_path / "one"), read(tmp_path / "two")
    for name in ("loss", "norm"):
        torch.testing.assert_close(two.pop(name), one.pop(name), rtol=1e-5, atol=1e-7)
    assert relative_difference(two, one) < 1e-5
    assert two_figures == pytest.approx(one_figures, rel=1e-4)


def run_twice(children, inputs, tmp_path, config):
    """The same run in one process and, sharded, in two: metrics and model folders of each."""
    alone = children.Process(target=run_stage, args=(inputs, tmp_path / "one", config))
    alone.start()
    alone.join()
    assert alone.exitcode == 0
    split = change(config, {"shard_model": True})
    together(children, run_stage, lambda rank, environment: (inputs, tmp_path / f"rank{rank}", split, environment))
    assert [path for path in (tmp_path / "rank1").rglob("*") if path.is_file()] == []
    one, two = tmp_path / "one", tmp_path / "rank0"
    return metrics_of(one), metrics_of(two), one / "model", two / "model"


def metrics_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def weights_of(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize(("trained", "prompts"), [("adapter", 1), ("all", 3)])  # the second process has none, or one
def test_a_whole_run(children, inputs, tiny_model, tmp_path, trained, prompts):
    config = change(
        SMALL,
        {
            "trained_weights": trained,
            "rollout.prompts_per_step": prompts,
            "update.learning_rate": 1e-3,
            "algorithm.kl_coefficient": 0.01,
        },
    )
    one, two, model_one, model_two = run_twice(children, inputs, tmp_path, config)
    for line_one, line_two in zip(one, two, strict=True):
        assert line_two["reward"] == line_one["reward"]
        assert line_two["grad_norm"] == pytest.approx(line_one["grad_norm"], rel=1e-3)
        assert line_two["kl"] == pytest.approx(line_one["kl"], rel=1e-2, abs=1e-7)
        assert line_two["sampler_kl"] < 1e-6, "the copy that is sampled from has the weights of the trainer"
    assert one[0]["kl"] < 1e-7 < 1e-5 < one[-1]["kl"], "the reference is the policy at the start"
    start = weights_of(inputs["model"] / "model") if trained == "adapter" else weights_of(tiny_model)
    moved = relative_difference(weights_of(model_one), start)
    assert relative_difference(weights_of(model_two), weights_of(model_one)) < 1e-4 < 1e-3 < moved
    assert (
        load_model(resolve_model(model_two)).tokenizer.get_vocab()
        == load_model(resolve_model(model_one)).tokenizer.get_vocab()
    )


@pytest.mark.parametrize("trained", ["adapter", "all"])
def test_in_bfloat16_the_copy_samples_as_the_parts_compute(children, inputs, tmp_path, trained):
    config = change(
        SMALL,
        {
            "trained_weights": trained,
            "dtype": "bfloat16",
            "update.gradient_checkpointing": True,
            "update.learning_rate": 1e-3,
        },
    )
    one, two, model_one, model_two = run_twice(children, inputs, tmp_path, config)
    assert all(line["grad_norm"] > 0 and line["sampler_kl"] < 0.01 for line in (*one, *two))
    for model in (model_one, model_two):
        assert {tensor.dtype for tensor in weights_of(model).values()} == {torch.float32}


def test_told_to_stop_all_processes_do_and_go_on_to_the_same_numbers(children, inputs, tmp_path):
    config = change(
        SMALL,
        {
            "trained_weights": "all",
            "shard_model": True,
            "steps": 6,
            "algorithm.kl_coefficient": 0.1,
            "checkpoint.every": 9,
        },
    )

    def start(folder, interruption=None):
        arguments = [
            (inputs, folder / f"rank{rank}", config, one, interruption) for rank, one in enumerate(process_group(2))
        ]
        started = [children.Process(target=run_stage, args=own) for own in arguments]
        for child in started:
            child.start()
        return started

    def finish(started):
        for child in started:
            child.join()
        return [child.exitcode for child in started]

    assert finish(start(tmp_path / "unbroken")) == [0, 0]
    folder = tmp_path / "stopped"
    started = start(folder, Interruption(2))
    wait_for_hold(started[0], folder / "rank0", 2)
    os.kill(started[0].pid, signal.SIGTERM)  # as a preempted pod gets it: only the leader
    let_go(folder / "rank0")
    assert finish(started) == [1, 1]
    steps = [int(path.stem.removeprefix("step-")) for path in (folder / "rank0/checkpoints").glob("step-*")]
    assert 2 <= max(steps) < 6, "a checkpoint where it stopped"
    assert finish(start(folder)) == [0, 0]
    ends = [tmp_path / name / "rank0" for name in ("unbroken", "stopped")]
    one, two = ([without_seconds(line) for line in metrics_of(end)] for end in ends)
    assert one == two
    one, two = ((end / "model/model.safetensors").read_bytes() for end in ends)
    assert one == two


def without_seconds(line):
    return {name: value for name, value in line.items() if "seconds" not in name}
