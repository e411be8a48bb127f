"""Report pages of an evaluation: one model, and the comparison of several on the same questions. Only draws."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from components.bfcl_eval.generations import Generation
from components.bfcl_eval.questions import Question
from components.bfcl_eval.scores import MODELS, Graded, compare, percent
from components.services.report import Bars, Examples, Section, Table, Text, write_report

EXAMPLES = 12  # questions shown of each kind
PAIR_COLUMNS = ("from", "to", "questions", "asked", "gained", "lost", "difference", "95 % interval", "p")
INTERVAL_NOTE = "Whiskers and brackets are 95 % Wilson intervals of each accuracy."


@dataclass(frozen=True)
class Evaluation:
    """One model's scores.json, answers and outcomes, the last two in the order of the questions."""

    scores: Mapping[str, Any]
    answers: Sequence[Generation]
    graded: Sequence[Graded]


def write_page(path: Path, name: str, questions: Sequence[Question], evaluation: Evaluation) -> None:
    """The page of one evaluation directory."""
    scores = evaluation.scores
    wrong = [i for i, item in enumerate(evaluation.graded) if not item.right]
    shown = _spread(wrong, questions)
    categories = scores["categories"]
    sections: list[Section] = [
        Bars(
            "Accuracy by category",
            "accuracy, %",
            {category: {name: 100 * entry["accuracy"]} for category, entry in categories.items()},
            {category: {name: _percents(entry)} for category, entry in categories.items()},
            note=INTERVAL_NOTE,
        ),
        Table(
            "Categories",
            ["category", "asked", "of", "right", "accuracy", "95 % interval", "cut", "tokens an answer"],
            [
                [
                    category,
                    entry["n"],
                    entry["of"],
                    entry["correct"],
                    percent(entry["accuracy"]),
                    _range(entry["interval"]),
                    entry["cut"],
                    entry["mean_output_tokens"],
                ]
                for category, entry in categories.items()
            ],
            note="cut: answers that were not finished within max_new_tokens.",
        ),
        _groups({name: evaluation}),
        _failures({name: evaluation}),
        _formats({name: evaluation}),
        Examples(
            "Wrong answers",
            [
                (_heading(questions[i], evaluation.graded[i]), _texts(questions[i], {name: evaluation}, i))
                for i in shown
            ],
            note=f"{len(shown)} of {len(wrong)}, from all categories by turns.",
        ),
        _method(scores),
    ]
    write_report(path, f"BFCL: {name}", _figures({name: evaluation}), sections)


def write_comparison(path: Path, questions: Sequence[Question], found: Mapping[str, Evaluation]) -> None:
    """The page that compares models on the same questions; `found` by folder name, in the order of training."""
    models = {MODELS[name]: evaluation for name, evaluation in found.items()}
    first = next(iter(models.values()))
    categories = list(first.scores["categories"])
    last = list(models)[-1]
    gained, lost = _changed(first, models[last])
    sections: list[Section] = [
        Bars(
            "Accuracy by category",
            "accuracy, %",
            {c: {name: 100 * e.scores["categories"][c]["accuracy"] for name, e in models.items()} for c in categories},
            {c: {name: _percents(e.scores["categories"][c]) for name, e in models.items()} for c in categories},
            note=INTERVAL_NOTE,
        ),
        Table(
            "Categories",
            ["category", "asked", "of", *models],
            [
                [
                    category,
                    first.scores["categories"][category]["n"],
                    first.scores["categories"][category]["of"],
                    *(
                        f"{percent(entry['accuracy'])} {_range(entry['interval'])}"
                        for entry in (evaluation.scores["categories"][category] for evaluation in models.values())
                    ),
                ]
                for category in categories
            ],
        ),
        _groups(models),
        Table(
            "Paired differences",
            PAIR_COLUMNS,
            _pairs(models, ["all"]),
            note="The same questions before and after: gained became right, lost became wrong. p is McNemar's exact "
            "test; the interval is exact given the questions that changed.",
        ),
        Table(
            "Paired differences by category",
            PAIR_COLUMNS,
            _pairs(models, categories),
            note="Categories in which something changed. Of many rows, one in twenty is below 0.05 by chance.",
        ),
        _failures(models),
        _formats(models),
        _change_examples(f"Gained from {next(iter(models))} to {last}", gained, questions, models),
        _change_examples(f"Lost from {next(iter(models))} to {last}", lost, questions, models),
        _method(first.scores),
    ]
    write_report(path, "BFCL: " + ", ".join(models), _figures(models), sections)


