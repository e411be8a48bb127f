"""The stage as a whole on a tiny model: what it writes, what it prints, and that a killed run ends the same."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.errors import WorkError
from components.function_calls.record import record_to_json
from components.language_models.adapters import adapter_digest, attach_adapter
from components.language_models.base_models import resolve_model, weights_digest
from components.language_models.model_card import read_card
from components.language_models.model_directory import load_model
from components.sections import deciding_settings
from components.settings import AdapterSettings, CheckpointSettings, RunSettings, SftWarmupSettings
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage
from components.stages.folder import input_digest

ADAPTER = "model/adapter_model.safetensors"


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> Path:
    from tests.conftest import build_records

    folder = tmp_path_factory.mktemp("records")
    with gzip.open(folder / "qualified.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(record_to_json(record)) + "\n" for record in build_records(60))
    return folder


@pytest.fixture(scope="module")
def settings(tiny_model) -> SftWarmupSettings:
    return SftWarmupSettings(
        base_model=str(tiny_model),
        adapter=AdapterSettings(rank=4, alpha=8),
        steps=12,
        batch_size=4,
        micro_batch_size=3,
        learning_rate=1e-2,
        checkpoint=CheckpointSettings(every=3),
    )


def _run(settings: SftWarmupSettings, records: Path, folder: Path) -> dict[str, float]:
    return execute_stage(find_stage("sft_warmup"), settings, {"records": records}, folder, RunSettings())


@pytest.fixture(scope="module")
def finished(settings, records, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    """A run nobody disturbed."""
    folder = tmp_path_factory.mktemp("finished") / "sft_warmup"
    return folder, _run(settings, records, folder)


def test_the_model_learns_and_the_held_out_loss_says_so(finished):
    folder, metrics = finished
    curves = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in curves] == list(range(1, 13))
    assert metrics["held_out_loss"] < metrics["held_out_loss_before"] - 0.3
    assert curves[-1]["loss_think"] < curves[0]["loss_think"] and curves[-1]["loss_result"] < curves[0]["loss_result"]
    for row in curves:
        assert row["loss"] == pytest.approx(0.7 * row["loss_think"] + 0.3 * row["loss_result"])
    assert metrics["loss"] == curves[-1]["loss"] and metrics["records"] == 60 and metrics["records_left_out"] == 0
    assert metrics["records_without_thought"] == 0
    assert metrics["epochs"] == pytest.approx(12 * 4 / 57), "of the 60 records 3 are held out"


def test_the_learning_rate_rises_to_its_peak_and_falls_as_a_cosine(finished):
    rates = [json.loads(line)["learning_rate"] for line in (finished[0] / "metrics.jsonl").read_text().splitlines()]
    assert rates[0] == pytest.approx(0.5e-2) and rates[1] == max(rates) == pytest.approx(1e-2)
    assert rates[1:] == sorted(rates[1:], reverse=True) and 0 < rates[-1] < 0.05e-2


def test_the_model_directory_says_where_it_comes_from(finished, settings, records, tiny_model):
    card = read_card(finished[0] / "model")
    assert card.stage == "sft_warmup" and card.config == deciding_settings(settings)
    assert card.base_model.reference == str(tiny_model) and card.base_model.sha256 == weights_digest(tiny_model)
    loaded = load_model(resolve_model(finished[0] / "model"), device="cpu")
    digests = {"records": input_digest("records", records), "adapter": adapter_digest(loaded.model)}
    assert card.parents == digests


def test_the_page_shows_the_curves(finished):
    page = (finished[0] / "report.html").read_text()
    assert all(title in page for title in ("Supervised warm-up", "Gradient norm", "answer", "<svg"))


def test_no_steps_leave_the_adapter_untouched(settings, records, tiny_model, tmp_path):
    none = settings.model_copy(update={"steps": 0})
    metrics = _run(none, records, tmp_path / "sft_warmup")
    fresh = attach_adapter(load_model(resolve_model(tiny_model), device="cpu").model, none.adapter, none.seed)
    saved = load_model(resolve_model(tmp_path / "sft_warmup" / "model"), device="cpu").model
    assert adapter_digest(saved) == adapter_digest(fresh)
    assert not any(weight.any() for name, weight in saved.named_parameters() if "lora_B" in name)
    assert metrics["epochs"] == 0 and "loss" not in metrics


def test_a_loss_that_is_not_finite_ends_the_stage_in_words(settings, records, tmp_path):
    wild = settings.model_copy(update={"learning_rate": 1e38})
    with pytest.raises(WorkError, match=r"the loss of step \d+ is (nan|inf); lower learning_rate"):
        _run(wild, records, tmp_path / "sft_warmup")


def _cut(content: bytes) -> bytes:
    return content[:-10]


def _flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("whole.json", _cut),
        ("whole.json", lambda content: b"\xff"),
        ("whole.json", lambda content: b"{}"),
        ("optimizer.pt", _cut),
        ("optimizer.pt", _flip_a_bit),
        ("adapter_model.safetensors", _flip_a_bit),
        ("trainer_state.json", _flip_a_bit),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(settings, records, finished, tmp_path, capsys, name, spoil):
    folder = tmp_path / "sft_warmup"
    shutil.copytree(finished[0], folder)
    for written_last in ("manifest.json", "report.html"):
        (folder / written_last).unlink()
    shutil.rmtree(folder / "model")
    path = folder / "checkpoints" / "checkpoint-12" / name
    path.write_bytes(spoil(path.read_bytes()))
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "lo')
    metrics = _run(settings, records, folder)
    assert (folder / ADAPTER).read_bytes() == (finished[0] / ADAPTER).read_bytes()
    assert metrics == finished[1]
    printed = capsys.readouterr().out
    assert printed.count("is damaged (") == 1 and "checkpoint-12" in printed
    assert name in printed or spoil(b"") == b"{}"
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, 13))


# One process imports torch and then forks a child per attempt: an import costs more than a run. A child that fails or
# hangs by itself ends it all, with its traceback. It is killed by its own timer, some CPU seconds after a step, as no
# parent on a busy machine could do in time.
KILLER = """
import faulthandler, json, os, random, signal, sys, time
from pathlib import Path
import accelerate, transformers.models.llama.modeling_llama
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from components.stages.catalogue import find_stage
from components.stages.execution import execute_stage
from components.stages.outputs import Outputs
from components.sections import read_section
from components.settings import RunSettings, SftWarmupSettings
from components.sft_warmup import warmup
settings = read_section(SftWarmupSettings, json.loads(sys.argv[1]), "sft_warmup")
folder, choose, kills, moments, log = Path(sys.argv[3]), random.Random(0), 0, [0, 2, 5, 8, 11], Outputs.log
def meet(step):
    if moments[:1] == [step]:
        signal.setitimer(signal.ITIMER_PROF, seconds)
def log_and_meet(outputs, step, metrics):
    log(outputs, step, metrics)
    meet(step)
Outputs.log = log_and_meet
while not (folder / "manifest.json").exists():
    seconds = choose.uniform(0.001, 0.05)
    child = os.fork()
    if not child:
        faulthandler.dump_traceback_later(600, exit=True)
        meet(0)
        execute_stage(find_stage("sft_warmup"), settings, {"records": Path(sys.argv[2])}, folder, RunSettings())
        os._exit(0)
    del moments[:1]
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        kills += 1
    elif status:
        sys.exit(1)
print(kills)
"""


def test_killed_at_random_moments_it_ends_with_the_same_adapter(settings, records, finished, tmp_path):
    folder = tmp_path / "sft_warmup"
    command = [sys.executable, "-c", KILLER, settings.model_dump_json(), str(records), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == 5
    assert (folder / ADAPTER).read_bytes() == (finished[0] / ADAPTER).read_bytes()
