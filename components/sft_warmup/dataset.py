"""Qualified records as token ids, and which of them make up each optimizer step.

The order depends only on the seed, so a resumed run finds the same batches without having seen the earlier
ones. Only as many records are encoded as the steps will use.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from components.errors import InputError
from components.function_calls.judge import judge_gold
from components.function_calls.prompt import build_prompt, render_turn
from components.function_calls.record import Record
from components.language_models.chat_template import ConversationError
from components.language_models.tokens import encode_prompt, encode_turn
from components.services.progress import track
from components.settings import SftWarmupSettings


@dataclass(frozen=True, slots=True)
class Example:
    """One record as token ids; `thought_mask` belongs to `turn`."""

    prompt: list[int]
    turn: list[int]
    thought_mask: list[bool]


@dataclass(frozen=True)
class Examples:
    """What is trained on, what is held out, and how many records were left out and why.

    `trainable` counts all records that could be trained on, including those that the steps do not need.
    """

    training: list[Example]
    held_out: list[Example]
    left_out: Counter[str]
    trainable: int


def encode_examples(records: Sequence[Record], tokenizer: Any, config: SftWarmupSettings) -> Examples:
    """Encode the records in the seed's order until the steps have enough; the first ones are held out.

    Raises:
        InputError: fewer usable records than one batch needs, with the counts of those left out.
    """
    wanted = config.steps * config.batch_size
    held_out = min(config.batch_size, len(records) // 20)
    left_out: Counter[str] = Counter()
    shuffled = random.Random(config.seed).sample(records, len(records))
    encoded = _encode(
        track(shuffled, "encode records", "records", total=min(len(records), held_out + wanted)),
        tokenizer,
        config,
        left_out,
    )
    usable = list(islice(encoded, held_out + wanted))
    training = usable[held_out:]
    if len(training) < min(config.batch_size, wanted):
        reasons = "".join(f", {number} left out for {reason}" for reason, number in sorted(left_out.items()))
        raise InputError(
            f"{len(training)} records to train on ({len(records)} read, {min(held_out, len(usable))} held "
            f"out{reasons}), and one step needs batch_size={config.batch_size}; give more records, lower batch_size, "
            "or raise max_prompt_tokens and max_turn_tokens"
        )
    trainable = len(records) - held_out - left_out.total()
    return Examples(training, sorted(usable[:held_out], key=_length), left_out, trainable)


def _encode(
    records: Iterable[Record], tokenizer: Any, config: SftWarmupSettings, left_out: Counter[str]
) -> Iterator[Example]:
    for record in records:
        prompt = build_prompt(record.messages, record.tools)
        if fault := judge_gold(record, prompt.names):
            left_out[f"a turn that its reward refuses ({fault})"] += 1
            continue
        try:
            prompt_ids = encode_prompt(tokenizer, prompt)
        except ConversationError:
            left_out["an order of roles that the chat template refuses"] += 1
            continue
        turn = encode_turn(tokenizer, render_turn(record.cot, record.answers, record.response, prompt.names))
        if len(prompt_ids) > config.max_prompt_tokens:
            left_out[f"a prompt over {config.max_prompt_tokens} tokens"] += 1
        elif len(turn.ids) > config.max_turn_tokens:
            left_out[f"a turn over {config.max_turn_tokens} tokens"] += 1
        else:
            yield Example(prompt_ids, turn.ids, turn.thought_mask)


class StepBatches:
    """Sequence of the batches of all optimizer steps: epoch after epoch, each in its own order.

    A batch is sorted by length, so that the micro-batches cut from it need little padding; which records it holds
    stays random.
    """

    def __init__(self, examples: Sequence[Example], steps: int, batch_size: int, seed: int) -> None:
        self.examples, self.steps, self.batch_size, self.seed = examples, steps, batch_size, seed
        self._orders: dict[int, list[int]] = {}

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> list[Example]:
        if not 0 <= step < self.steps:
            raise IndexError(step)
        places = [divmod(step * self.batch_size + number, len(self.examples)) for number in range(self.batch_size)]
        batch = [self.examples[self._order(epoch)[place]] for epoch, place in places]
        return sorted(batch, key=_length)

    def _order(self, epoch: int) -> list[int]:
        if epoch not in self._orders:
            numbers = range(len(self.examples))
            self._orders = {epoch: random.Random(f"{self.seed}/{epoch}").sample(numbers, len(numbers))}
        return self._orders[epoch]


def _length(example: Example) -> int:
    return len(example.prompt) + len(example.turn)
