"""The stage's page and final figures, from its metrics.jsonl and samples.jsonl."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.files import read_json_lines
from components.services.report import Examples, Lines, Section, Table, Text, write_report
from components.settings import EgpoRlSettings
from components.stages.folder import METRICS

SAMPLES = "samples.jsonl"
LAST_STEPS = 10
SHOWN_EXAMPLES = 12

_CHARTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("Reward", "reward", ("reward", "reward_call", "reward_no_call")),
    ("Groups without an advantage", "share of groups", ("dead_all_right", "dead_others")),
    ("Entropy", "nats per token", ("entropy_thought", "entropy_answer")),
    ("Entropy bonus", "advantage", ("bonus", "bonus_spread")),
    ("KL to the starting policy", "nats per token", ("kl",)),
    ("Completion length", "tokens", ("length",)),
    ("Cut completions", "share of rollouts", ("truncated",)),
    ("Gradient norm", "norm before clipping", ("grad_norm",)),
    ("Seconds per step", "seconds", ("seconds_sample", "seconds_reward", "seconds_reference", "seconds_update")),
)


def write_training_report(folder: Path, config: EgpoRlSettings, held_out: Mapping[str, float]) -> dict[str, float]:
    """Write report.html; returns the stage's final metrics.

    Args:
        held_out: step_log's held_out_metrics before (named `..._before`) and after training, and held_out_rise.
    """
    steps = _rows(folder / METRICS)
    final = dict(held_out)
    last = [line["reward"] for line in steps[-LAST_STEPS:] if "reward" in line]
    if last:
        final["reward"] = sum(last) / len(last)
    summary = {
        "algorithm": config.algorithm.name,
        "steps": len(steps),
        "held-out reward before": held_out.get("held_out_reward_before"),
        "held-out reward after": held_out.get("held_out_reward"),
        "held-out rise": held_out.get("held_out_rise"),
        "standard error of the rise": held_out.get("held_out_rise_error"),
        "reward, last steps": final.get("reward"),
    }
    sections: list[Section] = []
    if not steps:
        sections.append(Text("No step was made", "The weights are those this stage was given."))
    if held_out:
        kinds = [name for name in held_out if f"{name}_before" in held_out]
        rows = [[name.removeprefix("held_out_"), held_out[f"{name}_before"], held_out[name]] for name in kinds]
        sections.append(
            Table(
                "Held-out prompts",
                ["", "before", "after"],
                rows,
                f"Never trained on; {config.rollout.group_size} rollouts each, strict rule.",
            )
        )
    charts = [(title, label, {name: _points(steps, name) for name in names}) for title, label, names in _CHARTS]
    charts.insert(1, ("Why rollouts failed", "share of rollouts", _reasons(steps)))
    for title, label, series in charts:
        drawn = {name: points for name, points in series.items() if points}
        if drawn:
            sections.append(Lines(title, "step", label, drawn))
    sections.append(Examples("Sample completions", _examples(folder / SAMPLES)))
    write_report(folder / "report.html", "EGPO reinforcement learning", summary, sections)
    return final


def _points(steps: Iterable[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(line["step"], line[name]) for line in steps if name in line]


def _reasons(steps: Sequence[Mapping[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """The curves of the most frequent reasons; a step that does not name one had none of it."""
    totals: dict[str, float] = defaultdict(float)
    for line in steps:
        for name, value in line.items():
            if name.startswith("failure/"):
                totals[name] += value
    top = sorted(totals, key=lambda name: -totals[name])[:6]
    return {name.removeprefix("failure/"): [(line["step"], line.get(name, 0.0)) for line in steps] for name in top}


def _examples(path: Path) -> list[tuple[str, dict[str, str]]]:
    items = []
    for row in _rows(path)[-SHOWN_EXAMPLES:]:
        verdict = "right" if not row["reason"] else row["reason"]
        texts = {
            "question": row["question"],
            "completion": row["completion"],
            "gold": json.dumps(row["gold"], ensure_ascii=False),
        }
        items.append((f"step {row['step']} ({row['of']}): {verdict}, reward {row['reward']:g}", texts))
    return items


def _rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; none where it was never written."""
    return read_json_lines(path) if path.exists() else []
