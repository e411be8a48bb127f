"""Killed at any moment and started again, a run ends with the same metrics and the same adapter, to the bit."""

from __future__ import annotations

import json
import os
import random
import signal

import pytest
import torch

from components.egpo_rl.checkpoint import Checkpoints, State
from tests.unit.egpo_rl.egpo_support import (
    SMALL,
    Interruption,
    change,
    let_go,
    run_stage,
    save_large_checkpoint,
    stage_inputs,
    wait_for_hold,
)

CONFIG = change(
    SMALL,
    {
        "steps": 8,
        "algorithm.kl_coefficient": 0.01,
        "rollout.retire_solved": True,
        "rollout.refill_rounds": 1,
        "update.learning_rate": 1e-3,
    },
)


def results(folder):
    """Everything a run leaves behind but its seconds."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{name: value for name, value in line.items() if "seconds" not in name} for line in metrics]
    (weights,) = (folder / "model").glob("*.safetensors")
    names = ("samples.jsonl", "pass_rates.json", "final.json")
    files = (*(folder / name for name in names), weights, folder / "model/callforge.json")
    return metrics, [file.read_bytes() for file in files]


@pytest.fixture(scope="module", params=["adapter", "all"])
def config(request):
    return change(CONFIG, {"trained_weights": request.param})


@pytest.fixture(scope="module")
def unbroken(children, tmp_path_factory, tiny_model, make_records, config):
    """Inputs, what an undisturbed run leaves, and the CPU seconds that a step takes."""
    folder = tmp_path_factory.mktemp("unbroken")
    inputs = stage_inputs(folder, tiny_model, make_records(30))
    child = start(children, inputs, folder / "egpo_rl", config)
    child.join()
    assert child.exitcode == 0
    first, *_, last = json.loads((folder / "egpo_rl" / "cpu_seconds.json").read_text())
    return inputs, results(folder / "egpo_rl"), (last - first) / (CONFIG.steps - 1)


def start(children, inputs, folder, config, interruption=None):
    child = children.Process(target=run_stage, args=(inputs, folder, config, None, interruption))
    child.start()
    return child


def move_checkpoints(folder, elsewhere):
    """As a pod that goes on with an empty folder, and what S3 keeps."""
    elsewhere.mkdir()
    return (folder / "checkpoints").rename(elsewhere / "checkpoints").parent


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(children, unbroken, config, tmp_path, seed):
    inputs, expected, seconds = unbroken
    folder = tmp_path / "egpo_rl"
    moments = random.Random(seed)
    ends = []
    for step in sorted(moments.sample(range(CONFIG.steps - 1), 2)):
        child = start(children, inputs, folder, config, Interruption(step, moments.uniform(0, seconds / 2)))
        child.join()
        ends.append(child.exitcode)
    # Steps differ in length: the first may die so late that too little is left for the second to die in.
    assert ends in ([-Interruption.DEATH] * 2, [-Interruption.DEATH, 0])
    child = start(children, inputs, folder, config)
    child.join()
    assert child.exitcode == 0
    assert results(folder) == expected


def test_told_to_stop_writes_a_checkpoint_and_goes_on(children, unbroken, config, tmp_path):
    inputs, expected, _ = unbroken
    folder = tmp_path / "egpo_rl"
    rarely = change(config, {"checkpoint.every": 100})
    child = start(children, inputs, folder, rarely, Interruption(3))
    wait_for_hold(child, folder, 3)
    os.kill(child.pid, signal.SIGTERM)
    let_go(folder)
    child.join()
    assert child.exitcode == 1
    steps = [int(path.stem.removeprefix("step-")) for path in (folder / "checkpoints").glob("step-*")]
    assert max(steps) >= 3
    folder = move_checkpoints(folder, tmp_path / "elsewhere")
    child = start(children, inputs, folder, rarely)
    child.join()
    assert child.exitcode == 0
    metrics, files = results(folder)
    assert (metrics, files[:-1]) == (expected[0], expected[1][:-1]), "all but the card, which names the setting"


def test_a_checkpoint_is_written_without_a_second_copy_of_it_in_memory(children, tmp_path):
    child = children.Process(target=save_large_checkpoint, args=(tmp_path / "checkpoints", tmp_path / "grown"))
    child.start()
    child.join()
    # Half a copy tells none from one; what libraries load at the first save depends on the machine.
    assert float((tmp_path / "grown").read_text()) < 40e6, "a second copy would take 80 MB"
    state = Checkpoints(tmp_path / "checkpoints", "", keep=1).newest("same", 1)
    assert {name: tensor[-1].item() for name, tensor in state.tensors.items()} == {str(n): n for n in range(20)}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-0000001.safetensors"]


@pytest.fixture
def two_checkpoints(tmp_path):
    """A folder with the checkpoints of steps 1 and 2, and the bytes of the newer file."""
    with Checkpoints(tmp_path, "", keep=2) as checkpoints:
        for step in (1, 2):
            tensors = {
                "weights/a": torch.full((7, 5), float(step)),
                "weights/b": torch.arange(40, dtype=torch.bfloat16).reshape(2, 20),
                "optimizer/step/a": torch.tensor(float(step)),
                "file/metrics.jsonl": torch.zeros(0, dtype=torch.uint8),
            }
            checkpoints.save(State(step, "same", 0, {"3": {"visits": step}}, [], 0, [], None, tensors))
    return tmp_path, (tmp_path / "step-0000002.safetensors").read_bytes()


def test_no_flipped_bit_in_a_checkpoint_is_taken(two_checkpoints, capsys):
    folder, content = two_checkpoints
    file = folder / "step-0000002.safetensors"
    choose = random.Random(0)
    places = sorted(choose.sample(range(8 * len(content)), 150)) + list(
        range(8 * (len(content) - 230), 8 * len(content), 8)
    )
    for place in places:
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << place % 8
        file.write_bytes(damaged)
        state = Checkpoints(folder, "", keep=2).newest("same", 9)
        assert state is not None and state.step == 1, f"bit {place}"
        assert capsys.readouterr().out.count("it is not used") == 1
    file.write_bytes(content)
    assert Checkpoints(folder, "", keep=2).newest("same", 9).step == 2


def test_zeroed_and_cut_checkpoints_are_passed_over_and_written_again(two_checkpoints):
    folder, content = two_checkpoints
    file = folder / "step-0000002.safetensors"
    for damaged in (content[:-300] + bytes(300), bytes(len(content)), content[:-1], b""):
        file.write_bytes(damaged)
        state = Checkpoints(folder, "", keep=1).newest("same", 9)
        assert state.step == 1
    with Checkpoints(folder, "", keep=1) as checkpoints:
        checkpoints.save(state)
        assert checkpoints.newest("same", 9).step == 1, "the damaged one of a later step does not push it out"
