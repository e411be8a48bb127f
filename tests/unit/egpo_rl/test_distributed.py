"""Two processes (gloo) do what one does: the same gradients, the same rewards, one set of files."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from datetime import timedelta

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from components.egpo_rl import follower, train
from components.errors import WorkError
from components.language_models.samplers import vllm_server
from components.services.tracking import Tracker
from components.settings import RunSettings
from components.stages import catalogue, processes
from components.stages.catalogue import find_stage
from components.stages.folder import verified_manifest
from components.stages.outputs import Outputs
from tests.unit.egpo_rl.egpo_support import (
    SMALL,
    Interruption,
    change,
    execute_together,
    lead_with,
    let_go,
    meet_late,
    process_group,
    relative_difference,
    run_stage,
    sum_numbered_gradients,
    wait_for_hold,
    write_gradients,
)


def begin(children, target, arguments_of):
    """Start `target` in two processes as torchrun would; `arguments_of(rank, environment)`."""
    started = [
        children.Process(target=target, args=arguments_of(rank, environment))
        for rank, environment in enumerate(process_group(2))
    ]
    for child in started:
        child.start()
    return started


def end(started):
    """Their exit codes."""
    for child in started:
        child.join()
    return [child.exitcode for child in started]


def together(children, target, arguments_of):
    """Run `target` in two processes to a good end."""
    assert end(begin(children, target, arguments_of)) == [0, 0]


def story(folder):
    """The curves of a run but for the seconds, and its adapter."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    curves = [{name: value for name, value in line.items() if "seconds" not in name} for line in lines]
    return curves, (folder / "model" / "adapter_model.safetensors").read_bytes()


def read(file):
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in list(opened.keys())}, json.loads(opened.metadata()["figures"])


@pytest.mark.parametrize("kl", [0.0, 0.05])
@pytest.mark.parametrize("groups", [3, 1])
def test_gradients_are_those_of_one_process(children, tiny_model, make_groups, tmp_path, kl, groups):
    groups = make_groups([[1.0, 0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]][:groups])
    config = change(SMALL, {"algorithm.kl_coefficient": kl})
    alone = children.Process(target=write_gradients, args=(tiny_model, groups, config, tmp_path / "one", {}))
    alone.start()
    alone.join()
    together(
        children,
        write_gradients,
        lambda rank, environment: (tiny_model, groups, config, tmp_path / "two", environment),
    )
    (one, one_figures), (two, two_figures) = read(tmp_path / "one"), read(tmp_path / "two")
    torch.testing.assert_close(two.pop("loss"), one.pop("loss"), rtol=1e-5, atol=1e-7)
    assert relative_difference(two, one) < 1e-5
    assert two_figures == pytest.approx(one_figures, rel=1e-4)


def test_gradients_are_added_up_in_place_a_bucket_at_a_time(children, tmp_path):
    sizes = [1, 1000, 300_000, 10_000_000, *[1_000_000] * 10, 7]  # of 80 MB
    together(
        children,
        sum_numbered_gradients,
        lambda rank, environment: (sizes, 100_000, tmp_path / "sums", environment),
    )
    sums = load_file(tmp_path / "sums")
    assert sums.pop("grown") < 20e6, "a second copy of all would take 80 MB"
    last = len(sizes) - 1
    for place, size in enumerate(sizes):
        expected = last if place == last else 2 * place + 1
        assert torch.equal(sums[str(place)], torch.full((size,), float(expected)))


def test_the_leader_may_be_away_for_as_long_as_servers_take(children):
    asked = (len(vllm_server.PAUSES) + 1) * vllm_server.TIMEOUT + sum(vllm_server.PAUSES)
    assert processes.PATIENCE.total_seconds() > 5 * asked, "a rollout, its adapter again, the rollout, and a reserve"

    def away(seconds, patience):
        return begin(children, meet_late, lambda rank, environment: (seconds, patience, environment))

    assert end(away(2.0, processes.PATIENCE)) == [0, 0]
    leader, follower = away(100.0, timedelta(seconds=1))
    assert end([follower]) != [0], "nobody waits for longer than PATIENCE"
    leader.kill()
    leader.join()


def test_a_run_starts_its_other_processes_itself(children, inputs, tmp_path):
    config = change(SMALL, {"processes": 2})
    alone = children.Process(target=run_stage, args=(inputs, tmp_path / "one", config))
    alone.start()
    alone.join()
    assert alone.exitcode == 0
    # The follower has the real reward, by which a random model is never right: half the groups are dead for sure.
    lines = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert [line["groups"] for line in lines] == [4.0] * SMALL.steps
    assert all(line["dead_others"] >= 0.5 for line in lines)


