"""Report pages of an evaluation: one model, and the comparison of several on the same questions. Only draws."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from components.bfcl_eval.benchmarks import Benchmark
from components.bfcl_eval.generations import Generation
from components.bfcl_eval.questions import Question
from components.bfcl_eval.summary import CALLING, MODELS, headlines_of, percent, share, small_sample
from components.evaluations.comparison import Comparison, compare
from components.evaluations.intervals import Difference
from components.evaluations.schema import CategoryScore, Evaluation, GroupScore, Outcome, Scores
from components.services.report import Bars, Examples, Section, Table, Text, write_report

EXAMPLES = 12  # questions shown of each kind
INTERVALS = "Whiskers and brackets are 95 % intervals of each accuracy (Wilson)."
PAIRED_COLUMNS = ("from", "to", "of", "questions", "difference", "95 % interval")


@dataclass(frozen=True)
class Answered:
    """One model's evaluation and its answers, in the order of the questions."""

    evaluation: Evaluation
    answers: Sequence[Generation]

    @property
    def scores(self) -> Scores:
        """The evaluation's sums."""
        return self.evaluation.scores

    @property
    def outcomes(self) -> Sequence[Outcome]:
        """The evaluation's outcomes: one answer a question."""
        return self.evaluation.outcomes


def write_page(path: Path, benchmark: Benchmark, answered: Answered) -> None:
    """The page of one evaluation directory."""
    questions = benchmark.questions
    scores, name = answered.scores, answered.scores.model.name
    wrong = [place for place, outcome in enumerate(answered.outcomes) if not outcome.right]
    shown = _spread(wrong, questions)
    sections: list[Section] = [
        _bars("Calls and irrelevance", headlines_of(scores), {name: scores.groups}),
        _bars("Accuracy by category", list(scores.categories), {name: scores.categories}),
        Table(
            "Categories",
            ["category", "asked", "of", "right", "accuracy", "cut", "tokens an answer"],
            [
                [category, entry.n, entry.of, entry.correct, share(entry), entry.cut, entry.mean_completion_tokens]
                for category, entry in scores.categories.items()
            ],
            note="cut: answers that were not finished within max_new_tokens.",
        ),
        *([_groups({name: scores}), _official({name: scores})] if benchmark.rescore else []),
        _failures({name: answered}),
        _forms({name: answered}),
        Examples(
            "Wrong answers",
            [(_heading(questions[i], answered.outcomes[i]), _texts(questions[i], {name: answered}, i)) for i in shown],
            note=f"{len(shown)} of {len(wrong)}, from all categories by turns.",
        ),
        _method(scores),
    ]
    write_report(path, f"{benchmark.name}: {name}", _sentence({name: scores}, benchmark.name), sections)


def write_comparison(path: Path, compared: Sequence[tuple[Benchmark, Mapping[str, Answered]]]) -> None:
    """The page that compares models on the same questions.

    Args:
        compared: for each benchmark, in the order shown, the models by folder name, in the order of training.
    """
    sections: list[Section] = []
    sentences = []
    for benchmark, found in compared:
        models = {MODELS[name]: answered for name, answered in found.items()}
        sections += _compared_sections(benchmark, models)
        sentences.append(_sentence({name: answered.scores for name, answered in models.items()}, benchmark.name))
    write_report(path, "Evaluation: " + ", ".join(models), " ".join(sentences), sections)


def _compared_sections(benchmark: Benchmark, models: Mapping[str, Answered]) -> list[Section]:
    questions = benchmark.questions
    scores = {name: answered.scores for name, answered in models.items()}
    pairs = {
        (one, two): compare(first.evaluation, second.evaluation)
        for (one, first), (two, second) in combinations(models.items(), 2)
    }
    names = list(models)
    first, last = names[0], names[-1]
    whole = pairs[first, last]
    sections: list[Section] = [
        _bars(
            f"{benchmark.name}: calls, and where no call is right",
            headlines_of(scores[first]),
            {name: one.groups for name, one in scores.items()},
        ),
        Table(
            f"{benchmark.name}: paired differences",
            PAIRED_COLUMNS,
            [
                [*pair, group, *_difference(difference)]
                for pair, comparison in pairs.items()
                for group, difference in comparison.group_differences().items()
            ],
            note="The same questions before and after. An interval that lies above 0 shows that the second model is "
            "better, one that holds 0 shows nothing.",
        ),
    ]
    if benchmark.rescore:  # a leaderboard with categories, and sums over them
        sections += [*_category_sections(scores, pairs), _groups(scores), _official(scores)]
    return [
        *sections,
        _failures(models),
        _forms(models),
        _changed(f"Gained from {first} to {last}", whole.gained, questions, models),
        _changed(f"Lost from {first} to {last}", whole.lost, questions, models),
        _method(scores[first]),
    ]


