"""Helpers of this folder's tests that are not fixtures; the child processes of some tests import them too."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file

from components.egpo_rl import distributed, rewards, train
from components.egpo_rl.checkpoint import Checkpoints, State
from components.egpo_rl.distributed import open_world
from components.egpo_rl.rewards import Reward
from components.egpo_rl.sharding import shard_model, whole
from components.egpo_rl.update import Learner, join_sums, make_batch, recompute_activations
from components.errors import CallforgeError, InputError
from components.function_calls.prompt import PROMPT_VERSION
from components.function_calls.record import record_to_json
from components.language_models.adapters import attach_adapter
from components.language_models.base_models import resolve_model, weights_digest
from components.language_models.model_card import BaseModelReference, ModelCard
from components.language_models.model_directory import load_model, save_adapter
from components.language_models.shared_prefix import score_groups
from components.services.events import STAGE
from components.services.tracking import Tracker
from components.settings import AdapterSettings, EgpoRlSettings, RunSettings, resolve_settings
from components.stages import processes
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage
from components.stages.folder import input_digest
from components.stages.outputs import Outputs


def change(config: EgpoRlSettings, changes: Mapping[str, Any]) -> EgpoRlSettings:
    """`config` with some settings changed, by their names below egpo_rl."""
    return resolve_settings(
        {"egpo_rl": config.model_dump()}, {f"egpo_rl.{name}": value for name, value in changes.items()}
    ).egpo_rl


SMALL = change(
    EgpoRlSettings(steps=3, held_out=4),
    {"rollout.prompts_per_step": 4, "rollout.group_size": 4, "rollout.max_new_tokens": 10, "checkpoint.every": 2},
)


def stage_inputs(folder: Path, base: Path, records, rank: int = 4) -> dict[str, Path]:
    """The folders of data_refine and sft_warmup as `train.run` gets them; the adapter is fresh."""
    (folder / "data_refine").mkdir(parents=True)
    with gzip.open(folder / "data_refine" / "qualified.jsonl.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record_to_json(record)) + "\n" for record in records)
    model = attach_adapter(
        load_model(resolve_model(base), "float32", "cpu").model, AdapterSettings(rank=rank, alpha=2 * rank), seed=0
    )
    reference = BaseModelReference(reference=str(base), sha256=weights_digest(base))
    card = ModelCard(stage="sft_warmup", base_model=reference, prompt_version=PROMPT_VERSION)
    save_adapter(model, folder / "sft_warmup" / "model", card)
    return {"records": folder / "data_refine", "model": folder / "sft_warmup"}


def outputs_of(
    inputs: Mapping[str, Path], folder: Path, run: RunSettings | None = None, kind: type[Outputs] = Outputs
) -> Outputs:
    """What the stage writes to in `folder`, as execute_stage gives it, without a manifest afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    digests = {name: input_digest(name, path) for name, path in inputs.items()}
    return kind(folder, Tracker(), run or RunSettings(), find_stage("egpo_rl"), digests)


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: whole(item.grad).clone() for name, item in model.named_parameters() if item.requires_grad}


def relative_difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of two gradients over the norm of the second."""
    assert one.keys() == other.keys()
    flat_one, flat_other = (torch.cat([item[name].flatten() for name in other]) for item in (one, other))
    return ((flat_one - flat_other).norm() / flat_other.norm()).item()


def odd_letters(text, finished, record, names) -> Reward:
    """A reward that a random model meets half the time: an odd number of letters e."""
    right = text.count("e") % 2 == 1
    return Reward(float(right), right, "" if right else "wrong_value")


@dataclasses.dataclass(frozen=True)
class Interruption:
    """What happens to a run when it first logs `step` or a later one (0: when it starts), however busy the machine is.

    It dies at once, as by SIGKILL, after so many more seconds of CPU time; or, without them, waits for `let_go`.
    """

    step: int
    dies_after: float | None = None
    DEATH: ClassVar = signal.SIGPROF  # nobody handles it

    def strike(self, folder: Path) -> None:
        if self.dies_after is not None:
            signal.setitimer(signal.ITIMER_PROF, max(self.dies_after, 1e-4))
        else:
            while not (folder / "let_go").exists():
                time.sleep(0.002)


class InterruptedOutputs(Outputs):
    """Outputs of a run that is interrupted; it keeps the CPU seconds at which each step was logged."""

    interruption: ClassVar[Interruption | None] = None
    moments: ClassVar[list[float]] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        super().log(step, metrics)
        self.moments.append(time.process_time())
        self.meet(step, self.folder)

    @classmethod
    def meet(cls, step: int, folder: Path) -> None:
        interruption = cls.interruption
        if interruption is not None and step >= interruption.step:
            cls.interruption = None
            interruption.strike(folder)


def wait_for_hold(child, folder: Path, step: int) -> None:
    """Until the run of `child` is held at `step`."""
    log = folder / "metrics.jsonl"
    while not (log.exists() and log.read_text().count("\n") >= step):
        assert child.is_alive(), "it ended before it was held"
        time.sleep(0.002)


def let_go(folder: Path) -> None:
    (folder / "let_go").touch()


def run_stage(
    inputs: dict[str, Path],
    folder: Path,
    config: EgpoRlSettings,
    environment: dict[str, str] | None = None,
    interruption: Interruption | None = None,
):
    """`train.run` with the reward above, as a child process calls it; its errors become exit codes."""
    os.environ.update(environment or {})
    rewards.REWARDS["binary"] = odd_letters
    InterruptedOutputs.interruption = interruption
    InterruptedOutputs.meet(0, folder)
    try:
        final = train.run(config, inputs, outputs_of(inputs, folder, kind=InterruptedOutputs))
        if os.environ.get("RANK", "0") == "0":
            (folder / "final.json").write_text(json.dumps(final))
            (folder / "cpu_seconds.json").write_text(json.dumps(InterruptedOutputs.moments))
    except CallforgeError as error:
        print(error, flush=True)
        raise SystemExit(error.exit_code) from None


def write_gradients(base: Path, groups, config: EgpoRlSettings, file: Path, environment: dict[str, str]) -> None:
    """This process's share of `groups` through the update; the leader saves the summed gradients."""
    os.environ.update(environment)
    model = attach_adapter(
        load_model(resolve_model(base), "float32", "cpu").model, AdapterSettings(rank=4, alpha=8), seed=0
    ).eval()
    shake(model)
    if config.trained_weights == "all":
        model = model.merge_and_unload().requires_grad_(True)
    if config.update.gradient_checkpointing:
        recompute_activations(model)
    with open_world() as world:
        if config.shard_model:
            shard_model(model, world.device, config.dtype)
        learner = Learner(model, score_groups, config, world)
        tokens = sum(len(completion) for group in groups for completion in group.tokens.completions)
        rollouts = sum(len(group.rewards) for group in groups)
        batch = make_batch(world.share(groups), config, world, tokens, rollouts)
        if config.algorithm.kl_coefficient:
            with torch.no_grad():  # away from the reference, where the divergence has a gradient
                for item in learner.parameters.values():
                    item.mul_(1.05)
            learner.score_reference(batch)
        loss, sums = learner.accumulate(batch)
        figures = join_sums(world.gather([sums]))
        summed = gradients(model)
        norm = whole(torch.nn.utils.clip_grad_norm_(learner.parameters.values(), 1.0))
        if world.leads:
            figures_of_all = {"loss": torch.tensor(loss), "norm": norm}
            save_file(summed | figures_of_all, file, {"figures": json.dumps(figures)})


