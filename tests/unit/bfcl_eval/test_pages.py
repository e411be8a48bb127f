"""The pages of an evaluation: model output is not live in them, and the numbers on them are those of the scores."""

from __future__ import annotations

import re
from pathlib import Path

from components.bfcl_eval.benchmarks import bfcl
from components.bfcl_eval.evaluate import grade_answer
from components.bfcl_eval.generations import Generation, write_results
from components.bfcl_eval.questions import evaluator
from components.evaluations import page_blocks
from components.evaluations.compare import compare_folders
from components.evaluations.directory import read_evaluation, write_evaluation
from components.evaluations.means import SIZES
from components.evaluations.pages import write_model_page
from components.evaluations.schema import EvaluatedModel, Evaluation, Sampling, make_scores
from components.function_calls.prompt import ToolNames, render_calls
from components.settings import BfclEvalSettings
from tests.evaluation_support import evaluation

BENCHMARK = bfcl(BfclEvalSettings(categories=("simple_python", "irrelevance"), sample_per_category=6))
QUESTIONS = BENCHMARK.questions


def write(folder: Path, name: str, turns: list[str]) -> Evaluation:
    """An evaluation directory as the stage writes it."""
    answers = [
        Generation(question.id, turn, True, 100, 10, 1.0) for question, turn in zip(QUESTIONS, turns, strict=True)
    ]
    outcomes = [grade_answer(question, answer) for question, answer in zip(QUESTIONS, answers, strict=True)]
    scores = make_scores(
        outcomes,
        SIZES,
        model=EvaluatedModel(name=name, reference="/base", weights_sha256="0" * 64),
        evaluator=evaluator(),
        prompt_version="1",
        seed=0,
        sampling=Sampling(temperature=0.0, max_new_tokens=10, max_prompt_tokens=100, dtype="float32"),
        sample_per_category=6,
        rescore="bfcl evaluate",
    )
    write_results(folder / "generations", QUESTIONS, answers)
    write_evaluation(folder, Evaluation(scores, outcomes), [question.asked() for question in QUESTIONS])
    return read_evaluation(folder)


def model_page(folder: Path, turns: list[str]) -> str:
    write_model_page(folder / "report.html", folder, write(folder, "base", turns))
    return (folder / "report.html").read_text("utf-8")


TOLD = (("gained from", "to"), ("lost from", "to"), ("wrong with both", "and"))


def opened(html: str, title: str) -> int:
    return html.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0].count("<details>")


def cells(html: str, title: str) -> list[list[str]]:
    table = html.partition(f"<h2>{title}</h2>")[2].partition("</table>")[0]
    return [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]


def test_comparison_counts_what_changed(tmp_path, gold_calls):
    gold = [
        "<think>a</think>\n"
        + (render_calls(gold_calls(question), ToolNames(question.tools)) if question.gold else "No.")
        for question in QUESTIONS
    ]
    hostile = "<think></think>\n<script>alert(1)</script><img src=x onerror=alert(2)>"
    write(tmp_path / "base", "base", [hostile] * 12)
    last = [*gold[:4], hostile, hostile, *gold[6:11], "<think></think>\n[f(a='</pre><script>')]"]
    write(tmp_path / "egpo_rl", "EGPO", last)
    path = tmp_path / "report.html"
    compare_folders({"base": tmp_path / "base", "EGPO": tmp_path / "egpo_rl"}).write_page(path)
    html = path.read_text("utf-8")
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    assert [row[:5] for row in cells(html, "paired differences")] == [
        ["base", "EGPO", "calls", "6", "+66.7"],
        ["base", "EGPO", "non_live", "6", "+66.7"],
        ["base", "EGPO", "no call fits", "6", "-16.7"],
    ]
    assert [row[2:6] for row in cells(html, "paired differences by category")] == [
        ["simple_python", "6", "4", "0"],
        ["irrelevance", "6", "0", "1"],
    ]
    assert cells(html, "why answers are wrong") == [
        ["no_call:not_a_list", "6", "2"],
        ["called_though_irrelevant", "0", "1"],
    ]
    assert [row[:3] for row in cells(html, "categories")] == [
        ["simple_python", "6", "400"],
        ["irrelevance", "6", "240"],
    ]
    assert (
        "Calls right on 6 BFCL questions: 0.0 % (base), 66.7 % (EGPO); "
        "no call where none fits on 6 BFCL questions: 100.0 % (base), 83.3 % (EGPO)."
    ) in html.replace("\N{NO-BREAK SPACE}", " ")
    assert "Few questions:" in html and "A sample: 12 of 640" in html
    assert [opened(html, f"{what} base {to} EGPO") for what, to in TOLD] == [4, 1, 2]


def test_single_page_shows_wrong_answers_of_all_categories(tmp_path):
    html = model_page(tmp_path, ["[f(a=1)]"] * 12)
    assert opened(html, "wrong answers") == 12 and "called_though_irrelevant" in html and "wrong_func_name" in html
    assert cells(html, "form of the turn") == [["no_thought", "12"]]


def test_of_many_wrong_answers_some_of_every_kind_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(page_blocks, "SHOWN", 3)
    html = model_page(tmp_path, ["[f(a=1)]"] * 11 + ["[g("])
    assert opened(html, "wrong answers") == 3
    assert "called_though_irrelevant" in html and "wrong_func_name" in html
    assert "11 questions. 3 are shown" in html
    shown = html.partition("<h2>wrong answers</h2>")[2].partition("</section>")[0]
    assert "simple_python" in shown and "irrelevance" in shown


def test_wrong_answer_opens_with_prompt_schema_thought_answer_and_gold(tmp_path):
    html = model_page(tmp_path, ["<think>I take <b>any</b>.</think>\n[nothing(a=1)]"] + ["cut"] * 11)
    start = html.index(f"<summary>{QUESTIONS[0].id}: ")
    texts = re.findall(r'<p class="label">(.*?)</p>\n<pre>(.*?)</pre>', html[start:], re.DOTALL)[:4]
    assert [label for label, _ in texts] == [
        "prompt",
        "base (wrong_func_name): thought",
        "base (wrong_func_name): answer",
        "gold",
    ]
    assert texts[0][1].startswith("user: ") and texts[1][1] == "I take &lt;b&gt;any&lt;/b&gt;."
    assert texts[2][1] == "[nothing(a=1)]" and QUESTIONS[0].tools[0].name in texts[3][1]
    folded = html[start:].partition('<details class="folded">')[2].partition("</details>")[0]
    assert QUESTIONS[0].tools[0].name in folded and "&#34;parameters&#34;" in folded


def test_own_records_and_the_benchmark_show_all_pictures_before_the_tables(tmp_path):
    for name, turn in (("base", "no"), ("EGPO", "<think>a</think>\nNo.")):
        write(tmp_path / name, name, [turn] * 12)
        own = evaluation({"own_calls": "0101"}, model=read_evaluation(tmp_path / name).scores.model)
        write_evaluation(tmp_path / name / "own", own)
    path = tmp_path / "report.html"
    compare_folders({name: tmp_path / name for name in ("base", "EGPO")}).write_page(path)
    html = path.read_text("utf-8")
    titles = re.findall("<h2>(.*?)</h2>", html)
    assert titles[:4] == [
        "Own records: calls, and where no call fits",
        "BFCL: calls, and where no call fits",
        "BFCL: accuracy by category",
        "Own records: paired differences",
    ]
    assert len(set(titles)) == len(titles)
    assert html.index("own records: ") < html.index("BFCL questions: ")
