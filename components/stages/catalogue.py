"""Every stage of a run, in order: what it runs, on which image, on what, and what the next ones take from it.

The one list that the command line, the KFP steps, preflight, the terminal and the tests read. A stage has a name apart
from its section of the settings, so that a run may hold one kind of stage twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any

from components import images
from components.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage: a plain function `run(config, inputs, outputs) -> metrics` and what surrounds it."""

    name: str
    """Of its folder, its KFP step and its metrics."""
    section: str
    """Its section of the settings."""
    package: str
    """The package it lives in; its KFP step is `component` there."""
    function: Callable[..., Mapping[str, float]]
    """What it runs."""
    image: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    """The stage that each input comes from, by the input's name."""
    output: str
    """Name of its folder as a KFP artifact."""
    content: tuple[str, ...]
    """Glob patterns of the files that later stages depend on; each matches something when the stage ends. Pages, logs
    and timings are not content."""
    renders_prompts: bool = False
    """The version of the prompt decides its result."""
    parallel: bool = False
    """It may run in several processes (torchrun)."""
    version: int = 1
    """Raise it when the same settings and inputs lead to another result: finished work is then done again.
    tests/unit/stages/test_versions.py notices where that was forgotten, as far as results are exact."""


def _later(module: str, name: str = "run") -> Callable[..., Mapping[str, float]]:
    """`module.name`, imported when it is called: a resumed run skips finished stages without importing torch."""

    def function(*arguments: Any) -> Mapping[str, float]:
        return getattr(import_module(module), name)(*arguments)

    return function


PREFLIGHT = "preflight"
"""The first step of every pipeline. It checks what the stages will need; it has no inputs and no content."""

STAGES = (
    Stage(
        name="data_refine",
        section="data_refine",
        package="components.data_refine",
        function=_later("components.data_refine.refine"),
        image=images.LIGHT,
        output="refined",
        content=("qualified.jsonl.gz", "held_out.jsonl.gz", "hard.jsonl.gz", "rejected.jsonl.gz"),
        version=3,
    ),
    Stage(
        name="sft_warmup",
        section="sft_warmup",
        package="components.sft_warmup",
        function=_later("components.sft_warmup.warmup"),
        image=images.TRAIN,
        inputs={"records": "data_refine"},
        output="warmed_up",
        content=("model/**/*",),
        renders_prompts=True,
        version=2,
    ),
    Stage(
        name="egpo_rl",
        section="egpo_rl",
        package="components.egpo_rl",
        function=_later("components.egpo_rl.train"),
        image=images.TRAIN,
        inputs={"records": "data_refine", "model": "sft_warmup"},
        output="trained",
        content=("model/**/*",),
        renders_prompts=True,
        parallel=True,
        version=3,
    ),
    Stage(
        name="bfcl_eval",
        section="bfcl_eval",
        package="components.bfcl_eval",
        function=_later("components.bfcl_eval.evaluate"),
        image=images.TRAIN,
        inputs={"records": "data_refine", "sft_warmup": "sft_warmup", "egpo_rl": "egpo_rl"},
        output="evaluation",
        content=("**/scores.json", "**/outcomes.jsonl"),
        renders_prompts=True,
        version=5,
    ),
    Stage(
        name="model_registration",
        section="model_registration",
        package="components.model_registration",
        function=_later("components.model_registration.register"),
        image=images.TRAIN,
        inputs={"model": "egpo_rl", "evaluation": "bfcl_eval"},
        output="registration",
        content=("registration.json",),
        version=2,
    ),
)

NAMES = (PREFLIGHT, *(stage.name for stage in STAGES))


def find_stage(name: str) -> Stage:
    """The stage of that name.

    Raises:
        InputError: there is none.
    """
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise InputError(f"stage {name}: there is no such stage; known are {', '.join(NAMES[1:])}")


NAMED_MODELS = replace(
    find_stage("bfcl_eval"), function=_later("components.bfcl_eval.evaluate", "run_models"), inputs={}
)
"""The evaluation of models wherever they are: the pipeline `evaluate` (one) and `callforge evaluate` (some)."""
