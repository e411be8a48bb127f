"""The stage on a tiny random model: three models, the fixed layout, resuming after a kill, what bad input gets."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from components.bfcl_eval import evaluate, models
from components.bfcl_eval.evaluate import MODELS
from components.bfcl_eval.generations import Generation, Journal
from components.bfcl_eval.questions import load_questions
from components.errors import InputError
from components.evaluations.directory import read_evaluation, read_scores
from components.function_calls.record import record_to_json
from components.language_models import base_models
from components.language_models.samplers import Rollout
from components.services.tracking import Tracker
from components.settings import AdapterSettings, BfclEvalSettings, RunSettings
from components.stages.catalogue import NAMED_MODELS, find_stage
from components.stages.execution import execute_stage
from components.stages.folder import read_manifest
from components.stages.outputs import Outputs
from tests.unit.language_models.fake_vllm_server import fake_vllm_server

CONFIG = BfclEvalSettings(
    categories=("multiple", "irrelevance", "live_parallel"),
    sample_per_category=3,
    max_new_tokens=8,
    max_prompt_tokens=2000,
    batch_size=2,
)
RUN = RunSettings()
QUESTIONS = load_questions(CONFIG.categories, 3)


@pytest.fixture(scope="module")
def stages(tiny_model, tmp_path_factory) -> dict[str, Path]:
    """Two stage folders with adapters that change what the model says."""
    import torch

    from components.language_models.adapters import attach_adapter
    from components.language_models.base_models import resolve_model, weights_digest
    from components.language_models.model_card import BaseModelReference, ModelCard
    from components.language_models.model_directory import load_model, save_adapter

    root = tmp_path_factory.mktemp("stages")
    reference = BaseModelReference(reference=str(tiny_model), sha256=weights_digest(tiny_model))
    for seed, stage in enumerate(("sft_warmup", "egpo_rl")):
        model = attach_adapter(
            load_model(resolve_model(tiny_model), device="cpu").model, AdapterSettings(rank=8, alpha=16), seed
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.data.normal_(0, 0.3)
        save_adapter(model, root / stage / "model", ModelCard(stage=stage, base_model=reference, prompt_version="1"))
    return {stage: root / stage for stage in ("sft_warmup", "egpo_rl")}


@pytest.fixture(scope="module")
def with_records(stages, make_records, tmp_path_factory) -> dict[str, Path]:
    """The inputs of the stage as a run has them."""
    records = tmp_path_factory.mktemp("data_refine")
    with gzip.open(records / "held_out.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(record_to_json(record)) + "\n" for record in make_records(4))
    return stages | {"records": records}


@pytest.fixture(scope="module")
def done(with_records, tmp_path_factory) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("run") / "bfcl_eval"
    return folder, execute_stage(find_stage("bfcl_eval"), CONFIG, with_records, folder, RUN)


def outputs(folder: Path) -> Outputs:
    folder.mkdir(parents=True, exist_ok=True)
    return Outputs(folder, Tracker(), RUN, find_stage("bfcl_eval"))


def turns(folder: Path) -> dict[str, str]:
    return {line["id"]: line["turn"] for line in results(folder)}


def results(folder: Path) -> list[dict[str, Any]]:
    """The lines of every result file."""
    files = sorted(folder.glob("generations/*/*/*_result.json"))
    return [json.loads(line) for path in files for line in path.read_text("utf-8").splitlines()]


def without_latency(folder: Path) -> dict[str, bytes]:
    """Every output file but the latencies in it."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "checkpoints" not in path.parts and path.name not in ("manifest.json", "metrics.jsonl"):
            content = path.read_bytes()
            if path.suffix == ".json" and path.name.endswith("_result.json"):
                lines = [json.loads(line) | {"latency": 0} for line in content.decode().splitlines()]
                content = json.dumps(lines).encode()
            files[str(path.relative_to(folder))] = content
    return files


def test_three_evaluation_directories_and_a_comparison(done):
    folder, metrics = done
    assert (folder / "report.html").is_file()
    for name in ("base", "sft_warmup", "egpo_rl"):
        scores = read_evaluation(folder / name).scores
        assert set(scores.categories) == set(CONFIG.categories)
        assert scores.questions.asked == 9 and scores.questions.is_sample
        assert scores.seed == 0 and scores.sampling.max_new_tokens == 8 and scores.prompt_version
        assert scores.evaluator.version and scores.model.name == MODELS[name]
        assert (folder / name / "report.html").is_file()
        for category, entry in scores.categories.items():
            assert metrics[f"{name}.{category}"] == entry.accuracy
            low, high = entry.interval
            assert low <= entry.accuracy <= high and entry.n == 3
    assert "A sample: 9 of" in (folder / "report.html").read_text()