def _category_sections(scores: Mapping[str, Scores], pairs: Mapping[tuple[str, str], Comparison]) -> list[Section]:
    first = next(iter(scores.values()))
    return [
        _bars("Accuracy by category", list(first.categories), {name: one.categories for name, one in scores.items()}),
        Table(
            "Categories",
            ["category", "asked", "of", *scores],
            [
                [category, entry.n, entry.of, *(share(one.categories[category]) for one in scores.values())]
                for category, entry in first.categories.items()
            ],
        ),
        Table(
            "Paired differences by category",
            [*PAIRED_COLUMNS[:4], "gained", "lost", *PAIRED_COLUMNS[4:], "p"],
            [row for pair, comparison in pairs.items() for row in _category_rows(pair, comparison)],
            note="Categories in which something changed: gained became right, lost became wrong. p is McNemar's exact "
            "test; of many rows, one in twenty is below 0.05 by chance.",
        ),
    ]


def tracked_table(found: Mapping[str, Answered]) -> list[dict[str, Any]]:
    """Rows of the table that is logged to the tracker."""
    return [
        {"model": name, "category": category, "n": entry.n, "correct": entry.correct, "accuracy": entry.accuracy}
        | dict(zip(("low", "high"), entry.interval, strict=True))
        for name, answered in found.items()
        for category, entry in answered.scores.categories.items()
    ]


def _sentence(models: Mapping[str, Scores], benchmark: str) -> str:
    """What a hurried reader must know: each headline by itself, never the two in one."""
    first = next(iter(models.values()))
    parts = []
    for group in headlines_of(first):
        what = "calls right" if group in CALLING else "no call where none is right"
        values = ", ".join(f"{percent(scores.groups[group].accuracy)} ({name})" for name, scores in models.items())
        parts.append(f"{what} on {first.groups[group].questions:,} {benchmark} questions: {values}.")
    parts = [part[:1].upper() + part[1:] for part in parts]
    return " ".join([*parts, small_sample(models)]).strip() or "No question of a call or of irrelevance was asked."


def _bars(title: str, names: Sequence[str], models: Mapping[str, Mapping[str, CategoryScore | GroupScore]]) -> Bars:
    """Accuracies of those groups or categories."""
    found = {name: {model: entries[name] for model, entries in models.items()} for name in names}
    return Bars(
        title,
        "accuracy, %",
        {name: {model: 100 * entry.accuracy for model, entry in row.items()} for name, row in found.items()},
        {
            name: {model: (100 * entry.interval[0], 100 * entry.interval[1]) for model, entry in row.items()}
            for name, row in found.items()
        },
        note=INTERVALS,
    )


def _groups(models: Mapping[str, Scores]) -> Table:
    first = next(iter(models.values()))
    return Table(
        "Groups, over what was asked",
        ["group", "questions", *models],
        [
            [group, entry.questions, *(share(scores.groups[group]) for scores in models.values())]
            for group, entry in first.groups.items()
        ],
        note="calls: mean of non_live and live. non_live: mean of simple, multiple, parallel, parallel_multiple. live: "
        "weighted by the benchmark's numbers of questions. irrelevance: mean of irrelevance and live_irrelevance; a "
        "model that never calls has it right, so read it beside calls.",
    )


def _official(models: Mapping[str, Scores]) -> Table:
    first = next(iter(models.values()))
    return Table(
        "The leaderboard's sums",
        ["sum", *models],
        [[name, *(percent(scores.official[name]) for scores in models.values())] for name in first.official],
        note="What was not asked counts 0 here. The overall is 10 % non-live, 10 % live, 10 % irrelevance, 30 % "
        "multi-turn, 40 % agentic; multi-turn, agentic, Java and JavaScript are not run, so compare groups, not this "
        "sum. overall_of_asked spreads the weights over what was asked: it mixes calls and irrelevance, and no "
        "leaderboard prints it.",
    )


