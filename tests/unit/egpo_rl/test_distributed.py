"""Two processes (gloo) do what one does: the same gradients, the same rewards, one set of files."""

from __future__ import annotations

import json

import pytest
import torch
from egpo_support import SMALL, process_group, relative_difference, run_stage, write_gradients
from safetensors import safe_open


def together(children, target, arguments_of):
    """Run `target` in two processes as torchrun would; `arguments_of(rank, environment)`."""
    started = [
        children.Process(target=target, args=arguments_of(rank, environment))
        for rank, environment in enumerate(process_group(2))
    ]
    for child in started:
        child.start()
    for child in started:
        child.join()
    assert [child.exitcode for child in started] == [0, 0]


def read(file):
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in list(opened.keys())}, json.loads(opened.metadata()["figures"])


@pytest.mark.parametrize("kl", [0.0, 0.05])
@pytest.mark.parametrize("groups", [3, 1])
def test_gradients_are_those_of_one_process(children, tiny_model, make_groups, tmp_path, kl, groups):
    groups = make_groups([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]][:groups])
    config = SMALL.model_copy(update={"kl_coefficient": kl})
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
