"""Report pages of an evaluation: one model, and the comparison of several on the same questions. Only draws."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from components.bfcl_eval.benchmarks import Benchmark
from components.bfcl_eval.generations import Generation
from components.bfcl_eval.questions import Question
from components.bfcl_eval.summary import CALLING, MODELS, headline, headlines_of, percent, share, small_sample
from components.evaluations.comparison import Comparison, compare
from components.evaluations.intervals import Difference
from components.evaluations.schema import CategoryScore, Evaluation, GroupScore, Outcome, Scores
from components.services.report import Bars, Block, Detail, Details, Table, Text, write_report
from components.services.turn_texts import offered_texts, prompt_text, turn_texts

INTERVALS = "Whiskers and brackets are 95 % intervals of each accuracy (Wilson)."
SHOWN = 200  # questions in a list to open: all of BFCL's would make pages of tens of megabytes
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
    scores, name = answered.scores, answered.scores.model.name
    wrong = [place for place, outcome in enumerate(answered.outcomes) if not outcome.right]
    by_category = [_bars("accuracy by category", list(scores.categories), {name: scores.categories})]
    blocks: list[Block] = [
        _headlines({name: scores}),
        *(by_category if benchmark.rescore else []),
        Table(
            "categories",
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
        _details("wrong answers", wrong, benchmark.questions, {name: answered}),
        _method(scores),
    ]
    write_report(path, f"{benchmark.name}: {name}", _sentence({name: scores}, benchmark), blocks)


def write_comparison(path: Path, compared: Sequence[tuple[Benchmark, Mapping[str, Answered]]]) -> None:
    """The page that compares models on the same questions.

    Args:
        compared: for each benchmark, in the order shown, the models by folder name, in the order of training.
    """
    pictures: list[Block] = []
    tables: list[Block] = []
    sentences = []
    for benchmark, found in compared:
        models = {MODELS[name]: answered for name, answered in found.items()}
        drawn, listed = _compared(benchmark, models)
        name = benchmark.name[:1].upper() + benchmark.name[1:]
        pictures += [replace(block, title=f"{name}: {block.title}") for block in drawn]
        tables += [replace(block, title=f"{name}: {block.title}") for block in listed]
        sentences.append(_sentence({name: answered.scores for name, answered in models.items()}, benchmark))
    write_report(path, "Evaluation: " + ", ".join(models), " ".join(sentences), [*pictures, *tables])


def _compared(benchmark: Benchmark, models: Mapping[str, Answered]) -> tuple[list[Block], list[Block]]:
    """Pictures, and what is read below them."""
    scores = {name: answered.scores for name, answered in models.items()}
    pairs = {
        (one, two): compare(first.evaluation, second.evaluation)
        for (one, first), (two, second) in combinations(models.items(), 2)
    }
    names = list(models)
    first, last = names[0], names[-1]
    whole = pairs[first, last]
    pictures: list[Block] = [_headlines(scores)]
    tables: list[Block] = [
        Table(
            "paired differences",
            PAIRED_COLUMNS,
            [
                [*pair, headline(group), *_difference(difference)]
                for pair, comparison in pairs.items()
                for group, difference in comparison.group_differences().items()
            ],
            note="The same questions before and after. An interval that lies above 0 shows that the second model is "
            "better, one that holds 0 shows nothing.",
        )
    ]
    if benchmark.rescore:  # a leaderboard with categories, and sums over them
        found = {name: one.categories for name, one in scores.items()}
        pictures.append(_bars("accuracy by category", list(scores[first].categories), found))
        tables += [*_category_tables(scores, pairs), _groups(scores), _official(scores)]
    gained, lost = set(whole.gained), set(whole.lost)
    places = {question.id: place for place, question in enumerate(benchmark.questions)}
    still = [places[outcome.id] for outcome in models[last].outcomes if not outcome.right and outcome.id not in lost]
    return pictures, [
        *tables,
        _failures(models),
        _forms(models),
        _details(f"gained from {first} to {last}", [places[one] for one in gained], benchmark.questions, models),
        _details(f"lost from {first} to {last}", [places[one] for one in lost], benchmark.questions, models),
        _details(f"wrong with {first} and {last}", still, benchmark.questions, models),
        _method(scores[first]),
    ]


def _category_tables(scores: Mapping[str, Scores], pairs: Mapping[tuple[str, str], Comparison]) -> list[Block]:
    first = next(iter(scores.values()))
    return [
        Table(
            "categories",
            ["category", "asked", "of", *scores],
            [
                [category, entry.n, entry.of, *(share(one.categories[category]) for one in scores.values())]
                for category, entry in first.categories.items()
            ],
        ),
        Table(
            "paired differences by category",
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


def _sentence(models: Mapping[str, Scores], benchmark: Benchmark) -> str:
    """Each headline by itself, never two in one."""
    first = next(iter(models.values()))
    parts = []
    for group in headlines_of(first):
        what = "calls right" if group in CALLING else "no call where none fits"
        values = ", ".join(f"{percent(scores.groups[group].accuracy)} ({name})" for name, scores in models.items())
        parts.append(f"{what} on {first.groups[group].questions:,} {benchmark.items}: {values}")
    text = "; ".join(parts) or f"none of the {benchmark.items} asks for a call or fits none"
    return f"{text[:1].upper()}{text[1:]}."


def _headlines(models: Mapping[str, Scores]) -> Bars:
    groups = headlines_of(next(iter(models.values())))
    bars = _bars(
        "calls, and where no call fits",
        [headline(group) for group in groups],
        {name: {headline(group): scores.groups[group] for group in groups} for name, scores in models.items()},
    )
    return replace(bars, note=f"{INTERVALS} {small_sample(models)}".strip())


def _bars(title: str, names: Sequence[str], models: Mapping[str, Mapping[str, CategoryScore | GroupScore]]) -> Bars:
    """Accuracies of those groups or categories."""
    found = {name: {model: entries[name] for model, entries in models.items()} for name in names}
    return Bars(
        title,
        "accuracy, %",
        {name: {model: _points(entry.accuracy) for model, entry in row.items()} for name, row in found.items()},
        {
            name: {model: (_points(entry.interval[0]), _points(entry.interval[1])) for model, entry in row.items()}
            for name, row in found.items()
        },
        full=100,
        note=INTERVALS,
    )


def _points(share: float) -> float:
    return round(100 * share, 1)


def _groups(models: Mapping[str, Scores]) -> Table:
    first = next(iter(models.values()))
    return Table(
        "groups, over what was asked",
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
        "the leaderboard's sums",
        ["sum", *models],
        [[name, *(percent(scores.official[name]) for scores in models.values())] for name in first.official],
        note="What was not asked counts 0 here. The overall is 10 % non-live, 10 % live, 10 % irrelevance, 30 % "
        "multi-turn, 40 % agentic; multi-turn, agentic, Java and JavaScript are not run, so compare groups, not this "
        "sum. overall_of_asked spreads the weights over what was asked: it mixes calls and irrelevance, and no "
        "leaderboard prints it.",
    )


def _failures(models: Mapping[str, Answered]) -> Table:
    return _code_table("why answers are wrong", "reason", models, lambda item: None if item.right else item.reason)


def _forms(models: Mapping[str, Answered]) -> Table:
    return _code_table(
        "form of the turn",
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


def _details(
    title: str, places: Sequence[int], questions: Sequence[Question], models: Mapping[str, Answered]
) -> Details:
    last = list(models.values())[-1]
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for place in sorted(places):
        kind = (questions[place].category, last.outcomes[place].reason)
        ranked.append((seen[kind], place))
        seen[kind] += 1
    shown = sorted(place for _, place in sorted(ranked)[:SHOWN])
    items = [_detail(questions[place], last.outcomes[place], models, place) for place in shown]
    note = f"{len(places):,} questions." if places else ""
    if len(items) < len(places):
        note += f" {SHOWN} are shown, some of every category and reason; outcomes.jsonl and generations/ have all."
    return Details(title, items, note)


def _heading(question: Question) -> str:
    asked = question.messages[-1].content.strip().replace("\n", " ")
    return f"{question.id}: {asked if len(asked) <= 110 else asked[:107] + '...'}"


def _detail(question: Question, outcome: Outcome, models: Mapping[str, Answered], place: int) -> Detail:
    texts = {"prompt": prompt_text(map(asdict, question.messages))}
    for name, answered in models.items():
        verdict = "right" if answered.outcomes[place].right else answered.outcomes[place].reason
        texts |= turn_texts(answered.answers[place].turn, f"{name} ({verdict})")
    wanted = "a call" if question.category.endswith("_relevance") else "no call"
    texts["gold"] = json.dumps(question.gold, ensure_ascii=False) if question.gold else wanted
    group = outcome.reason or question.category
    return Detail(_heading(question), texts, offered_texts([asdict(tool) for tool in question.tools]), group)


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
        "how this was measured",
        f"{what} Ids: sha256 {asked.ids_sha256[:16]}.\n\n"
        f"{tool.name} {tool.version}, data {tool.data}; prompt version {scores.prompt_version}; {how}, one answer a "
        f"question by {sampling.sampler}, at most {sampling.max_new_tokens} new tokens, weights in {sampling.dtype}."
        + (
            f"\n\nScore the generations again with the official tool, in the evaluation directory:\n{scores.rescore}"
            if scores.rescore
            else ""
        ),
    )