def _failures(models: Mapping[str, Answered]) -> Table:
    return _code_table("Why answers are wrong", "reason", models, lambda item: None if item.right else item.reason)


def _forms(models: Mapping[str, Answered]) -> Table:
    return _code_table(
        "Form of the turn",
        "form",
        models,
        lambda item: item.form or "as trained",
        "As trained: <think>..</think>, a newline, then a call list. not_a_list is plain text, right where no call is. "
        "BFCL grades only the text after the thought.",
    )


def _code_table(
    title: str, column: str, models: Mapping[str, Answered], code: Callable[[Outcome], str | None], note: str = ""
) -> Table:
    counts = {
        name: Counter(found for found in map(code, answered.outcomes) if found is not None)
        for name, answered in models.items()
    }
    codes = sorted(
        {code for count in counts.values() for code in count}, key=lambda c: (-max(n[c] for n in counts.values()), c)
    )
    return Table(title, [column, *models], [[c, *(count[c] for count in counts.values())] for c in codes], note)


def _category_rows(pair: tuple[str, str], comparison: Comparison) -> list[list[Any]]:
    rows = []
    for category, found in comparison.changes.items():
        if found.gained + found.lost:
            questions, *difference = _difference(comparison.category_difference(category))
            rows.append([*pair, category, questions, found.gained, found.lost, *difference, f"{found.p:.3g}"])
    return rows


def _difference(difference: Difference) -> list[Any]:
    interval = f"{100 * difference.low:+.1f} to {100 * difference.high:+.1f}"
    return [difference.questions, f"{100 * difference.mean:+.1f} points", interval]


def _changed(
    title: str, identifiers: Sequence[str], questions: Sequence[Question], models: Mapping[str, Answered]
) -> Examples:
    wanted = set(identifiers)
    shown = _spread([place for place, question in enumerate(questions) if question.id in wanted], questions)
    last = list(models.values())[-1]
    items = [(_heading(questions[i], last.outcomes[i]), _texts(questions[i], models, i)) for i in shown]
    return Examples(title, items, note=f"{len(shown)} of {len(identifiers)}.")


def _spread(places: Sequence[int], questions: Sequence[Question]) -> list[int]:
    """At most EXAMPLES of `places`, from all categories by turns, in order."""
    turns: Counter[str] = Counter()
    ranked = []
    for place in places:
        category = questions[place].category
        ranked.append((turns[category], place))
        turns[category] += 1
    return sorted(place for _, place in sorted(ranked)[:EXAMPLES])


def _heading(question: Question, outcome: Outcome) -> str:
    asked = question.messages[-1].content.strip().replace("\n", " ")
    asked = asked if len(asked) <= 110 else asked[:107] + "..."
    return f"{question.id}: {asked}" + ("" if outcome.right else f" ({outcome.reason})")


def _texts(question: Question, models: Mapping[str, Answered], place: int) -> dict[str, str]:
    texts = {"question": "\n".join(f"{message.role}: {message.content}" for message in question.messages)}
    texts["functions offered"] = ", ".join(tool.name for tool in question.tools) or "none"
    wanted = "a call" if question.category.endswith("_relevance") else "no call"
    texts["right answer"] = json.dumps(question.gold, ensure_ascii=False) if question.gold else wanted
    for name, answered in models.items():
        outcome = answered.outcomes[place]
        texts[f"{name}: {'right' if outcome.right else outcome.reason}"] = answered.answers[place].turn or "(nothing)"
    return texts


def _method(scores: Scores) -> Text:
    asked, sampling, tool = scores.questions, scores.sampling, scores.evaluator
    what = (
        f"A sample: {asked.asked:,} of {asked.of:,} questions, at most {asked.sample_per_category} a category, chosen "
        f"by seed {scores.seed}. Read the intervals before the accuracies."
        if asked.is_sample
        else f"All {asked.of:,} questions of the categories named."
    )
    how = "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature}"
    return Text(
        "How this was measured",
        f"{what} Ids: sha256 {asked.ids_sha256[:16]}.\n\n"
        f"{tool.name} {tool.version}, data {tool.data}; prompt version {scores.prompt_version}; {how}, one answer a "
        f"question by {sampling.sampler}, at most {sampling.max_new_tokens} new tokens, weights in {sampling.dtype}."
        + (
            f"\n\nScore the generations again with the official tool, in the evaluation directory:\n{scores.rescore}"
            if scores.rescore
            else ""
        ),
    )
