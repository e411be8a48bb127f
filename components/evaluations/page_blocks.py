"""What the pages of evaluations are made of: a sentence, pictures, tables, and questions to open. Only draws.

Models are given by name, in the order shown; all were asked the same questions.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from components.evaluations.directory import read_questions, read_turns
from components.evaluations.means import CALLING
from components.evaluations.schema import AskedQuestion, CategoryScore, Evaluation, MeanScore, Outcome, Scores
from components.evaluations.words import headline, headlines_of, items_name, percent, share, small_sample
from components.services.report import Bars, Detail, Details, Table, Text
from components.services.turn_texts import offered_texts, prompt_text, turn_texts

SHOWN = 200  # questions in a list to open: all of BFCL's would make pages of tens of megabytes
INTERVALS = "Whiskers and brackets are 95 % intervals of each accuracy (Wilson)."


def sentence(models: Mapping[str, Scores]) -> str:
    """Each headline by itself, never two in one."""
    first = next(iter(models.values()))
    parts = []
    for mean in headlines_of(first):
        what = "calls right" if mean in CALLING else "no call where none fits"
        values = ", ".join(f"{percent(scores.means[mean].accuracy)} ({name})" for name, scores in models.items())
        parts.append(f"{what} on {first.means[mean].questions:,} {items_name(first)}: {values}")
    text = "; ".join(parts) or f"none of the {items_name(first)} asks for a call or fits none"
    return f"{text[:1].upper()}{text[1:]}."


def headline_bars(models: Mapping[str, Scores]) -> Bars:
    """The headlines of each model."""
    first = next(iter(models.values()))
    means = headlines_of(first)
    bars = category_bars(
        "calls, and where no call fits",
        [headline(mean) for mean in means],
        {name: {headline(mean): scores.means[mean] for mean in means} for name, scores in models.items()},
    )
    return replace(bars, note=f"{INTERVALS} {small_sample(first)}".strip())


def category_bars(
    title: str, names: Sequence[str], models: Mapping[str, Mapping[str, CategoryScore | MeanScore]]
) -> Bars:
    """Accuracies of those means or categories."""
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


def means_table(models: Mapping[str, Scores]) -> Table:
    """Every mean of each model, and how it is made."""
    first = next(iter(models.values()))
    return Table(
        "means, over what was asked",
        ["mean", "questions", *models],
        [
            [name, entry.questions, *(share(scores.means[name]) for scores in models.values())]
            for name, entry in first.means.items()
        ],
        note="calls: mean of non_live and live. non_live: mean of simple, multiple, parallel, parallel_multiple. live: "
        "weighted by the benchmark's numbers of questions. irrelevance: mean of irrelevance and live_irrelevance; a "
        "model that never calls has it right, so read it beside calls.",
    )


def official_table(models: Mapping[str, Scores]) -> Table:
    """The official sums."""
    first = next(iter(models.values()))
    return Table(
        "the leaderboard's sums",
        ["sum", *models],
        [[name, *(percent(scores.official[name]) for scores in models.values())] for name in first.official],
        note="What was not asked counts 0 here. The overall is 10 % non-live, 10 % live, 10 % irrelevance, 30 % "
        "multi-turn, 40 % agentic; multi-turn, agentic, Java and JavaScript are not run, so compare means, not this "
        "sum. overall_of_asked spreads the weights over what was asked: it mixes calls and irrelevance, and no "
        "leaderboard prints it.",
    )


def failures_table(models: Mapping[str, Evaluation]) -> Table:
    """How often each reason made an answer wrong."""
    return _code_table("why answers are wrong", "reason", models, lambda item: None if item.right else item.reason)


def forms_table(models: Mapping[str, Evaluation]) -> Table:
    """How often a turn had each form."""
    return _code_table(
        "form of the turn",
        "form",
        models,
        lambda item: item.form or "as trained",
        "As trained: <think>..</think>, a newline, then a call list. not_a_list is plain text, right where no call is. "
        "BFCL grades only the text after the thought.",
    )


def _code_table(
    title: str, column: str, models: Mapping[str, Evaluation], code: Callable[[Outcome], str | None], note: str = ""
) -> Table:
    counts = {
        name: Counter(found for found in map(code, evaluation.outcomes) if found is not None)
        for name, evaluation in models.items()
    }
    codes = sorted(
        {code for count in counts.values() for code in count}, key=lambda c: (-max(n[c] for n in counts.values()), c)
    )
    return Table(title, [column, *models], [[c, *(count[c] for count in counts.values())] for c in codes], note)


@dataclass(frozen=True)
class Texts:
    """What was asked and answered, by id; empty where the directories were copied without it."""

    questions: Mapping[str, AskedQuestion]
    turns: Mapping[str, Mapping[str, str]]


def read_texts(folders: Mapping[str, Path], wanted: set[str]) -> Texts:
    """The texts of those questions, from the models' evaluation directories.

    Raises:
        InputError: a file of one is damaged.
    """
    questions: dict[str, AskedQuestion] = {}
    for folder in folders.values():
        questions = questions or read_questions(folder, wanted)
    return Texts(questions, {name: read_turns(folder, wanted) for name, folder in folders.items()})


def details(title: str, ids: Sequence[str], models: Mapping[str, Evaluation], texts: Texts) -> Details:
    """Some of those questions, to open: what was asked and offered, each model's thought and answer, and the gold.

    They are grouped by why the last model was wrong, or by category where it was right.
    """
    wanted = set(ids)
    outcomes = {
        name: {outcome.id: outcome for outcome in reversed(one.outcomes) if outcome.id in wanted}
        for name, one in models.items()
    }
    shown = _some_of_every_kind(ids, list(outcomes.values())[-1])
    items = [_detail(one, {name: found[one] for name, found in outcomes.items()}, texts) for one in shown]
    note = f"{len(ids):,} questions." if ids else ""
    if len(items) < len(ids):
        note += f" {SHOWN} are shown, some of every category and reason; outcomes.jsonl and generations/ have all."
    return Details(title, items, note)


def _some_of_every_kind(ids: Sequence[str], outcomes: Mapping[str, Outcome]) -> list[str]:
    seen: Counter[tuple[str, str]] = Counter()
    ranked = []
    for place, identifier in enumerate(ids):
        kind = outcomes[identifier].category, outcomes[identifier].reason
        ranked.append((seen[kind], place))
        seen[kind] += 1
    return [ids[place] for place in sorted(place for _, place in sorted(ranked)[:SHOWN])]


def _detail(identifier: str, outcomes: Mapping[str, Outcome], texts: Texts) -> Detail:
    question, last = texts.questions.get(identifier), list(outcomes.values())[-1]
    shown = {"prompt": prompt_text(question.messages)} if question else {}
    for name, outcome in outcomes.items():
        verdict = "right" if outcome.right else outcome.reason
        turn = texts.turns[name].get(identifier)
        shown |= {name: verdict} if turn is None else turn_texts(turn, f"{name} ({verdict})")
    if question:
        expected = "a call" if question.category.endswith("_relevance") else "no call"
        shown["gold"] = json.dumps(question.gold, ensure_ascii=False) if question.gold else expected
    offered = offered_texts(question.tools) if question else {}
    return Detail(_heading(identifier, question), shown, offered, last.reason or headline(last.category))


def _heading(identifier: str, question: AskedQuestion | None) -> str:
    if question is None:
        return identifier
    text = str(question.messages[-1].get("content", "")).strip().replace("\n", " ")
    return f"{identifier}: {text if len(text) <= 110 else text[:107] + '...'}"


def method(scores: Scores) -> Text:
    """How it was measured."""
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