def test_own_records_are_asked_beside_the_benchmark(done, make_records):
    folder, metrics = done
    for name in MODELS:
        scores = read_evaluation(folder / name).own.scores
        assert scores.questions.asked == 4 and scores.evaluator.name == "callforge strict rule"
        assert set(scores.categories) <= {"own_calls", "own_no_call"}
        assert metrics[f"{name}.own_calls"] == scores.categories["own_calls"].accuracy
        assert not set(scores.categories) & set(read_evaluation(folder / name).scores.categories)
    page = (folder / "report.html").read_text()
    assert page.index("Own records: calls") < page.index("BFCL: calls")
    tools = {call.name for record in make_records(4) for call in record.answers}
    assert f"0 of {len(tools)} changed" in page, "a random model has nothing right, before and after"


def test_outcomes_say_of_every_answer_what_the_generations_say(done):
    folder, _ = done
    lines = {line["id"]: line for line in results(folder / "egpo_rl")}
    outcomes = read_evaluation(folder / "egpo_rl").outcomes
    assert [outcome.id for outcome in outcomes] == [question.id for question in QUESTIONS]
    for outcome in outcomes:
        line = lines[outcome.id]
        assert (outcome.prompt_tokens, outcome.completion_tokens, outcome.finished) == (
            line["input_token_count"], line["output_token_count"], line["finished"]
        )  # fmt: skip
        assert outcome.right == (outcome.reason == "")


def test_generations_lie_where_the_official_tool_looks(done):
    folder, _ = done
    results = sorted(
        path.relative_to(folder / "base" / "generations") for path in folder.glob("base/generations/*/*/*")
    )
    assert [path.parts[1:] for path in results] == [
        ("live", "BFCL_v4_live_parallel_result.json"),
        ("non_live", "BFCL_v4_irrelevance_result.json"),
        ("non_live", "BFCL_v4_multiple_result.json"),
    ]
    wanted = [question.id for question in load_questions(("multiple",), 3)]
    lines = [json.loads(line) for line in (folder / "base/generations" / results[2]).read_text().splitlines()]
    assert [line["id"] for line in lines] == wanted
    assert all(line["result"] in line["turn"] and line["input_token_count"] > 100 for line in lines)
    assert all(0 < line["output_token_count"] <= 8 and line["latency"] > 0 for line in lines)


def weights(folder):
    return read_scores(folder).model.weights_sha256


def test_each_model_speaks_for_itself(done, stages, tiny_model, tmp_path):
    """Adapters are put on one base and taken off: each model must say what it says when it is loaded alone."""
    folder, _ = done
    said = {name: turns(folder / name) for name in ("base", "sft_warmup", "egpo_rl")}
    assert said["base"] != said["sft_warmup"] != said["egpo_rl"] != said["base"]
    for name, model in (("base", tiny_model), ("egpo_rl", stages["egpo_rl"])):
        evaluate.run_models(CONFIG, {"model": model}, outputs(tmp_path / name))
        assert turns(tmp_path / name) == said[name]
        assert weights(tmp_path / name) == weights(folder / name)
        assert (tmp_path / name / "report.html").is_file()
    assert len({weights(folder / name) for name in said}) == 3


def test_a_whole_model_is_evaluated_in_place_of_base_and_adapter(done, stages, tmp_path):
    from components.language_models.base_models import resolve_model, weights_digest
    from components.language_models.model_directory import merge_adapter

    merge_adapter(resolve_model(stages["egpo_rl"] / "model"), tmp_path / "egpo_rl" / "model", "float32")
    evaluate.run(CONFIG, stages | {"egpo_rl": tmp_path / "egpo_rl"}, outputs(tmp_path / "bfcl_eval"))
    for name in ("base", "sft_warmup", "egpo_rl"):
        assert turns(tmp_path / "bfcl_eval" / name) == turns(done[0] / name)
    assert weights(tmp_path / "bfcl_eval" / "egpo_rl") == weights_digest(tmp_path / "egpo_rl" / "model")