def test_a_follower_that_fails_ends_the_run(children, inputs, tmp_path):
    broken = [sys.executable, "-c", "raise SystemExit(3)"]
    child = children.Process(target=lead_with, args=(broken, inputs, tmp_path / "one"))
    child.start()
    child.join()
    assert child.exitcode == 1


def test_a_follower_helps_the_leaders_stage_in_its_folder_and_tells_its_errors(inputs, tmp_path, monkeypatch, capsys):
    second = dataclasses.replace(find_stage("egpo_rl"), name="egpo_rl-2")
    monkeypatch.setattr(catalogue, "STAGES", (*catalogue.STAGES, second))
    seen = []

    def failing(config, given, outputs):
        seen.append((config, given, outputs.stage, outputs.checkpoints))
        raise WorkError("the disk is full")

    command = train.follower_command(SMALL, inputs, Outputs(tmp_path / "egpo_rl-2", Tracker(), RunSettings(), second))
    monkeypatch.setattr(train, "run", failing)
    monkeypatch.setattr(sys, "argv", command[2:])
    monkeypatch.setattr(follower, "_end_with_leader", lambda: None)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit, match="1"):
        follower.main()
    assert seen == [(SMALL, inputs, second, tmp_path / "egpo_rl-2" / "checkpoints")]
    assert "(rank 1): the disk is full" in capsys.readouterr().out


def test_a_whole_run(children, inputs, tmp_path):
    alone = children.Process(target=run_stage, args=(inputs, tmp_path / "one", SMALL))
    alone.start()
    alone.join()
    together(children, run_stage, lambda rank, environment: (inputs, tmp_path / f"rank{rank}", SMALL, environment))
    one, two = ((tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("one", "rank0"))
    assert len(two) == len(one) == SMALL.steps
    for line_one, line_two in zip(map(json.loads, one), map(json.loads, two), strict=True):
        assert line_two["reward"] == line_one["reward"]
        assert line_two["grad_norm"] == pytest.approx(line_one["grad_norm"], rel=1e-3)
    assert [path for path in (tmp_path / "rank1").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("told", [[1], [0, 1]])
def test_told_to_stop_all_stop_together_and_the_checkpoint_is_written(children, inputs, tmp_path, told):
    config = change(SMALL, {"steps": 8, "checkpoint.every": 100, "algorithm.kl_coefficient": 0.01})

    def arguments_of(name, interruption=None):
        return lambda rank, environment: (inputs, tmp_path / f"{name}{rank}", config, environment, interruption)

    together(children, run_stage, arguments_of("unbroken"))
    started = begin(children, run_stage, arguments_of("stopped", Interruption(2)))
    wait_for_hold(started[0], tmp_path / "stopped0", 2)
    for rank in told:
        os.kill(started[rank].pid, signal.SIGTERM)
    let_go(tmp_path / "stopped0")
    assert end(started) == [1, 1]
    (newest,) = (tmp_path / "stopped0" / "checkpoints").glob("step-*[1-9].safetensors")
    assert int(newest.stem.removeprefix("step-")) >= 2
    together(children, run_stage, arguments_of("stopped"))
    assert story(tmp_path / "stopped0") == story(tmp_path / "unbroken0")


def test_only_the_first_process_of_a_stage_owns_what_is_written(children, tmp_path):
    for _ in range(2):
        together(children, execute_together, lambda _, environment: (tmp_path, "works", environment))
    # The second time, both heard that the work is done.
    assert (tmp_path / "calls-0").read_text() == (tmp_path / "calls-1").read_text() == "Tracker of egpo_rl\n"
    manifest = verified_manifest(tmp_path / "egpo_rl")
    assert manifest is not None and manifest.metrics == {"rank": 0.0}


def test_a_first_process_that_is_killed_leaves_no_manifest(children, tmp_path):
    started = begin(children, execute_together, lambda _, environment: (tmp_path, "killed", environment))
    started[0].join()
    started[1].join(60)  # its peer is gone
    started[1].kill()
    started[1].join()
    assert started[0].exitcode == -signal.SIGKILL
    assert verified_manifest(tmp_path / "egpo_rl") is None
    together(children, execute_together, lambda _, environment: (tmp_path, "works", environment))
    assert (tmp_path / "calls-1").read_text().count("\n") == 2, "it was not done already"


@pytest.mark.parametrize("why", ["an input is missing", "the folder is another's"])
def test_a_refusal_reaches_every_process(children, tmp_path, why):
    if why == "the folder is another's":
        (tmp_path / "egpo_rl").mkdir()
        (tmp_path / "egpo_rl" / "thesis.txt").touch()
    started = begin(children, execute_together, lambda _, environment: (tmp_path, "refused", environment))
    assert end(started) == [2, 2]
    assert (tmp_path / "refused-0").read_text() == (tmp_path / "refused-1").read_text()
