"""One's own records as questions: is the model better at what it was trained for?

They are those that refinement held out, or a file of records that a person names. They are asked like BFCL's questions
and graded by the strict rule of refinement and rewards. They make an evaluation of their own, with an evaluator of its
own, so that they are never summed up with BFCL. Nothing is trained on them.
"""

from __future__ import annotations

from collections import Counter
from importlib.metadata import version

from components.bfcl_eval.grading import Grade
from components.bfcl_eval.questions import Question, draw
from components.evaluations.means import OWN_CALLS, OWN_NO_CALL
from components.evaluations.schema import Evaluator
from components.files import sha256_of_json
from components.function_calls.judge import judge
from components.function_calls.parse import parse_turn
from components.function_calls.prompt import ToolNames
from components.function_calls.record import Record, record_to_json
from components.stages.catalogue import find_stage
from components.stages.refined_records import read_own_records


def load_own_questions(file: str, number: int, seed: int) -> tuple[list[Question], dict[str, int], Evaluator]:
    """At most `number` records of a file, how many there are of each kind, and the evaluator.

    Raises:
        InputError: as `read_own_records` does.
    """
    records = read_own_records(file)
    questions = [_question(record) for record in records]
    sizes = dict(Counter(question.category for question in questions))
    chosen = {question.id for question in sorted(questions, key=lambda item: draw(item.id, seed))[:number]}
    data = sha256_of_json([record_to_json(record) for record in records])[:16]
    # A release has many stage versions, and by the rule of each the same answers may get other verdicts.
    rules = f"{version('callforge')}, stage version {find_stage('bfcl_eval').version}"
    evaluator = Evaluator(name="callforge strict rule", version=rules, data=data)
    return [question for question in questions if question.id in chosen], sizes, evaluator


def grade_own(question: Question, turn: str, finished: bool) -> Grade:
    """Grade a whole turn as a rollout is judged: thought, newline and the gold calls, or plain text."""
    assert question.record is not None
    if not finished:
        return Grade(False, "truncated")
    reason = judge(parse_turn(turn, ToolNames(question.record.tools)), question.record)
    return Grade(reason == "", reason)


def _question(record: Record) -> Question:
    category = OWN_CALLS if record.answers else OWN_NO_CALL
    gold = [{call.name: call.arguments} for call in record.answers] or None
    return Question(record.id, category, record.messages, record.tools, [], gold, record)
