"""The training loop: sample, grade, learn, report, commit; from the newest checkpoint on, step after step.

What a step changes is committed at its end, and a checkpoint is what was committed last: a kill at any moment loses
the current step and nothing else. Loading and saving the model is train.py's, the pass update.py's.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from components.egpo_rl.checkpoint import Checkpoints, State, collect_files, collect_tensors, restore, restore_files
from components.egpo_rl.distributed import World
from components.egpo_rl.interruption import Interruption, StoppedError
from components.egpo_rl.prompts import PassRates, PromptOrder, pass_rates_from_json, pass_rates_to_json
from components.egpo_rl.report import SAMPLES
from components.egpo_rl.rollouts import RolloutGroup, sample_groups, sample_held_out
from components.egpo_rl.samplers import PolicySampler
from components.egpo_rl.sharding import is_sharded
from components.egpo_rl.step_log import (
    Explainer,
    GroupFacts,
    HeldOut,
    held_out_metrics,
    held_out_rise,
    reward_metrics,
    step_line,
)
from components.egpo_rl.update import Learner, TrainingGroup, join_sums, make_batch
from components.errors import WorkError
from components.files import read_json_lines
from components.function_calls.record import record_to_json
from components.language_models.model_directory import LoadedModel
from components.language_models.shared_prefix import (
    Group,
    ScoreFunction,
    check_sharing,
    score_groups,
    score_padded,
    sharing_obstacle,
)
from components.language_models.tokens import thought_mask
from components.services.events import say, warn
from components.services.progress import track
from components.settings import EgpoRlSettings
from components.stages.folder import METRICS
from components.stages.outputs import Outputs

SAMPLES_PER_STEP = 4
BEFORE, AFTER = "held out, before", "held out, after"
TABLE_ROWS = 400
SUSPICIOUS_KL = 0.05  # nats per token between sampler and trainer; rounding to bfloat16 makes about 0.001


@dataclass(frozen=True)
class _Place:
    """What a step starts from, besides the tensors."""

    step: int = 0
    cursor: int = 0
    pass_rates: PassRates | None = None
    bad_steps: int = 0


class Training:
    """The loop. `place` is the last committed step; parameters and optimizer are at it whenever a signal may strike."""

    def __init__(
        self,
        config: EgpoRlSettings,
        world: World,
        loaded: LoadedModel,
        order: PromptOrder,
        outputs: Outputs,
        sampler: PolicySampler,
        checkpoints: Checkpoints,
        interruption: Interruption,
        settings_hash: str,
    ) -> None:
        self.config, self.world, self.loaded, self.order = config, world, loaded, order
        self.outputs, self.checkpoints, self.interruption = outputs, checkpoints, interruption
        self.settings_hash = settings_hash
        score, self.unchecked = _score_function(loaded.model, world)
        self.learner = Learner(loaded.model, score, config, world)
        self.sampler = sampler
        self.explainer = Explainer(config.rollout.max_new_tokens)
        self.place = _Place(pass_rates={})
        self.saved = 0  # step of the newest checkpoint
        self.held_out_before: list[HeldOut] = []

    def run(self) -> dict[str, float]:
        """All steps from the newest checkpoint on; what the held-out prompts say of them."""
        resumed = self._resume()
        try:
            self.interruption.release(self.world)
            if not resumed:
                self.held_out_before = self._held_out(BEFORE, 0)
                self._save()
            steps = range(self.place.step, self.config.steps)
            for step in track(steps, "EGPO", "steps", total=self.config.steps, done=self.place.step):
                self._step(step)
            after = self._held_out(AFTER, self.config.steps)
        except StoppedError:
            self.interruption.hold()
            if self.saved < self.place.step:
                self._save()
            self.checkpoints.wait()
            self.world.from_leader(None)  # torchrun ends all processes when the first one ends
            raise WorkError(
                f"told to stop (SIGTERM) at step {self.place.step} of {self.config.steps}; start the same run "
                "again to go on from there"
            ) from None
        rise = held_out_rise(self.held_out_before, after)
        if self.world.leads and "held_out_rise_error" in rise:
            mean, error = rise["held_out_rise"], rise["held_out_rise_error"]
            say(f"held out, rise: {mean:+.3f} (standard error {error:.3f})")
        earlier = {f"{name}_before": value for name, value in held_out_metrics(self.held_out_before).items()}
        return earlier | held_out_metrics(after) | rise

    def _step(self, step: int) -> None:
        started = time.perf_counter()
        place, config = self.place, self.config
        table = place.pass_rates or {}
        self.sampler.update(step)
        synced = time.perf_counter()
        groups, facts, cursor, metrics = self._sample(step, place.cursor, table)
        self.interruption.release(self.world)
        metrics["seconds_sync"] = synced - started
        counted, totals = _choose(facts, config.rollout.prompts_per_step)
        if self.unchecked and self.learner.agree(len(groups)):
            self._check_sharing(groups)
        batch = make_batch(
            [self._training_group(group) for group in groups if group.prompt.index in counted],
            config,
            self.world,
            *totals,
        )
        figures, sums = self.learner.learn(batch, step, self.interruption)
        # From here to the end of the step a signal waits.
        metrics |= reward_metrics(facts) | figures | join_sums(self.world.gather([sums]))
        metrics["prompts_too_long"] = len(self.order.too_long)
        metrics["seconds"] = time.perf_counter() - started
        bad = not math.isfinite(metrics["grad_norm"])
        shares = [(fact.index, fact.solved_share) for fact in facts]
        self.place = _Place(
            step + 1, cursor, self.order.seen(table, place.cursor, shares), place.bad_steps + 1 if bad else 0
        )
        if self.world.leads:
            self._report(step + 1, metrics, facts, groups)
        if (step + 1) % config.checkpoint.every == 0 or step + 1 == config.steps:
            self._save()
        if self.place.bad_steps >= config.update.max_bad_steps:
            raise WorkError(
                f"gradients were not finite in {self.place.bad_steps} steps in a row (last: step {step + 1}); "
                "lower egpo_rl.update.learning_rate, or use egpo_rl.dtype=float32"
            )
        self.interruption.release(self.world)

    def _sample(
        self, step: int, cursor: int, table: PassRates
    ) -> tuple[list[RolloutGroup], list[GroupFacts], int, dict[str, float]]:
        """This process's groups, the facts of all, the new cursor, seconds. Dead groups are refilled if configured."""
        config = self.config
        groups: list[RolloutGroup] = []
        facts: list[GroupFacts] = []
        seconds = {"seconds_sample": 0.0, "seconds_reward": 0.0}
        for _ in range(1 + config.rollout.refill_rounds):
            missing = config.rollout.prompts_per_step - sum(not fact.dead for fact in facts)
            drawn, cursor = self.order.draw(missing, cursor, table, {fact.index for fact in facts})
            if not drawn:
                break
            new, spent = sample_groups(self.sampler, self.loaded.tokenizer, self.world.share(drawn), config, step)
            groups += new
            facts += self.world.gather([GroupFacts.of(group) for group in new])
            seconds = {name: seconds[name] + spent[name] for name in seconds}
        return groups, facts, cursor, {"groups": float(len(facts)), **seconds}

    def _training_group(self, group: RolloutGroup) -> TrainingGroup:
        completions = [rollout.tokens for rollout in group.rollouts]
        logps = None
        if all(rollout.logprobs is not None for rollout in group.rollouts):
            logps = [value for rollout in group.rollouts for value in rollout.logprobs or ()]
        return TrainingGroup(
            tokens=Group(group.prompt.ids, completions),
            rewards=[reward.value for reward in group.rewards],
            thought_masks=[thought_mask(self.loaded.tokenizer, completion) for completion in completions],
            sampler_logp=logps,
        )

    def _check_sharing(self, groups: Sequence[RolloutGroup]) -> None:
        """Two groups of two rollouts: enough to show a leak between groups, between rollouts, or a wrong position."""
        some = [Group(g.prompt.ids, [rollout.tokens for rollout in g.rollouts[:2]]) for g in groups[:2]]
        with self.learner.autocast():
            check_sharing(
                self.loaded.model,
                some,
                self.config.rollout.temperature,
                token_budget=self.config.update.unique_tokens_per_pass,
                agree=self.learner.agree,
            )
        self.unchecked = False

    def _held_out(self, when: str, step: int) -> list[HeldOut]:
        """Rollouts for the held-out prompts: how many are right."""
        if not self.order.held_out:
            return []
        self.sampler.update(step)
        label = f"{self.outputs.stage.name} {when}"
        groups = sample_held_out(
            self.sampler, self.loaded.tokenizer, self.order.held_out, self.config, self.world, label
        )
        facts = self.world.gather([GroupFacts.of(group) for group in groups])
        prompts = [HeldOut(fact.index, fact.calls_wanted, fact.solved_share) for fact in facts]
        if self.world.leads:
            metrics = held_out_metrics(prompts)
            say(f"{when} training: reward {metrics['held_out_reward']:.3f} ({len(prompts)} prompts)")
            self.outputs.log_point(step, metrics)
            self._append_samples([_sample_row(step, when, group, 0) for group in groups])
        return prompts

    def _report(
        self, step: int, metrics: dict[str, float], facts: Sequence[GroupFacts], groups: Sequence[RolloutGroup]
    ) -> None:
        say(step_line(step, self.config.steps, metrics))
        say(*self.explainer.explain(facts, metrics))
        if metrics.get("sampler_kl", 0.0) > SUSPICIOUS_KL:
            warn(
                f"the sampler is {metrics['sampler_kl']:.3f} nats per token away from the trainer: does it serve the "
                "trained adapter, at the same temperature and type?"
            )
        if not math.isfinite(metrics["grad_norm"]):
            warn(f"the gradients are not finite: step skipped ({self.place.bad_steps} in a row)")
            metrics["skipped"] = 1.0
        self.outputs.log(step, {name: value for name, value in metrics.items() if math.isfinite(value)})
        self._append_samples([_sample_row(step, "training", *item) for item in _instructive_samples(groups)])

    def _append_samples(self, rows: Sequence[Mapping[str, Any]]) -> None:
        with (self.outputs.folder / SAMPLES).open("a", encoding="utf-8", errors="backslashreplace") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def write_tables(self) -> None:
        """samples.jsonl as a table for MLflow, and the pass rates by record id."""
        rows = read_json_lines(self.outputs.folder / SAMPLES)
        self.outputs.log_table(rows[-TABLE_ROWS:], "samples")
        rates = {
            self.order.records[index].id: {"visits": rate.visits, "last": rate.last}
            for index, rate in sorted((self.place.pass_rates or {}).items())
        }
        (self.outputs.folder / "pass_rates.json").write_text(json.dumps(rates, indent=0) + "\n", "utf-8")

    def _save(self) -> None:
        self.saved = self.place.step
        tensors = collect_tensors(self.learner.parameters, self.learner.optimizer)
        if not self.world.leads:
            if any(map(is_sharded, self.learner.parameters.values())):
                deque(tensors, maxlen=0)  # gives the leader this process's parts
            return
        self.checkpoints.save(
            State(
                step=self.place.step,
                settings_hash=self.settings_hash,
                cursor=self.place.cursor,
                pass_rates=pass_rates_to_json(self.place.pass_rates or {}),
                too_long=sorted(self.order.too_long),
                bad_steps=self.place.bad_steps,
                held_out_before=self.held_out_before,
                python_random=random.getstate(),
                tensors=dict(tensors) | collect_files(self.outputs.folder, (METRICS, SAMPLES)),
            )
        )

    def _resume(self) -> bool:
        """Go to the newest checkpoint, or to the start; what an earlier try wrote after it is forgotten."""
        newest = self.checkpoints.newest(self.settings_hash, self.config.steps) if self.world.leads else None
        state = self.world.from_leader(newest and replace(newest, tensors={}))
        if state is None:
            if self.world.leads:
                for name in (METRICS, SAMPLES):
                    (self.outputs.folder / name).write_bytes(b"")
            return False
        step = state.step
        tensors = self.world.tensors_from_leader(newest.tensors if newest else {})
        restore(state, tensors, self.learner.parameters, self.learner.optimizer)
        self.order.too_long.update(state.too_long)
        self.place = _Place(step, state.cursor, pass_rates_from_json(state.pass_rates), state.bad_steps)
        self.saved = step
        self.held_out_before = [HeldOut(*prompt) for prompt in state.held_out_before]
        if newest:
            restore_files(newest, self.outputs.folder)
            say(f"resuming after step {step}")
        return True


