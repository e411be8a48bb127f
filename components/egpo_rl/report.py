"""The stage's page and final figures, from its metrics.jsonl and samples.jsonl."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.files import read_json_lines
from components.services.report import Block, Detail, Details, Lines, SmallMultiples, Table, write_report
from components.services.turn_texts import offered_texts, prompt_text, turn_texts
from components.settings import EgpoRlSettings
from components.stages.folder import METRICS

SAMPLES = "samples.jsonl"
LAST_STEPS = 10
SHOWN_SAMPLES = 200

_CHARTS: tuple[tuple[str, str, Mapping[str, str]], ...] = (
    ("Reward", "mean of the rollouts", {"reward": "all", "reward_call": "calls", "reward_no_call": "no call"}),
    ("Groups without an advantage", "share", {"dead_all_right": "all right", "dead_others": "others"}),
    ("Entropy", "nats per token", {"entropy_thought": "thought", "entropy_answer": "answer"}),
    ("Entropy bonus", "advantage", {"bonus": "mean", "bonus_spread": "spread"}),
    ("KL to the starting policy", "nats per token", {"kl": "kl"}),
    ("Completion length", "tokens", {"length": "length"}),
    ("Cut completions", "share of rollouts", {"truncated": "cut"}),
    ("Gradient norm", "before clipping", {"grad_norm": "norm"}),
    (
        "Seconds",
        "per step",
        {f"seconds_{part}": part for part in ("sample", "reward", "reference", "update")},
    ),
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
    charts = [
        Lines(title, unit, {name: _points(steps, metric) for metric, name in series.items()})
        for title, unit, series in _CHARTS
    ]
    charts.insert(1, Lines("Why rollouts failed", "share of rollouts", _reasons(steps)))
    samples = _rows(folder / SAMPLES)
    blocks: list[Block] = [SmallMultiples("Training", "step", charts)] if steps else []
    if held_out:
        kinds = [name for name in held_out if f"{name}_before" in held_out]
        rows = [[_kind(name), held_out[f"{name}_before"], held_out[name]] for name in kinds]
        note = f"Never trained on; {config.rollout.group_size} rollouts each, strict rule."
        blocks.append(Table("Reward on held-out prompts", ["prompts", "before", "after"], rows, note))
    failed = [row for row in samples if row["reason"]]
    blocks += [
        _details("Failures", failed),
        _details("Right completions", [row for row in samples if not row["reason"]]),
    ]
    sentence = _sentence(config.algorithm.name, len(steps), held_out, final.get("reward"))
    write_report(folder / "report.html", "EGPO reinforcement learning", sentence, blocks)
    return final


def _sentence(algorithm: str, steps: int, held_out: Mapping[str, float], reward: float | None) -> str:
    if not steps:
        return "No step was made: the weights are those this stage was given."
    parts = []
    if "held_out_reward" in held_out:
        names = [name for name in ("held_out_reward_call", "held_out_reward_no_call") if name in held_out]
        kinds = "; ".join(f"{_kind(name)} {held_out[f'{name}_before']:.3f} to {held_out[name]:.3f}" for name in names)
        change = f"{held_out['held_out_reward_before']:.3f} to {held_out['held_out_reward']:.3f}"
        error = held_out.get("held_out_rise_error")
        margin = f", a rise of {held_out['held_out_rise']:+.3f} with a standard error of {error:.3f}" if error else ""
        parts.append(f"the reward on held-out prompts went from {change}{f' ({kinds})' if kinds else ''}{margin}")
    if reward is not None:
        parts.append(f"the training reward ended at {reward:.3f}, the mean of the last {min(steps, LAST_STEPS)} steps")
    return f"In {steps:,} steps of {algorithm.upper()}, {'; '.join(parts) or 'no prompt was rewarded'}."


def _kind(name: str) -> str:
    return {"_call": "calls", "_no_call": "no call"}.get(name.removeprefix("held_out_reward"), "all")


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


def _details(title: str, rows: Sequence[Mapping[str, Any]]) -> Details:
    """Samples to open, the newest first."""
    shown = rows[: -SHOWN_SAMPLES - 1 : -1]
    left_out = f"The newest {len(shown)} of {len(rows):,}; {SAMPLES} has all." if len(shown) < len(rows) else ""
    return Details(title, [_detail(row) for row in shown], left_out)


def _detail(row: Mapping[str, Any]) -> Detail:
    heading = f"step {row['step']} ({row['of']}), reward {row['reward']:g}: {row['question']}"
    texts = {
        "prompt": prompt_text(row["messages"]),
        **turn_texts(row["completion"]),
        "gold": json.dumps(row["gold"], ensure_ascii=False) if row["gold"] else "no call",
    }
    return Detail(
        heading if len(heading) <= 160 else heading[:157] + "...", texts, offered_texts(row["tools"]), row["reason"]
    )


def _rows(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; none where it was never written."""
    return read_json_lines(path) if path.exists() else []
