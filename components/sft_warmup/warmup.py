"""Supervised warm-up of a LoRA adapter with transformers' Trainer.

One dataset item is the whole batch of one optimizer step, cut into micro-batches here: the loss is normalised over
the batch, exactly. Killed at any moment and run again, it goes on from the last whole checkpoint and ends, on a CPU,
with the same adapter to the bit. Deliberately one process on one device: a warm-up is short, and what needs many
nodes is components/egpo_rl.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from components.errors import InputError, WorkError
from components.files import read_json, read_json_lines, sha256_of_file, write_json
from components.function_calls.prompt import PROMPT_VERSION
from components.language_models.adapters import attach_adapter
from components.language_models.base_models import resolve_base_model
from components.language_models.model_card import BaseModelReference, ModelCard
from components.language_models.model_directory import load_base, save_adapter
from components.sections import deciding_settings
from components.services.events import say, warn
from components.services.progress import Track, track
from components.settings import SftWarmupSettings
from components.sft_warmup.dataset import Example, StepBatches, encode_examples
from components.sft_warmup.loss import batch_loss
from components.sft_warmup.report import write_training_report
from components.stages.folder import METRICS
from components.stages.outputs import Outputs
from components.stages.refined_records import read_refined

TOLD_STEPS = 20  # lines about the loss, whatever the number of steps
WHOLE = "whole.json"  # written last into a checkpoint: sha256 of its files


def run(config: SftWarmupSettings, inputs: Mapping[str, Path], outputs: Outputs) -> dict[str, float]:
    """Train an adapter on `inputs["records"]`/qualified.jsonl.gz and write model/ and report.html.

    Returns:
        Numbers of records, passes over them (`epochs`, below 1 when the steps do not use them all), the last loss and
        its parts, the held-out loss before and after.

    Raises:
        InputError: the base model or the records cannot be used.
        WorkError: the loss is not finite.
    """
    records = read_refined(inputs["records"])
    base = resolve_base_model(config.base_model)
    loaded = load_base(base, config.dtype)
    examples = encode_examples(records, loaded.tokenizer, config)
    model = attach_adapter(loaded.model, config.adapter, config.seed)
    padding = loaded.tokenizer.pad_token_id
    if config.steps:
        _train(
            model,
            StepBatches(examples.training, config.steps, config.batch_size, config.seed),
            config,
            padding,
            outputs,
        )
    card = ModelCard(
        stage=outputs.stage.name,
        base_model=BaseModelReference(reference=base.reference, sha256=base.sha256),
        prompt_version=PROMPT_VERSION,
        parents=dict(outputs.input_digests),
        config=deciding_settings(config),
    )
    save_adapter(model, outputs.folder / "model", card)
    metrics = {
        "records": len(records),
        "records_left_out": examples.left_out.total(),
        "records_without_thought": sum(not record.cot for record in records),
        "epochs": config.steps * config.batch_size / max(examples.trainable, 1),
    }
    curves = _curves(outputs.folder / METRICS)
    if curves:
        metrics |= {name: curves[-1][name] for name in ("loss", "loss_think", "loss_result")}
        if held_out := _held_out_losses(model, examples.held_out, config, padding):
            outputs.log_point(0, {"held_out_loss": held_out["held_out_loss_before"]})
            outputs.log_point(config.steps, {"held_out_loss": held_out["held_out_loss"]})
            metrics |= held_out
    write_training_report(outputs.folder / "report.html", config, examples.left_out, metrics, curves)
    return metrics


def _train(model: Any, batches: StepBatches, config: SftWarmupSettings, padding: int, outputs: Outputs) -> None:
    checkpoint = _last_checkpoint(outputs.checkpoints)
    done = int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0
    outputs.forget_metrics_after(done)
    with track(config.steps, "warm-up", "steps", done=done) as bar:
        trainer = _Trainer(model, batches, config, padding, outputs, bar)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


class _Trainer(Trainer):
    """transformers' Trainer whose step goes through the micro-batches of one batch under exact normalisers."""

    def __init__(
        self, model: Any, batches: StepBatches, config: SftWarmupSettings, padding: int, outputs: Outputs, bar: Track
    ) -> None:
        device = model.device.type
        if device == "cuda":
            # Recomputing activations costs a third more time and saves most of the memory: right on a GPU, whose
            # memory is small; wrong on a CPU, whose time is short.
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        arguments = TrainingArguments(
            output_dir=str(outputs.checkpoints),
            max_steps=config.steps,
            per_device_train_batch_size=1,
            learning_rate=config.learning_rate,
            weight_decay=0.0,
            max_grad_norm=1.0,
            seed=config.seed,
            use_cpu=device == "cpu",
            save_steps=config.checkpoint.every,
            save_total_limit=config.checkpoint.keep,
            logging_steps=1,
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
        )
        arguments._n_gpu = 1  # else the Trainer spreads a step over all GPUs by nn.DataParallel
        super().__init__(model, arguments, data_collator=itemgetter(0), train_dataset=batches, callbacks=[_MarkWhole()])
        self.remove_callback(PrinterCallback)
        self.config, self.padding, self.outputs, self.bar = config, padding, outputs, bar

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        """Linear rise, then a cosine to zero; no step is wasted on a rate of zero."""
        rise = math.ceil(self.config.warmup_share * num_training_steps)

        def factor(step: int) -> float:
            if step < rise:
                return (step + 1) / (rise + 1)
            return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, num_training_steps - rise)))

        self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)  # type: ignore[arg-type]  # one of them is there
        return self.lr_scheduler

    def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler:
        return torch.utils.data.SequentialSampler(self.train_dataset)  # type: ignore[arg-type]  # it is StepBatches

    def training_step(  # type: ignore[override]  # the collator hands over examples, not tensors
        self, model: Any, inputs: list[Example], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        self._step_started = time.monotonic()
        self._step_tokens = sum(len(example.prompt) + len(example.turn) for example in inputs)
        model.train()
        self._step_metrics = batch_loss(model, inputs, self.config, self.padding, self.accelerator.backward)
        loss = self._step_metrics["loss"]
        if not math.isfinite(loss):
            raise WorkError(f"the loss of step {self.state.global_step + 1} is {loss}; lower learning_rate")
        return torch.tensor(loss, device=model.device)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "grad_norm" in logs:
            metrics = self._step_metrics | {name: logs[name] for name in ("learning_rate", "grad_norm")}
            metrics["tokens_per_second"] = self._step_tokens / (time.monotonic() - self._step_started)
            self.outputs.log(self.state.global_step, metrics)
            self.bar.advance()
            self._say(metrics)
        super().log(logs, start_time)

    def _say(self, metrics: Mapping[str, float]) -> None:
        step, steps = self.state.global_step, self.config.steps
        if step == steps or step % max(1, steps // TOLD_STEPS) == 0:
            rate = metrics["learning_rate"]
            say(f"step {step}/{steps}  loss {metrics['loss']:.4f}  grad {metrics['grad_norm']:.3f}  rate {rate:.2g}")

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # the Trainer's estimate wants tensors, and nobody reads it


class _MarkWhole(TrainerCallback):
    """Writes the digests of a checkpoint's files into it once all of them are there."""

    def on_save(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        write_json(folder / WHOLE, {file.name: sha256_of_file(file) for file in sorted(folder.iterdir())})


def _last_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint; what a kill left half written, or what was damaged since, is removed."""
    numbered = [path for path in folder.glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    for checkpoint in sorted(numbered, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        fault = _fault(checkpoint)
        if fault is None:
            return checkpoint
        if fault:
            warn(f"{checkpoint.name} is damaged ({fault}); it is not used")
        shutil.rmtree(checkpoint)
    return None


def _fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint: "" when a kill cut it short, None when it is whole."""
    try:
        digests = read_json(checkpoint / WHOLE)
        there = {path.name for path in checkpoint.iterdir()} - {WHOLE}
        changed = sorted(there - digests.keys())
        changed += [name for name, digest in digests.items() if sha256_of_file(checkpoint / name) != digest]
    except FileNotFoundError as error:
        return "" if error.filename == str(checkpoint / WHOLE) else f"{Path(error.filename).name} is missing"
    except (InputError, OSError) as error:
        return str(error)
    return f"{', '.join(changed)}: not the bytes that were written" if changed else None


@torch.no_grad()
def _held_out_losses(model: Any, held_out: list[Example], config: SftWarmupSettings, padding: int) -> dict[str, float]:
    """Loss of the held-out records with the trained adapter and without any, which is where training started."""
    if not held_out:
        return {}
    model.eval()
    with model.disable_adapter():
        before = batch_loss(model, held_out, config, padding)["loss"]
    return {"held_out_loss_before": before, "held_out_loss": batch_loss(model, held_out, config, padding)["loss"]}


def _curves(path: Path) -> list[dict[str, float]]:
    return read_json_lines(path) if path.exists() else []