def test_named_models_are_asked_once_each_and_compared(done, stages, with_records, tiny_model, tmp_path, monkeypatch):
    """Their own folders, own records of the settings, the same answers as in a run; the same weights only once."""
    folder, metrics = done
    places = {"tiny": tiny_model, "trained": stages["egpo_rl"], "again": tiny_model}
    config = CONFIG.model_copy(update={"records": str(with_records["records"])})
    stage = execute_stage(NAMED_MODELS, config, places, tmp_path / "named", RUN)
    for name, of_run in (("tiny", "base"), ("trained", "egpo_rl"), ("again", "base")):
        assert turns(tmp_path / "named" / name) == turns(folder / of_run)
        assert turns(tmp_path / "named" / name / "own") == turns(folder / of_run / "own")
        assert read_scores(tmp_path / "named" / name).model.name == name
        assert {key: stage[f"{name}.{key}"] for key in ("multiple", "own_calls", "mean_calls")} == {
            key: metrics[f"{of_run}.{key}"] for key in ("multiple", "own_calls", "mean_calls")
        }
    assert len(list((tmp_path / "named" / "checkpoints").glob("*.jsonl"))) == 4
    page = (tmp_path / "named" / "report.html").read_text()
    assert "<h1>Evaluation: tiny, trained, again</h1>" in page
    content = read_manifest(tmp_path / "named").content
    assert content != read_manifest(folder).content
    assert {"tiny/own/scores.json", "tiny/questions.jsonl.gz"} <= set(read_manifest(tmp_path / "named").files)


def test_a_single_model_is_its_stage_folder_and_a_place_is_no_part_of_its_scores(stages, tiny_model, tmp_path):
    for place in ("here", "there"):
        shutil.copytree(tiny_model, tmp_path / place / "tiny")
        evaluate.run_models(CONFIG, {"model": tmp_path / place / "tiny"}, outputs(tmp_path / f"of {place}"))
    here, there = ((tmp_path / f"of {place}" / "scores.json").read_bytes() for place in ("here", "there"))
    assert here == there and read_scores(tmp_path / "of here").model.name == "tiny"


