"""Comparing evaluation directories: what is refused, each by its name, and what the page shows of what changed."""

from __future__ import annotations

import re

import pytest

from components.errors import InputError
from components.evaluations.compare import compare_folders, compare_places
from components.evaluations.directory import OUTCOMES, SCORES, write_evaluation
from components.evaluations.schema import Evaluator
from tests.evaluation_support import evaluation

BEFORE, AFTER = {"multiple": "0011", "irrelevance": "11"}, {"multiple": "0111", "irrelevance": "01"}


@pytest.fixture
def places(tmp_path) -> list[str]:
    for name, marks in (("before", BEFORE), ("after", AFTER)):
        write_evaluation(tmp_path / name, evaluation(marks))
    return [str(tmp_path / "before"), str(tmp_path / "after")]


def page(places, tmp_path) -> str:
    with compare_places(places) as found:
        found.write_page(tmp_path / "page.html")
    return (tmp_path / "page.html").read_text("utf-8").replace("\N{NO-BREAK SPACE}", " ")


def section(html: str, title: str) -> str:
    return html.partition(f"<h2>{title}</h2>")[2].partition("</section>")[0]


def test_the_page_lists_what_was_gained_and_lost(places, tmp_path):
    html = page(places, tmp_path)
    assert "<h1>Evaluation: before, after</h1>" in html
    for title, ids in (
        ("gained from before to after", ["multiple_1"]),
        ("lost from before to after", ["irrelevance_0"]),
        ("wrong with both before and after", ["multiple_0"]),
    ):
        assert re.findall(r"<details><summary>(\w+)</summary>", section(html, title)) == ids


OTHERWISE = [
    ({"evaluator": Evaluator(name="bfcl-eval", version="2", data="BFCL_v4")}, "evaluator: bfcl-eval 1, .* bfcl-eval 2"),
    ({"prompt_version": "2"}, "prompt version: 1 and 2"),
    ({"seed": 7}, "seed: 0 and 7"),
    ({"sampling": {"samples": 2}}, "samples: 1 and 2"),
]


@pytest.mark.parametrize(("conditions", "words"), OTHERWISE)
def test_what_was_measured_otherwise_is_refused_by_name(places, tmp_path, conditions, words):
    write_evaluation(tmp_path / "after", evaluation(AFTER, **conditions))
    with pytest.raises(InputError, match=f"after and before cannot be compared, .*{words}"), compare_places(places):
        pass


def test_other_questions_are_refused(places, tmp_path):
    write_evaluation(tmp_path / "after", evaluation({"multiple": "001", "irrelevance": "11"}))
    with pytest.raises(InputError, match=r"questions: 6 with sha256 .* and 5 with"), compare_places(places):
        pass


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        (SCORES, None, "not an evaluation directory, because there is no scores.json"),
        (SCORES, b"{}", "scores.json: not ours"),
        (OUTCOMES, None, "there is no outcomes.jsonl"),
        (OUTCOMES, b"{}", "outcomes.jsonl, line 1: not ours"),
        (OUTCOMES, b"", "other questions"),
        ("questions.jsonl.gz", b"no gzip", "questions.jsonl.gz: cannot be read"),
        ("generations/m/live/BFCL_v4_x_result.json", b"[]", "line 1: not ours"),
    ],
)
def test_what_is_damaged_is_refused_by_name(places, tmp_path, name, content, words):
    path = tmp_path / "after" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if content is not None else path.unlink()
    with pytest.raises(InputError, match=f"{tmp_path}/after.*{words}"):
        page(places, tmp_path)


def test_one_place_or_none_is_not_compared(places, tmp_path):
    for few in ([], places[:1]):
        with pytest.raises(InputError, match="name two evaluation directories or more"), compare_places(few):
            pass
    with pytest.raises(InputError, match="nowhere: not an evaluation directory"):
        page([places[0], str(tmp_path / "nowhere")], tmp_path)


OWN = {"own_calls": "0101", "own_no_call": "1"}


@pytest.mark.parametrize(
    ("own", "note"),
    [
        (evaluation(OWN), ""),
        (None, "own records were asked of before only"),
        (evaluation(OWN, seed=1), "own records were not measured in the same way for before and after (seed: 0 and 1)"),
    ],
)
def test_own_records_are_compared_where_all_were_asked_the_same_ones(places, tmp_path, own, note):
    write_evaluation(tmp_path / "before", evaluation(BEFORE, own=evaluation(OWN | {"own_calls": "0100"})))
    write_evaluation(tmp_path / "after", evaluation(AFTER, own=own))
    found = compare_folders({"before": tmp_path / "before", "after": tmp_path / "after"})
    assert found.note == note and len(found.benchmarks) == (1 if note else 2)
    html = page(places, tmp_path)
    assert note in html and ("Own records: paired differences" in html) == (not note)
    assert ("own_calls_3" in section(html, "Own records: gained from before to after")) == (not note)
    assert len(found.tables()[0].rows) == (4 if note else 6)


def test_own_records_of_another_model_do_not_belong_there(places, tmp_path):
    other = evaluation(OWN)
    other = evaluation(OWN, model=other.scores.model.model_copy(update={"weights_sha256": "cd" * 32}))
    write_evaluation(tmp_path / "after", evaluation(AFTER, own=other))
    with pytest.raises(InputError, match=r"after/own: it does not belong to .* other weights were evaluated"):
        page(places, tmp_path)


def test_three_models_are_compared_pair_by_pair(places, tmp_path):
    write_evaluation(tmp_path / "last", evaluation(AFTER | {"multiple": "1111"}))
    with compare_places([*places, str(tmp_path / "last")]) as found:
        titles = [table.title for table in found.tables()]
    assert titles == ["after against before", "last against before", "last against after"]
