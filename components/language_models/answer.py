"""One question asked of a model as the evaluation asks it: our prompt, any sampler, the strict parser.

Opens no model and judges no answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from components.errors import InputError
from components.function_calls.parse import Turn, parse_turn
from components.function_calls.prompt import build_prompt
from components.function_calls.record import Message, Tool
from components.language_models.samplers import Sampler
from components.language_models.tokens import decode_turn, encode_prompt


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote: its text, what the parser reads in it, and whether it ended by itself."""

    text: str
    turn: Turn
    finished: bool


def answer(
    sampler: Sampler,
    tokenizer: Any,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    *,
    max_prompt_tokens: int,
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Answer:
    """The model's next turn in a conversation.

    Raises:
        InputError: the prompt is too long, or the model's chat template refuses these roles in this order.
    """
    prompt = build_prompt(messages, tools)
    ids = encode_prompt(tokenizer, prompt)
    if len(ids) > max_prompt_tokens:
        raise InputError(
            f"the prompt has {len(ids):,} tokens, tools included, and at most {max_prompt_tokens:,} are allowed: offer "
            "fewer tools, or shorten their descriptions"
        )
    [[rollout]] = sampler.sample([ids], [[seed]], temperature, max_new_tokens)
    text = decode_turn(tokenizer, rollout.tokens)
    return Answer(text, parse_turn(text, prompt.names), rollout.finished)