def stage_of(tiny_model, folder: Path, stage: str, b: float) -> Path:
    """A stage folder with an adapter whose B is that number everywhere: 0 is an adapter that was not trained."""
    from components.language_models.adapters import attach_adapter
    from components.language_models.base_models import resolve_model, weights_digest
    from components.language_models.model_card import BaseModelReference, ModelCard
    from components.language_models.model_directory import load_model, save_adapter

    model = attach_adapter(
        load_model(resolve_model(tiny_model), device="cpu").model, AdapterSettings(rank=4, alpha=8), 0
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.fill_(b)
    reference = BaseModelReference(reference=str(tiny_model), sha256=weights_digest(tiny_model))
    save_adapter(model, folder / stage / "model", ModelCard(stage=stage, base_model=reference, prompt_version="1"))
    return folder / stage


def test_equal_weights_are_asked_once(tiny_model, tmp_path, monkeypatch):
    """A warm-up of no step computes what the base computes; EGPO of no step what the warm-up does."""
    spies(monkeypatch)
    for number, b in (("untrained", (0.0, 0.0)), ("no EGPO", (0.5, 0.5)), ("both", (0.0, 0.5))):
        stages = {
            stage: stage_of(tiny_model, tmp_path / number, stage, value)
            for stage, value in zip(("sft_warmup", "egpo_rl"), b, strict=True)
        }
        BatchSpy.asked = 0
        evaluate.run(CONFIG, stages, outputs(tmp_path / number / "bfcl_eval"))
        assert BatchSpy.asked == 9 * len({0.0, *b}), number
        for name in MODELS:
            assert len(read_evaluation(tmp_path / number / "bfcl_eval" / name).outcomes) == 9


def test_the_base_is_resolved_once_for_all_models(stages, tiny_model, tmp_path, monkeypatch):
    spies(monkeypatch)
    hashed = []
    digest = base_models.weights_digest
    monkeypatch.setattr(base_models, "weights_digest", lambda path: hashed.append(path) or digest(path))
    evaluate.run(CONFIG, stages, outputs(tmp_path / "bfcl_eval"))
    assert hashed == [tiny_model, *(stages[name] / "model" for name in ("sft_warmup", "egpo_rl"))]


@pytest.mark.parametrize("share", [0.0, 0.1, 0.55, 0.98])
def test_a_killed_run_goes_on_to_the_same_files(done, with_records, tmp_path, share):
    """What a kill leaves: some journals whole, one cut anywhere, the others absent, no final files."""
    folder, metrics = done
    checkpoints = tmp_path / "bfcl_eval" / "checkpoints"
    checkpoints.mkdir(parents=True)
    *whole, torn, _absent = sorted((folder / "checkpoints").glob("*.jsonl"))
    for journal in whole:
        (checkpoints / journal.name).write_bytes(journal.read_bytes())
    (checkpoints / torn.name).write_bytes(torn.read_bytes()[: int(share * torn.stat().st_size)])
    again = evaluate.run(CONFIG, with_records, outputs(tmp_path / "bfcl_eval"))
    assert again == metrics
    new, old = without_latency(tmp_path / "bfcl_eval"), without_latency(folder)
    old.pop("config.json")
    assert new == old


def spies(monkeypatch) -> None:
    """Let a BatchSpy answer in place of every model."""
    monkeypatch.setattr(models, "open_sampler", lambda _name, *, tokenizer, **_: BatchSpy(tokenizer))


class BatchSpy:
    """Says how many prompts it was given together, and counts them."""

    asked = 0

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer

    def sample(self, prompts, seeds, temperature, max_new_tokens):
        BatchSpy.asked += len(prompts)
        return [[Rollout(self.tokenizer.encode(f"one of {len(prompts)}"), True, None)] for _ in prompts]


@pytest.mark.parametrize("answered", [1, 3, 5])
def test_a_torn_batch_is_asked_again_whole_and_no_other(tiny_model, tmp_path, monkeypatch, answered):
    """Greedy answers move with their neighbours' floats: a batch must have the same ones after a kill."""
    spies(monkeypatch)
    whole, torn = outputs(tmp_path / "whole"), outputs(tmp_path / "torn")
    evaluate.run_models(CONFIG, {"model": tiny_model}, whole)
    (journal,) = whole.checkpoints.glob("*.jsonl")
    lines = journal.read_text().splitlines(keepends=True)
    torn.checkpoints.mkdir()
    (torn.checkpoints / journal.name).write_text("".join(lines[: 1 + answered]) + lines[1 + answered][:20])
    BatchSpy.asked = 0
    evaluate.run_models(CONFIG, {"model": tiny_model}, torn)
    assert turns(torn.folder) == turns(whole.folder)
    assert BatchSpy.asked == 9 - answered // 2 * 2
    kept = [json.loads(line)["answer"] for line in lines[1 : 1 + answered]]
    latencies = {answer["id"]: answer["latency"] for answer in kept}
    now = {line["id"]: line["latency"] for line in results(torn.folder)}
    assert {key: now[key] for key in latencies} == latencies
    BatchSpy.asked = 0
    evaluate.run_models(CONFIG, {"model": tiny_model}, torn)
    assert BatchSpy.asked == 0


def test_a_vllm_server_answers_for_base_and_adapters(stages, tiny_model, tmp_path, monkeypatch):
    """The base under its own name, then each adapter under one that was loaded for it; no weights are loaded here."""
    monkeypatch.setattr(models, "load_base", lambda *_: pytest.fail("the server has the weights"))
    with fake_vllm_server(model=tiny_model.name, context=3000) as server:
        config = CONFIG.model_copy(update={"sampler": "vllm_server", "sampler_urls": (server.url,)})
        evaluate.run(config, stages, outputs(tmp_path))
        asked = [body["model"] for body in server.completions if len(body["prompt"]) > 10]
        published = [name for name, _ in server.loads]
    assert asked == [name for name in (tiny_model.name, *published) for _ in range(9)] and len(published) == 2
    said = {name: turns(tmp_path / name) for name in MODELS}
    assert said["base"] != said["sft_warmup"] != said["egpo_rl"] != said["base"]
    assert read_scores(tmp_path / "egpo_rl").sampling.sampler == "vllm_server"


def test_other_settings_start_over(tmp_path):
    journal = Journal(tmp_path / "base.jsonl", "one")
    answer = Generation("q", "text\n\u2028", True, 3, 2, 0.5)
    journal.append([answer])
    assert Journal(tmp_path / "base.jsonl", "one").answers == {"q": answer}
    assert Journal(tmp_path / "base.jsonl", "two").answers == {}
    assert Journal(tmp_path / "base.jsonl", "one").answers == {}


@pytest.mark.parametrize(
    "damage",
    [b"\xff", b"{", b"[]", b"{}", b'{"sha256": "", "answer": {}}', b"[" * 9999, "another text", "another count"],
)
def test_answers_from_a_damaged_line_on_are_asked_again(damage, tmp_path, capsys):
    path = tmp_path / "base.jsonl"
    first, *others = (Generation(name, "text", True, 3, 2, 0.5) for name in "abc")
    Journal(path, "one").append([first, *others])
    head, line, second, last = path.read_bytes().splitlines()
    if damage == "another text":
        damage = second.replace(b"text", b"tex5")
    elif damage == "another count":
        damage = second.replace(b": 3", b": 7")
    assert damage != second
    path.write_bytes(b"\n".join([head, line, damage, last, b""]))
    journal = Journal(path, "one")
    assert journal.answers == {"a": first}
    assert capsys.readouterr().out.count("line 3 is damaged") == 1
    Journal(path, "one").append(others)
    assert "damaged" not in capsys.readouterr().out, "said once"
    assert list(Journal(path, "one").answers) == ["a", "b", "c"]


def test_a_prompt_that_is_too_long_is_wrong_with_a_reason(tiny_model, tmp_path):
    config = CONFIG.model_copy(update={"max_prompt_tokens": 16, "categories": ("irrelevance", "multiple")})
    metrics = evaluate.run_models(config, {"model": tiny_model}, outputs(tmp_path))
    assert metrics["irrelevance"] == metrics["multiple"] == 0.0  # silence does not earn irrelevance
    assert read_scores(tmp_path).categories["irrelevance"].reasons == {"prompt_too_long": 3}


def test_the_models_context_is_a_limit_as_well(tiny_model, tmp_path):
    config = CONFIG.model_copy(
        update={"max_prompt_tokens": 100_000, "max_new_tokens": 4090, "categories": ("multiple",)}
    )
    evaluate.run_models(config, {"model": tiny_model}, outputs(tmp_path))
    assert read_scores(tmp_path).categories["multiple"].reasons == {"prompt_too_long": 3}


@pytest.mark.parametrize("max_new_tokens", [4096, 5000])
def test_a_context_without_room_for_a_prompt_is_refused(tiny_model, tmp_path, max_new_tokens):
    config = CONFIG.model_copy(update={"max_new_tokens": max_new_tokens})
    with pytest.raises(InputError, match=f"bfcl_eval.max_new_tokens: {max_new_tokens} leaves no room .* 4096 tokens"):
        evaluate.run_models(config, {"model": tiny_model}, outputs(tmp_path))


def test_sampled_answers_do_not_depend_on_the_company(tiny_model, tmp_path):
    config = CONFIG.model_copy(update={"temperature": 1.0, "batch_size": 9})
    evaluate.run_models(config, {"model": tiny_model}, outputs(tmp_path / "all"))
    alone = config.model_copy(update={"categories": ("irrelevance",), "batch_size": 1})
    evaluate.run_models(alone, {"model": tiny_model}, outputs(tmp_path / "alone"))
    some = turns(tmp_path / "alone")
    assert some == {key: value for key, value in turns(tmp_path / "all").items() if key in some}
    other = alone.model_copy(update={"seed": 1})
    evaluate.run_models(other, {"model": tiny_model}, outputs(tmp_path / "other"))
    assert turns(tmp_path / "other") != some


def test_a_model_that_is_not_there_is_named(stages, tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        evaluate.run(CONFIG, stages | {"egpo_rl": tmp_path / "nowhere"}, outputs(tmp_path / "out"))
    with pytest.raises(InputError, match="nowhere"):
        evaluate.run_models(CONFIG, {"model": tmp_path / "nowhere"}, outputs(tmp_path / "out"))


@pytest.mark.parametrize("rank", ["four", None])
def test_an_adapter_without_a_rank_is_named(stages, tmp_path, rank):
    shutil.copytree(stages["egpo_rl"], tmp_path / "model")
    config = tmp_path / "model" / "model" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"r": rank}))
    with pytest.raises(InputError, match=f"adapter_config.json: r is {rank}"):
        evaluate.run_models(CONFIG, {"model": tmp_path / "model"}, outputs(tmp_path / "out"))


@pytest.mark.parametrize(("setting", "value"), [("categories", ("simple_java",))])
def test_wrong_settings_are_refused_before_a_model_is_looked_for(tmp_path, setting, value):
    config = CONFIG.model_copy(update={setting: value})
    with pytest.raises(InputError, match=f"bfcl_eval.{setting}"):
        evaluate.run(config, {"sft_warmup": tmp_path, "egpo_rl": tmp_path}, outputs(tmp_path / "out"))
