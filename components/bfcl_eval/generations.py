"""One model's answers to the questions: generated in batches, kept as they come, written in the official layout.

A journal takes the answers of each batch as soon as they are there. Batches are cut from all the questions, so a run
that goes on after a kill repeats at most the batch it was killed in, with the same neighbours and the same result.
Nothing is graded here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.bfcl_eval.grading import OFFICIAL_NAME
from components.bfcl_eval.questions import PREFIX, Question
from components.errors import InputError
from components.files import atomic_write, sha256_of_json
from components.function_calls.parse import parse_turn
from components.services.events import warn
from components.services.progress import track
from components.settings import BfclEvalSettings

if TYPE_CHECKING:
    from components.bfcl_eval.models import Answering


@dataclass(frozen=True, slots=True)
class Generation:
    """The answer to one question.

    turn: the model's whole text, thought included; "" when the prompt was too long to be answered.
    finished: the turn ended by itself; otherwise it was cut at max_new_tokens.
    latency: seconds that the batch took in which the answer was generated.
    """

    id: str
    turn: str
    finished: bool
    input_token_count: int
    output_token_count: int
    latency: float

    @property
    def result(self) -> str:
        """What is graded: the text after the thought."""
        return parse_turn(self.turn).answer

    @property
    def too_long(self) -> bool:
        """The prompt exceeded max_prompt_tokens (or the model's context) and was not answered."""
        return self.output_token_count == 0 and not self.refused

    @property
    def refused(self) -> bool:
        """The model's chat template refuses the question's order of roles, so it could not be asked."""
        return self.input_token_count == 0


class Journal:
    """Answers on disk, one a line with its digest, the first line saying what they answer."""

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.answers: dict[str, Generation] = {}
        head = json.dumps({"fingerprint": fingerprint})
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        if not lines or lines[0] != head.encode():
            with atomic_write(path) as file:
                file.write(head + "\n")
            return
        whole = 1
        for line in lines[1:-1]:  # behind the last newline is what a kill cut off
            answer = _read(line)
            if answer is None:
                warn(f"{path}: line {whole + 1} is damaged; what it and those after it answer is asked again")
                break
            self.answers[answer.id] = answer
            whole += 1
        if whole < len(lines) - 1 or lines[-1]:
            with atomic_write(path, "wb") as file:
                file.writelines(line + b"\n" for line in lines[:whole])

    def append(self, answers: Sequence[Generation]) -> None:
        """Add answers; they are on the disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(_line(asdict(answer)) for answer in answers)
            file.flush()
            os.fsync(file.fileno())
        self.answers |= {answer.id: answer for answer in answers}


def _line(answer: dict[str, Any]) -> str:
    return json.dumps({"sha256": sha256_of_json(answer), "answer": answer}) + "\n"


def _read(line: bytes) -> Generation | None:
    """The answer of one line; None where it is not as it was written."""
    try:
        value = json.loads(line)
        return Generation(**value["answer"]) if sha256_of_json(value["answer"]) == value["sha256"] else None
    except (ValueError, TypeError, LookupError, RecursionError):
        return None


def generate(
    name: str,
    open_model: Callable[[], Answering],
    questions: Sequence[Question],
    config: BfclEvalSettings,
    journal: Journal,
) -> list[Generation]:
    """Answer the questions that `journal` lacks; one answer each, in the order of `questions`.

    Args:
        name: of benchmark and model, on the progress bar.
        open_model: called only when something is left to answer.
    """
    missing = sum(question.id not in journal.answers for question in questions)
    if missing:
        answering = open_model()
        limit = longest_prompt(answering, config)
        with track(len(questions), f"answer {name}", "questions", done=len(questions) - missing) as bar:
            for batch in _batches(answering, questions, config):
                todo = [item for item in batch if item[0].id not in journal.answers]
                if todo:
                    answers = _answer(answering, batch, limit, config)
                    journal.append([answer for answer in answers if answer.id not in journal.answers])
                    bar.advance(len(todo))
    return [journal.answers[question.id] for question in questions]


def write_results(folder: Path, questions: Sequence[Question], answers: Sequence[Generation]) -> None:
    """Write the answers as the official tool's result files under `folder`.

    `<name>/{non_live,live}/BFCL_v4_<category>_result.json`, a line for each question: id, result, input_token_count,
    output_token_count, latency, which the tool reads, and turn and finished, which it does not.
    """
    for category in dict.fromkeys(question.category for question in questions):
        group = next((name for name in ("own", "live") if category.startswith(name)), "non_live")
        path = folder / OFFICIAL_NAME.replace("/", "_") / group / f"{PREFIX}_{category}_result.json"
        with atomic_write(path) as file:
            for question, answer in zip(questions, answers, strict=True):
                if question.category == category:
                    line = {"id": answer.id, "result": answer.result} | asdict(answer)
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _batches(
    answering: Answering, questions: Sequence[Question], config: BfclEvalSettings
) -> list[list[tuple[Question, list[int]]]]:
    """Questions with their prompts, longest first: a batch has like lengths, and too little memory shows early."""
    from components.language_models.chat_template import ConversationError
    from components.language_models.tokens import encode_prompt

    encoded: list[tuple[Question, list[int]]] = []
    for question in questions:
        try:
            encoded.append((question, encode_prompt(answering.tokenizer, question.prompt())))
        except ConversationError:  # this model cannot be asked it
            encoded.append((question, []))
    encoded.sort(key=lambda item: (-len(item[1]), item[0].id))
    return [encoded[start : start + config.batch_size] for start in range(0, len(encoded), config.batch_size)]


def longest_prompt(answering: Answering, config: BfclEvalSettings) -> int:
    """Tokens of the longest prompt that leaves room for an answer in the model's context."""
    context = answering.context
    limit = min(config.max_prompt_tokens, context - config.max_new_tokens if context else config.max_prompt_tokens)
    if limit < 1:
        raise InputError(
            f"bfcl_eval.max_new_tokens: {config.max_new_tokens} leaves no room for a prompt in the model's context of "
            f"{context} tokens; lower it"
        )
    return limit


def _answer(
    answering: Answering, batch: Sequence[tuple[Question, list[int]]], limit: int, config: BfclEvalSettings
) -> list[Generation]:
    from components.language_models.tokens import decode_turn

    fitting = [(question, ids) for question, ids in batch if 0 < len(ids) <= limit]
    started = time.perf_counter()
    groups = answering.sampler.sample(
        [ids for _, ids in fitting],
        [[_seed(config.seed, question.id)] for question, _ in fitting],
        config.temperature,
        config.max_new_tokens,
    )
    latency = time.perf_counter() - started
    rollouts = {question.id: group[0] for (question, _), group in zip(fitting, groups, strict=True)}
    answers = []
    for question, ids in batch:
        rollout = rollouts.get(question.id)
        if rollout is None:
            answers.append(Generation(question.id, "", False, len(ids), 0, 0.0))
        else:
            turn = decode_turn(answering.tokenizer, rollout.tokens)
            counts = len(ids), len(rollout.tokens)
            answers.append(Generation(question.id, turn, rollout.finished, *counts, round(latency, 3)))
    return answers


def _seed(seed: int, identifier: str) -> int:
    """From the question only: an answer sampled at a temperature does not depend on which others are asked."""
    return int(sha256_of_json([seed, identifier])[:15], 16)