def sum_numbered_gradients(sizes: list[int], bucket: int, file: Path, environment: dict[str, str]) -> None:
    """Gradients of rank + place in every number, none at the last place of rank 1; the leader saves their sums."""
    os.environ.update(environment)
    distributed.BUCKET = bucket
    with open_world() as world:
        parameters = [torch.nn.Parameter(torch.zeros(size)) for size in sizes]
        for place, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, float(world.rank + place))
        if not world.leads:
            parameters[-1].grad = None
        world.sum_gradients(parameters[:1])  # connects
        before = getrusage(RUSAGE_SELF).ru_maxrss
        world.sum_gradients(parameters[1:])
        grown = 1024.0 * (getrusage(RUSAGE_SELF).ru_maxrss - before)
        if world.leads:
            sums = {str(place): parameter.grad for place, parameter in enumerate(parameters)}
            save_file(sums | {"grown": torch.tensor(grown)}, file)


def meet_late(seconds: float, patience: timedelta, environment: dict[str, str]) -> None:
    """The leader is away for that long; the others wait."""
    os.environ.update(environment)
    processes.PATIENCE = patience
    with open_world() as world:
        world.from_leader(None)
        if world.leads:
            time.sleep(seconds)
        world.from_leader(None)


def save_large_checkpoint(folder: Path, file: Path) -> None:
    """A checkpoint of 80 MB; `file` gets by how many bytes the process grew."""
    tensors = {str(place): torch.full((1_000_000,), float(place)) for place in range(20)}
    state = State(1, "same", 0, {}, [], 0, [], None, tensors)
    with Checkpoints(folder, "", keep=1) as checkpoints:
        before = getrusage(RUSAGE_SELF).ru_maxrss
        checkpoints.save(state)
        file.write_text(str(1024 * (getrusage(RUSAGE_SELF).ru_maxrss - before)))


def shake(model, seed: int = 1) -> None:
    """Make the adapter's B matrices non-zero."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))


def process_group(size: int) -> list[dict[str, str]]:
    """The environment that torchrun would give to each of `size` processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]


def lead_with(command: list[str], inputs: dict[str, Path], folder: Path) -> None:
    """A run whose other process is `command`."""
    distributed.GRACE_SECONDS = 1.0
    train.follower_command = lambda *_: command
    run_stage(inputs, folder, change(SMALL, {"processes": 2}))


def execute_together(folder: Path, behaviour: str, environment: dict[str, str]) -> None:
    """One process of a stage under torchrun. Each leaves a line of what it heard; the first leaves the model."""
    os.environ.update(environment)
    rank = int(environment["RANK"])

    def function(config: EgpoRlSettings, inputs: dict[str, Path], outputs: Outputs) -> dict[str, float]:
        with (folder / f"calls-{rank}").open("a") as file:
            file.write(f"{type(outputs.tracker).__name__} of {os.environ.get(STAGE)}\n")
        if rank == 0:
            if behaviour == "killed":
                time.sleep(1)  # the other process has returned by then
                os.kill(os.getpid(), signal.SIGKILL)
            (outputs.folder / "result").write_text("made by the first")
        return {"rank": float(rank)}

    stage = dataclasses.replace(find_stage("egpo_rl"), function=function, content=("result",))
    inputs = {"records": folder / "missing"} if behaviour == "refused" else {}
    try:
        execute_stage(stage, EgpoRlSettings(), inputs, folder / "egpo_rl", RunSettings())
    except InputError as error:
        (folder / f"refused-{rank}").write_text(str(error))
        raise SystemExit(error.exit_code) from None
