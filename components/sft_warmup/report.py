"""The stage's page, from its settings, final figures and metrics.jsonl. Only draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from components.services.report import Block, Lines, SmallMultiples, Table, show, write_report
from components.settings import SftWarmupSettings

_CHARTS = (
    ("Loss", "cross-entropy per token", {"loss": "all", "loss_think": "thought", "loss_result": "answer"}),
    ("Learning rate", "", {"learning_rate": "rate"}),
    ("Gradient norm", "before clipping", {"grad_norm": "norm"}),
    ("Speed", "prompt and turn tokens a second", {"tokens_per_second": "speed"}),
)


def write_training_report(
    path: Path,
    config: SftWarmupSettings,
    left_out: Mapping[str, int],
    metrics: Mapping[str, float],
    curves: Sequence[Mapping[str, float]],
) -> None:
    """Write the page.

    Args:
        left_out: reasons, and how many records were left out for each.
        metrics: what the stage returns.
        curves: what it logged, a mapping for each step.
    """
    charts = [
        Lines(title, unit, {name: [(row["step"], row[metric]) for row in curves] for metric, name in series.items()})
        for title, unit, series in _CHARTS
    ]
    blocks: list[Block] = [SmallMultiples("Training", "step", charts)] if curves else []
    blocks.append(
        Table("Figures", ("figure", "value"), [(name.replace("_", " "), value) for name, value in metrics.items()])
    )
    if left_out:
        blocks.append(Table("Records left out", ("reason", "records"), sorted(left_out.items())))
    settings = [(name, str(value)) for name, value in config.model_dump(mode="json").items()]
    blocks.append(Table("Settings", ("setting", "value"), settings))
    write_report(path, "Supervised warm-up", _sentence(metrics, curves), blocks)


def _sentence(metrics: Mapping[str, float], curves: Sequence[Mapping[str, float]]) -> str:
    if not curves:
        return "No step was made: the adapter is untouched, and the model is its base."
    passes = f"{show(metrics['epochs'])} passes over {metrics['records']:,} records"
    loss = f"the training loss went from {curves[0]['loss']:.3f} to {curves[-1]['loss']:.3f}"
    if "held_out_loss" in metrics:
        change = f"{metrics['held_out_loss_before']:.3f} to {metrics['held_out_loss']:.3f}"
        loss = f"the loss on held-out records went from {change}, and {loss}"
    return f"In {len(curves):,} steps ({passes}), {loss}."