def _score_function(model: Any, world: World) -> tuple[ScoreFunction, bool]:
    """How completions are scored, and whether prompts are shared, which needs a check."""
    obstacle = sharing_obstacle(model)
    if obstacle is None:
        return score_groups, True
    if world.leads:
        warn(f"prompts are computed once per rollout, not once per group: {obstacle}")
    return score_padded, False


def _choose(facts: Sequence[GroupFacts], wanted: int) -> tuple[set[int], tuple[int, int]]:
    """The step's batch: groups with an advantage, filled up with dead ones to `wanted`; its tokens and rollouts."""
    chosen = sorted(facts, key=lambda fact: fact.dead)[:wanted]
    tokens = sum(sum(fact.lengths) for fact in chosen)
    return {fact.index for fact in chosen}, (tokens, sum(len(fact.lengths) for fact in chosen))


def _instructive_samples(groups: Sequence[RolloutGroup]) -> list[tuple[RolloutGroup, int]]:
    """A few rollouts of a step, of as many different outcomes as there are."""
    by_reason: dict[str, tuple[RolloutGroup, int]] = {}
    for group in groups:
        for place, reward in enumerate(group.rewards):
            by_reason.setdefault(reward.reason, (group, place))
    return list(by_reason.values())[:SAMPLES_PER_STEP]


def _sample_row(step: int, of: str, group: RolloutGroup, place: int) -> dict[str, Any]:
    record, reward = group.prompt.record, group.rewards[place]
    asked = record_to_json(record)
    return {
        "step": step,
        "of": of,
        "id": record.id,
        "question": record.messages[-1].content,
        "messages": asked["messages"],
        "tools": asked["tools"],
        "completion": group.texts[place],
        "gold": asked["answers"],
        "reward": reward.value,
        "reason": reward.reason,
    }
