"""Which prompts a step trains on: read, set aside, ordered, retired when solved.

The order depends only on (seed, epoch) and the place in it is one integer, so a resumed run draws what the
killed one would have drawn. Prompts are encoded when they are drawn: a run of 30 steps does not wait for 90,000.
Sampling and rewards are components/egpo_rl/rollouts.py.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from components.errors import InputError
from components.function_calls.prompt import ToolNames, build_prompt
from components.function_calls.record import Record
from components.language_models.tokens import encode_prompt, refusal
from components.stages.refined_records import read_refined

LARGEST_HELD_OUT_SHARE = 0.2
SOLVED_VISITS = 2  # visits in a row at which every rollout was right, until a prompt is retired
REST_EPOCHS = 3  # epochs a retired prompt is left out; then it is looked at again


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """One prompt: `index` is its place in the records' file, `ids` its tokens."""

    index: int
    record: Record
    names: ToolNames
    ids: list[int]


@dataclass(frozen=True, slots=True)
class PassRate:
    """What is known of one prompt: visits, share of right rollouts at the last one, solved visits in a row."""

    visits: int = 0
    last: float = 0.0
    solved_in_a_row: int = 0
    retired_until: int = 0  # epoch


PassRates = dict[int, PassRate]


def read_training_records(path: Path) -> list[Record]:
    """The records of a refinement's folder (or of one file in callforge's format).

    Raises:
        InputError: no such file, a line that is not a record, or no record at all.
    """
    records = read_refined(path)
    if not records:
        raise InputError(f"{path}: there is no record in it; look at data_refine's report for the reasons")
    return records


class PromptOrder:
    """All prompts of a run, without those whose roles the chat template refuses.

    The only state is a cursor, the prompts passed over all epochs, and the pass rates.
    """

    def __init__(
        self,
        records: Sequence[Record],
        tokenizer: Any,
        max_prompt_tokens: int,
        held_out: int,
        seed: int,
        retire_solved: bool,
    ) -> None:
        self.records, self.tokenizer, self.max_prompt_tokens = records, tokenizer, max_prompt_tokens
        self.seed, self.retire_solved = seed, retire_solved
        self.too_long: set[int] = set()
        self.refused = {
            index
            for index, record in enumerate(records)
            if refusal(tokenizer, [message["role"] for message in build_prompt(record.messages, ()).messages])
        }
        self._shuffled: tuple[int, list[int]] | None = None
        wanted = min(held_out, int(len(records) * LARGEST_HELD_OUT_SHARE))
        self.held_out: list[EncodedPrompt] = []
        for index in self._permutation("held out", range(len(records))):
            if len(self.held_out) == wanted:
                break
            if (prompt := self._encode(index)) is not None:
                self.held_out.append(prompt)
        aside = {prompt.index for prompt in self.held_out} | self.refused
        self.training = [index for index in range(len(records)) if index not in aside]
        if not any(self._encode(index) for index in self.training):
            raise InputError(
                f"egpo_rl.rollout.max_prompt_tokens: each of the {len(records)} prompts is longer than "
                f"{max_prompt_tokens} tokens, or the chat template refuses the order of its roles ({len(self.refused)} "
                "of them); raise it, or take records with fewer or shorter tools"
            )

    def draw(
        self, number: int, cursor: int, pass_rates: PassRates, taken: Collection[int] = ()
    ) -> tuple[list[EncodedPrompt], int]:
        """The next `number` prompts from `cursor` on and the cursor behind them, none of them twice nor in `taken`.

        Fewer come back when the whole set has no more. Where only retired prompts are left, they come back early.
        """
        drawn: list[EncodedPrompt] = []
        resting: list[int] = []
        looked_at: set[int] = set()
        while len(drawn) < number and len(looked_at) < len(self.training):
            epoch, place = divmod(cursor, len(self.training))
            index = self._epoch(epoch)[place]
            cursor += 1
            if index in looked_at:  # an epoch ended on the way
                continue
            looked_at.add(index)
            if index in taken:
                continue
            if self.retire_solved and self._rests(pass_rates.get(index), epoch):
                resting.append(index)
            elif (prompt := self._encode(index)) is not None:
                drawn.append(prompt)
        for index in resting:
            if len(drawn) < number and (prompt := self._encode(index)) is not None:
                drawn.append(prompt)
        return drawn, cursor

    def seen(self, pass_rates: PassRates, cursor: int, shares: Iterable[tuple[int, float]]) -> PassRates:
        """The table after a step in which the prompts' rollouts were right by these shares."""
        epoch = cursor // len(self.training)
        table = dict(pass_rates)
        for index, share in shares:
            before = table.get(index, PassRate())
            in_a_row = before.solved_in_a_row + 1 if share == 1 else 0
            rest = epoch + 1 + REST_EPOCHS if in_a_row >= SOLVED_VISITS else 0
            table[index] = PassRate(before.visits + 1, share, in_a_row, rest)
        return table

    def _rests(self, rate: PassRate | None, epoch: int) -> bool:
        return rate is not None and epoch < rate.retired_until

    def _epoch(self, epoch: int) -> list[int]:
        if self._shuffled is None or self._shuffled[0] != epoch:
            self._shuffled = (epoch, self._permutation(f"epoch {epoch}", self.training))
        return self._shuffled[1]

    def _permutation(self, purpose: str, indexes: Iterable[int]) -> list[int]:
        order = list(indexes)
        random.Random(f"{self.seed}/{purpose}").shuffle(order)
        return order

    def _encode(self, index: int) -> EncodedPrompt | None:
        if index in self.too_long or index in self.refused:
            return None
        record = self.records[index]
        prompt = build_prompt(record.messages, record.tools)
        ids = encode_prompt(self.tokenizer, prompt)
        if len(ids) > self.max_prompt_tokens:
            self.too_long.add(index)
            return None
        return EncodedPrompt(index, record, prompt.names, ids)


def pass_rates_to_json(table: PassRates) -> dict[str, dict[str, Any]]:
    """The table as a JSON object; `pass_rates_from_json` reads it back."""
    return {str(index): asdict(rate) for index, rate in table.items()}


def pass_rates_from_json(value: dict[str, dict[str, Any]]) -> PassRates:
    """The inverse of `pass_rates_to_json`."""
    return {int(index): PassRate(**rate) for index, rate in value.items()}
