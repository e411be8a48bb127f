"""The official `bfcl evaluate`, run on our generations, gives our accuracies.

Opt-in, because bfcl-eval pins a stack of its own: `python -m venv X && X/bin/pip install bfcl-eval soundfile`, then
CALLFORGE_BFCL=X/bin/bfcl pytest tests/unit/bfcl_eval/test_official_tool.py
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from components.bfcl_eval.benchmarks import rescore_command
from components.bfcl_eval.evaluate import grade_answer
from components.bfcl_eval.generations import Generation, write_results
from components.bfcl_eval.grading import OFFICIAL_NAME
from components.bfcl_eval.questions import Question, load_questions
from components.evaluations.means import SIZES, official_means
from components.evaluations.schema import category_scores
from components.function_calls.prompt import ToolNames, render_calls

BFCL = os.environ.get("CALLFORGE_BFCL", "")
pytestmark = pytest.mark.skipif(not BFCL, reason="CALLFORGE_BFCL does not name the official bfcl command")


def answers_of_all_kinds(questions: list[Question], gold_calls) -> list[str]:
    """Gold for one question in three, else a way of writing or missing it that models have."""
    ways = [
        lambda text: text,
        lambda text: text,
        lambda text: text[1:-1],
        lambda text: f"```\n{text}\n```",
        lambda text: f"```python\n{text}\n```",
        lambda text: f"Sure: {text}",
        lambda text: text.replace("=", "=(", 1).replace(")", "))", 1),
        lambda text: text.replace('"', "", 2),
        lambda text: text.replace("True", "true").replace("False", "false").replace("None", "null"),
        lambda text: text.replace("[", "(").replace("]", ")"),
        lambda text: text.replace("(", "_x(", 1),
        lambda text: text.replace("(", "(extra=1, ", 1),
        lambda text: text.replace("(", "(1, ", 1),
        lambda text: text.replace("(", "(**{'a': 1}, ", 1),
        lambda text: text[:-1],
        lambda text: text[:-2],
        lambda text: text[:-1] + ", " + text[1:],
        lambda text: text.replace(".", "_", 1),
        lambda text: text.replace("1", "2", 1),
        lambda text: text.replace("=", "=-", 1),
        lambda text: text.upper(),
        lambda text: "None of the functions can answer this request.",
        lambda text: "Sorry",
        lambda text: "",
        lambda text: "[]",
        lambda text: f"<think>I call {text}",
        lambda text: '[{"name": "f", "arguments": {}}]',
        lambda text: f"{text}\n{text}",
        lambda text: f"print({text})",
        lambda text: f"result = {text}",
    ]
    texts = []
    for index, question in enumerate(questions):
        calls = gold_calls(question) if question.gold else []
        text = render_calls(calls, ToolNames(question.tools)) if calls else '[some.tool(a=1, b="x")]'
        answer = text if index % 3 == 0 else ways[index // 3 % len(ways)](text)
        texts.append(f"<think>Reasoning {index}.</think>\n{answer}")
    return texts


@pytest.mark.parametrize("sample", [0, 20])
def test_the_official_tool_agrees(sample, gold_calls, tmp_path):
    questions = load_questions(tuple(SIZES), sample)
    turns = answers_of_all_kinds(questions, gold_calls)
    answers = [
        Generation(question.id, turn, True, 100, 10, 1.0) for question, turn in zip(questions, turns, strict=True)
    ]
    write_results(tmp_path / "generations", questions, answers)
    ours = category_scores([grade_answer(*pair) for pair in zip(questions, answers, strict=True)], SIZES)

    command = [BFCL, *shlex.split(rescore_command(SIZES))[2:]]
    subprocess.run(
        command, check=True, cwd=tmp_path, env=os.environ | {"BFCL_PROJECT_ROOT": str(tmp_path)}, timeout=200
    )

    folder = tmp_path / "score" / OFFICIAL_NAME.replace("/", "_")
    for category, entry in ours.items():
        (path,) = folder.rglob(f"BFCL_v4_{category}_score.json")
        head, *wrong = [json.loads(line) for line in path.read_text().splitlines()]
        assert (head["correct_count"], head["total_count"]) == (entry.correct, entry.n), category
        assert 0 < entry.correct < entry.n, f"{category}: the check would not notice"
        assert len(wrong) == entry.n - entry.correct
    if not sample:
        means = official_means({category: entry.accuracy for category, entry in ours.items()})
        with (tmp_path / "score" / "data_overall.csv").open() as file:
            (row,) = csv.DictReader(file)
        for column, mean in (
            ("Overall Acc", "overall"),
            ("Live Acc", "live"),
            ("Irrelevance Detection", "irrelevance"),
        ):
            assert row[column] == f"{100 * means[mean]:.2f}%", column
        with Path(tmp_path / "score" / "data_non_live.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert row["Non-Live Overall Acc"] == f"{100 * means['non_live']:.2f}%", row