def tracked_table(found: Mapping[str, Evaluation]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of the table that is logged to the tracker."""
    columns = ["model", "category", "n", "correct", "accuracy", "low", "high"]
    rows = [
        [name, category, entry["n"], entry["correct"], entry["accuracy"], *entry["interval"]]
        for name, evaluation in found.items()
        for category, entry in evaluation.scores["categories"].items()
    ]
    return columns, rows


def _figures(models: Mapping[str, Evaluation]) -> dict[str, Any]:
    first = next(iter(models.values())).scores
    asked = first["questions"]
    single = {
        name: evaluation.scores["over_what_was_run"].get("overall_single_turn") for name, evaluation in models.items()
    }
    figures: dict[str, Any] = {
        f"single-turn, {name}": percent(value) if value is not None else None for name, value in single.items()
    }
    figures["questions"] = (
        f"a sample of {asked['asked']:,} of {asked['of']:,}" if asked["is_sample"] else asked["asked"]
    )
    return figures


def _groups(models: Mapping[str, Evaluation]) -> Table:
    rows: list[list[Any]] = []
    for block, label in (("over_what_was_run", "over what was run"), ("official", "official: not run counts 0")):
        for group in next(iter(models.values())).scores[block]:
            rows.append([group, label, *(percent(evaluation.scores[block][group]) for evaluation in models.values())])
    return Table(
        "Groups",
        ["group", "mean", *models],
        rows,
        note="non_live: mean of simple, multiple, parallel, parallel_multiple. live: weighted by the benchmark's "
        "numbers of questions. irrelevance: mean of irrelevance and live_irrelevance; a model that never calls has it "
        "right. overall_single_turn: mean of these three. The official overall is 10 % of each of them, 30 % "
        "multi-turn and 40 % agentic, neither of which is run here, and its non_live counts Java and JavaScript, which "
        "are not run either: compare the groups, not that sum.",
    )


def _failures(models: Mapping[str, Evaluation]) -> Table:
    return _code_table("Why answers are wrong", "reason", models, lambda item: None if item.right else item.reason)


def _formats(models: Mapping[str, Evaluation]) -> Table:
    return _code_table(
        "Form of the turn",
        "form",
        models,
        lambda item: item.format or "as trained",
        "As trained: <think>..</think>, a newline, then a call list. not_a_list is plain text, right where no call is. "
        "BFCL grades the text after the thought alone.",
    )


def _code_table(title: str, column: str, models: Mapping[str, Evaluation], code: Any, note: str = "") -> Table:
    counts = {
        name: Counter(found for found in map(code, evaluation.graded) if found is not None)
        for name, evaluation in models.items()
    }
    codes = sorted(
        {code for count in counts.values() for code in count}, key=lambda c: (-max(n[c] for n in counts.values()), c)
    )
    return Table(title, [column, *models], [[c, *(count[c] for count in counts.values())] for c in codes], note)


def _pairs(models: Mapping[str, Evaluation], categories: Sequence[str]) -> list[list[Any]]:
    rows = []
    for (one, first), (two, second) in combinations(models.items(), 2):
        for category in categories:
            outcomes = [
                {item.id: item.right for item in evaluation.graded if category in ("all", item.category)}
                for evaluation in (first, second)
            ]
            pair = compare(*outcomes)
            if category != "all" and not pair.better + pair.worse:
                continue
            difference = f"{100 * pair.difference:+.1f} points"
            interval = f"{100 * pair.interval[0]:+.1f} to {100 * pair.interval[1]:+.1f}" if pair.interval else None
            rows.append([one, two, category, pair.n, pair.better, pair.worse, difference, interval, f"{pair.p:.3g}"])
    return rows


def _changed(first: Evaluation, last: Evaluation) -> tuple[list[int], list[int]]:
    pairs = list(enumerate(zip(first.graded, last.graded, strict=True)))
    gained = [i for i, (before, after) in pairs if after.right and not before.right]
    lost = [i for i, (before, after) in pairs if before.right and not after.right]
    return gained, lost


def _change_examples(
    title: str, places: Sequence[int], questions: Sequence[Question], models: Mapping[str, Evaluation]
) -> Examples:
    shown = _spread(places, questions)
    last = list(models.values())[-1]
    items = [(_heading(questions[i], last.graded[i]), _texts(questions[i], models, i)) for i in shown]
    return Examples(title, items, note=f"{len(shown)} of {len(places)}.")


def _spread(places: Sequence[int], questions: Sequence[Question]) -> list[int]:
    """At most EXAMPLES of `places`, from all categories by turns, in order."""
    turns: Counter[str] = Counter()
    ranked = []
    for place in places:
        category = questions[place].category
        ranked.append((turns[category], place))
        turns[category] += 1
    return sorted(place for _, place in sorted(ranked)[:EXAMPLES])


def _heading(question: Question, outcome: Graded) -> str:
    asked = question.messages[-1].content.strip().replace("\n", " ")
    asked = asked if len(asked) <= 110 else asked[:107] + "..."
    return f"{question.id}: {asked}" + ("" if outcome.right else f" ({outcome.reason})")


def _texts(question: Question, models: Mapping[str, Evaluation], place: int) -> dict[str, str]:
    texts = {"question": "\n".join(f"{message.role}: {message.content}" for message in question.messages)}
    texts["functions offered"] = ", ".join(tool.name for tool in question.tools) or "none"
    wanted = "a call" if question.category.endswith("_relevance") else "no call"
    texts["right answer"] = json.dumps(question.gold, ensure_ascii=False) if question.gold else wanted
    for name, evaluation in models.items():
        outcome = evaluation.graded[place]
        texts[f"{name}: {'right' if outcome.right else outcome.reason}"] = evaluation.answers[place].turn or "(nothing)"
    return texts


def _method(scores: Mapping[str, Any]) -> Text:
    asked, sampling, tool = scores["questions"], scores["sampling"], scores["evaluator"]
    what = (
        f"A sample: {asked['asked']} of {asked['of']} questions, at most {asked['sample_per_category']} a category, "
        f"chosen by seed {scores['seed']}. Read the intervals before the accuracies."
        if asked["is_sample"]
        else f"All {asked['of']} questions of the categories named."
    )
    how = "greedy" if sampling["temperature"] == 0 else f"temperature {sampling['temperature']}"
    return Text(
        "How this was measured",
        f"{what} Ids: sha256 {asked['ids_sha256'][:16]}.\n\n"
        f"{tool['name']} {tool['version']}, data {tool['data']}; prompt version {scores['prompt_version']}; {how}, one "
        f"answer a question, at most {sampling['max_new_tokens']} new tokens, weights in {sampling['dtype']}.\n\n"
        f"Score the generations again with the official tool, in the evaluation directory:\n{scores['rescore']}",
    )


def _percents(entry: Mapping[str, Any]) -> tuple[float, float]:
    low, high = entry["interval"]
    return 100 * low, 100 * high


def _range(interval: Sequence[float]) -> str:
    low, high = interval
    return f"[{100 * low:.0f}, {100 * high:.0f}]"
