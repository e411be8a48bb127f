"""The pages of an evaluation: model output is not live in them, and the numbers on them are those of the scores."""

from __future__ import annotations

import re

from components.bfcl_eval import pages
from components.bfcl_eval.benchmarks import bfcl
from components.bfcl_eval.evaluate import grade_answer
from components.bfcl_eval.generations import Generation
from components.bfcl_eval.questions import evaluator
from components.evaluations.groups import SIZES
from components.evaluations.schema import EvaluatedModel, Evaluation, Sampling, make_scores
from components.function_calls.prompt import ToolNames, render_calls
from components.settings import BfclEvalSettings

BENCHMARK = bfcl(BfclEvalSettings(categories=("simple_python", "irrelevance"), sample_per_category=6))
QUESTIONS = BENCHMARK.questions


def answered(turns: list[str]) -> pages.Answered:
    answers = [
        Generation(question.id, turn, True, 100, 10, 1.0) for question, turn in zip(QUESTIONS, turns, strict=True)
    ]
    outcomes = [grade_answer(question, answer) for question, answer in zip(QUESTIONS, answers, strict=True)]
    scores = make_scores(
        outcomes,
        SIZES,
        model=EvaluatedModel(name="base", reference="/base", weights_sha256="0" * 64),
        evaluator=evaluator(),
        prompt_version="1",
        seed=0,
        sampling=Sampling(temperature=0.0, max_new_tokens=10, max_prompt_tokens=100, dtype="float32"),
        sample_per_category=6,
        rescore="bfcl evaluate",
    )
    return pages.Answered(Evaluation(scores, outcomes), answers)


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
    base = answered([hostile] * 12)
    last = answered([*gold[:4], hostile, hostile, *gold[6:11], "<think></think>\n[f(a='</pre><script>')]"])
    path = tmp_path / "report.html"
    pages.write_comparison(path, [(BENCHMARK, {"base": base, "egpo_rl": last})])
    html = path.read_text("utf-8")
    assert "<script" not in html and "<img" not in html and "&lt;script&gt;" in html
    assert [row[:5] for row in cells(html, "BFCL: paired differences")] == [
        ["base", "EGPO", "calls", "6", "+66.7 points"],
        ["base", "EGPO", "non_live", "6", "+66.7 points"],
        ["base", "EGPO", "irrelevance", "6", "-16.7 points"],
    ]
    assert [row[2:6] for row in cells(html, "Paired differences by category")] == [
        ["simple_python", "6", "4", "0"],
        ["irrelevance", "6", "0", "1"],
    ]
    assert cells(html, "Why answers are wrong") == [
        ["no_call:not_a_list", "6", "2"],
        ["called_though_irrelevant", "0", "1"],
    ]
    assert [row[:3] for row in cells(html, "Categories")] == [
        ["simple_python", "6", "400"],
        ["irrelevance", "6", "240"],
    ]
    assert "Calls right on 6 BFCL questions: 0.0 % (base), 66.7 % (EGPO)." in html
    assert "No call where none is right on 6 BFCL questions: 100.0 % (base), 83.3 % (EGPO)." in html
    assert "Few questions:" in html and "A sample: 12 of 640" in html
    gained = html.partition("<h2>Gained from base to EGPO</h2>")[2].partition("</section>")[0]
    assert gained.count("<details>") == 4 and "4 of 4." in gained


def test_single_page_shows_wrong_answers_of_all_categories(tmp_path):
    path = tmp_path / "report.html"
    pages.write_page(path, BENCHMARK, answered(["[f(a=1)]"] * 12))
    html = path.read_text("utf-8")
    assert html.count("<details>") == 12 and "called_though_irrelevant" in html and "wrong_func_name" in html
    assert cells(html, "Form of the turn") == [["no_thought", "12"]]
