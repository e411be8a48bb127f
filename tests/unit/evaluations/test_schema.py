"""An evaluation directory: what is written is read again, and junk is refused in a sentence, whatever it is."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.errors import InputError
from components.evaluations.directory import OUTCOMES, SCORES, read_evaluation, read_scores, write_evaluation
from components.evaluations.means import SIZES
from components.evaluations.schema import Evaluation, category_scores, flat_metrics
from tests.evaluation_support import evaluation

MARKS = {"simple_python": "1101", "irrelevance": "0c11", "live_multiple": "100"}


@pytest.fixture
def folder(tmp_path):
    write_evaluation(tmp_path, evaluation(MARKS))
    return tmp_path


def test_what_is_written_is_read_again(tmp_path):
    for marks in (MARKS, {"multiple": "1/0 1/1 0/0", "irrelevance": "1/1"}):
        written = evaluation(marks)
        write_evaluation(tmp_path, written)
        assert read_evaluation(tmp_path) == Evaluation(written.scores, list(written.outcomes))


def test_a_line_says_what_happened_to_one_answer(folder):
    lines = [json.loads(line) for line in (folder / OUTCOMES).read_text().splitlines()]
    assert len(lines) == 11
    assert lines[5] == {
        "id": "irrelevance_1", "category": "irrelevance", "sample": 0, "right": False, "reason": "reason_c", "form": "",
        "finished": False, "prompt_tokens": 100, "completion_tokens": 10,
    }  # fmt: skip


def test_sums_count_everything():
    scores = evaluation({"multiple": "11ab0bc", "irrelevance": "1"}).scores
    entry = scores.categories["multiple"]
    assert (entry.n, entry.of, entry.correct, entry.cut) == (7, 200, 2, 1)
    assert list(entry.reasons.items()) == [("reason_b", 2), ("reason_0", 1), ("reason_a", 1), ("reason_c", 1)]
    assert sum(entry.reasons.values()) + entry.correct == entry.n == sum(entry.forms.values())
    assert (scores.questions.asked, scores.questions.of, scores.questions.is_sample) == (8, 440, True)


def test_calls_and_irrelevance_stand_apart_each_with_an_interval():
    """A base that never calls: nothing of calls right, everything of irrelevance, and no figure of the two in one."""
    scores = evaluation({"simple_python": "000", "live_simple": "000", "irrelevance": "111"}).scores
    assert (scores.means["calls"].accuracy, scores.means["irrelevance"].accuracy) == (0.0, 1.0)
    assert scores.means["calls"].questions == 6
    low, high = scores.means["calls"].interval
    assert low == 0.0 and 0.2 < high < 0.6
    assert set(scores.means) == {"calls", "non_live", "live", "irrelevance"}
    assert 1 / 3 not in flat_metrics(scores).values()


def test_metrics_keep_category_and_mean_of_one_name_apart():
    metrics = flat_metrics(evaluation({"irrelevance": "1000", "live_irrelevance": "1111"}).scores)
    assert metrics["irrelevance"] == 0.25 and metrics["mean_irrelevance"] == 0.625
    assert metrics["official_overall"] == pytest.approx(0.0625)


def test_samples_of_a_question_count_as_one_question():
    entry = category_scores(evaluation({"multiple": "1/0 1/1 0/0 0/1"}).outcomes, SIZES)["multiple"]
    assert (entry.n, entry.correct, entry.accuracy) == (4, 2.0, 0.5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s.pop("seed"), "seed: field required"),
        (lambda s: s.update(surprise=1), "surprise: extra inputs are not permitted"),
        (lambda s: s.update(categories=[]), "categories: "),
        (lambda s: s.update(categories={}), "categories: "),
        (
            lambda s: s["categories"]["irrelevance"].update(accuracy=0.75),
            "irrelevance: 2 of 4 right is not an accuracy",
        ),
        (lambda s: s["categories"]["irrelevance"].update(accuracy=float("nan")), "categories.irrelevance.accuracy"),
        (lambda s: s["categories"]["irrelevance"].update(correct="2"), "categories.irrelevance.correct"),
        (lambda s: s["questions"].update(asked=3), "do not add up to the questions asked"),
        (lambda s: s["sampling"].update(temperature=-1), "sampling.temperature"),
    ],
)
def test_scores_of_another_form_are_not_ours(folder, change, words):
    scores = json.loads((folder / SCORES).read_text())
    change(scores)
    (folder / SCORES).write_text(json.dumps(scores))
    with pytest.raises(InputError, match=f"{SCORES}: not ours, because .*{words}"):
        read_scores(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"a": ' * 50_000])
@pytest.mark.parametrize("name", [SCORES, OUTCOMES])
def test_junk_is_refused_by_name(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=name):
        read_evaluation(folder)


@pytest.mark.parametrize("name", [SCORES, OUTCOMES])
@pytest.mark.parametrize("make", ["nothing", "a folder", "a link to itself"])
def test_what_is_no_file_is_refused_by_name(folder, name, make):
    (folder / name).unlink()
    if make == "a folder":
        (folder / name).mkdir()
    elif make == "a link to itself":
        (folder / name).symlink_to(folder / name)
    with pytest.raises(InputError, match=name):
        read_evaluation(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: lines[:-1], "other questions"),
        (lambda lines: [*lines, lines[-1]], "is there twice"),
        (
            lambda lines: [lines[0].replace('"right":true', '"right":false'), *lines[1:]],
            "has 2 of 4 right here and 3 of 4",
        ),
        (lambda lines: [line.replace('"simple_python",', '"multiple",') for line in lines], "nothing there"),
        (lambda lines: [lines[0].replace(":0", ":-1"), *lines[1:]], "line 1: not ours, because sample"),
        (lambda lines: [*lines[:2], "x", *lines[3:]], "line 3: not ours"),
    ],
)
def test_outcomes_must_be_those_of_the_scores(folder, change, words):
    lines = (folder / OUTCOMES).read_text().splitlines()
    (folder / OUTCOMES).write_text("\n".join(change(lines)) + "\n")
    with pytest.raises(InputError, match=words):
        read_evaluation(folder)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 60), value=JSON, in_scores=st.booleans())
def test_any_value_anywhere_is_read_or_refused(folder, place, value, in_scores):
    write_evaluation(folder, evaluation(MARKS))
    path = folder / (SCORES if in_scores else OUTCOMES)
    lines = [json.loads(path.read_text())] if in_scores else [json.loads(line) for line in path.open()]
    spots = [(node, key) for line in lines for node in _nodes(line) for key in node]
    node, key = spots[place % len(spots)]
    node[key] = value
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        read_evaluation(folder)
    except InputError as error:
        assert str(folder) in str(error)


def _nodes(value):
    if isinstance(value, dict):
        yield value
        for inner in value.values():
            yield from _nodes(inner)
