"""The prompt and the assistant's turn as token ids, and the masks that tell thought from answer.

A turn is encoded in segments (`<think>`, thought, `</think>`, newline and answer, end of turn), so no token spans two
of them and the mask of a training example is exact by construction. A sampled turn comes as ids whose tokens may span
a tag's edge (`>` and newline are often one token); there the mask is found on the bytes of the tokens, never by
encoding text again. Works for byte-level BPE and for sentencepiece vocabularies.

What a prompt says is decided in components/function_calls/prompt.py, whether a turn is right in parse.py beside it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from jinja2 import TemplateError

from components.function_calls.prompt import THINK_CLOSE, THINK_OPEN, Prompt, TurnText

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")  # ChatML, Llama 3, Gemma, Phi
FIXED_DATE = "26 Jul 2024"  # Llama 3 templates write today's date into the prompt unless they are given one
OPEN, CLOSE = THINK_OPEN.encode(), THINK_CLOSE.encode()
LEFT, RIGHT = "\ue000", "\ue001"  # private-use marks around the number of a control token found in a message


@dataclass(frozen=True, slots=True)
class EncodedTurn:
    """Token ids of one assistant turn; `thought_mask[i]` is true from `<think>` to `</think>`, tags included."""

    ids: list[int]
    thought_mask: list[bool]


def ensure_chat_template(tokenizer: Any) -> None:
    """Give a tokenizer without a chat template ours (ChatML), with the start token it would write itself."""
    if tokenizer.chat_template is None:
        starts = tokenizer.bos_token_id is not None and tokenizer.encode("")[:1] == [tokenizer.bos_token_id]
        tokenizer.chat_template = ("{{ bos_token }}" if starts else "") + CHATML


def encode_prompt(tokenizer: Any, prompt: Prompt) -> list[int]:
    """Token ids of the chat up to where the assistant's turn starts.

    The tokenizer's own template is used where it has one. One that refuses a system message (Gemma) gets it as the
    head of the first user message; one that opens the thought itself (reasoning models) has that tag cut off, because
    our turn brings it. Control tokens spelled out in a message stay text: data cannot end a turn.
    """
    ensure_chat_template(tokenizer)
    controls = _control_tokens(tokenizer)
    messages = [message | {"content": _mark(message["content"], controls)} for message in prompt.messages]
    try:
        text = _render(tokenizer, messages)
    except TemplateError:
        if len(messages) < 2 or messages[0]["role"] != "system":
            raise
        head = messages[1] | {"content": messages[0]["content"] + "\n\n" + messages[1]["content"]}
        text = _render(tokenizer, [head, *messages[2:]])
    if text.rstrip().endswith(THINK_OPEN):
        text = text.rstrip().removesuffix(THINK_OPEN)
    ids: list[int] = []
    for index, piece in enumerate(re.split(f"{LEFT}([0-9]+){RIGHT}", text)):
        if index % 2:
            ids += _encode_text(tokenizer, controls[int(piece)])
        elif piece:
            ids += tokenizer.encode(piece, add_special_tokens=False)
    return ids


def encode_turn(tokenizer: Any, turn: TurnText) -> EncodedTurn:
    """Token ids of the whole turn, the end-of-turn token included, each segment encoded by itself."""
    thought = [
        *_encode_tag(tokenizer, THINK_OPEN),
        *_encode_text(tokenizer, turn.thought),
        *_encode_tag(tokenizer, THINK_CLOSE),
    ]
    answer = [*_encode_text(tokenizer, "\n" + turn.answer), _facts(tokenizer).turn_end]
    return EncodedTurn(thought + answer, [True] * len(thought) + [False] * len(answer))


def thought_mask(tokenizer: Any, ids: list[int]) -> list[bool]:
    """Which of the sampled tokens overlap `<think>..</think>`, tags included; all False when the tags are malformed.

    Well-formed is what parse_turn calls so: the turn starts with `<think>`, and each tag is there exactly once.
    """
    table = _facts(tokenizer).token_bytes
    pieces = [table.get(token, b"") for token in ids]
    text = b"".join(pieces)
    if not text.startswith(OPEN) or text.count(OPEN) != 1 or text.count(CLOSE) != 1:
        return [False] * len(ids)
    end = text.index(CLOSE) + len(CLOSE)
    starts = accumulate((len(piece) for piece in pieces), initial=0)
    return [start < end for start, _ in zip(starts, pieces, strict=False)]


def decode_turn(tokenizer: Any, ids: list[int]) -> str:
    """The turn's text up to its end-of-turn token, byte by byte: no clean-up, no dropped tokens."""
    facts = _facts(tokenizer)
    cut = next((index for index, token in enumerate(ids) if token in facts.turn_ends), len(ids))
    return b"".join(facts.token_bytes.get(token, b"") for token in ids[:cut]).decode("utf-8", errors="replace")


def end_of_turn_ids(tokenizer: Any) -> set[int]:
    """Every token that ends an assistant turn: eos, the known chat markers, and the eos list of generation_config."""
    return set(_facts(tokenizer).turn_ends)


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is worked out once per tokenizer."""

    token_bytes: dict[int, bytes]
    turn_ends: frozenset[int]
    turn_end: int  # the one the chat template writes
    adds_space: bool  # sentencepiece writes a space before every text it encodes


_FACTS: WeakKeyDictionary[Any, _Facts] = WeakKeyDictionary()


def _facts(tokenizer: Any) -> _Facts:
    if tokenizer not in _FACTS:
        ensure_chat_template(tokenizer)
        table = _token_bytes(tokenizer)
        ends = _turn_ends(tokenizer)
        first = tokenizer.encode("x", add_special_tokens=False)[:1]
        adds_space = bool(first) and table.get(first[0], b"").startswith(b" ")
        _FACTS[tokenizer] = _Facts(table, ends, _template_turn_end(tokenizer, ends), adds_space)
    return _FACTS[tokenizer]


def _encode_tag(tokenizer: Any, tag: str) -> list[int]:
    return _without_added_space(tokenizer, tag, split_special_tokens=False)


def _encode_text(tokenizer: Any, text: str) -> list[int]:
    return _without_added_space(tokenizer, text, split_special_tokens=True)


def _without_added_space(tokenizer: Any, text: str, **options: Any) -> list[int]:
    if text and _facts(tokenizer).adds_space:
        # Encoded behind a newline no space is added; then the newline is taken off again.
        anchor = tokenizer.encode("\n", add_special_tokens=False)
        ids = tokenizer.encode("\n" + text, add_special_tokens=False, **options)
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
    return tokenizer.encode(text, add_special_tokens=False, **options)


def _render(tokenizer: Any, messages: list[dict[str, str]]) -> str:
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, date_string=FIXED_DATE)


def _control_tokens(tokenizer: Any) -> list[str]:
    return [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]


def _mark(content: str, controls: list[str]) -> str:
    """Replace control tokens spelled out in `content` by marked numbers, which the template passes on as they are."""
    if not any(token in content for token in controls):
        return content
    numbers = {token: index for index, token in enumerate(controls)}
    pattern = "|".join(re.escape(token) for token in sorted(controls, key=len, reverse=True))
    content = content.replace(LEFT, "").replace(RIGHT, "")
    return re.sub(pattern, lambda found: f"{LEFT}{numbers[found.group()]}{RIGHT}", content)


def _turn_ends(tokenizer: Any) -> frozenset[int]:
    ends = {tokenizer.eos_token_id}
    vocabulary = tokenizer.get_vocab()
    ends |= {vocabulary[token] for token in TURN_ENDS if token in vocabulary}
    try:
        text = (Path(str(tokenizer.name_or_path)) / "generation_config.json").read_text("utf-8")
        stated = json.loads(text).get("eos_token_id")
        ends |= set(stated) if isinstance(stated, list) else {stated}
    except (OSError, ValueError, AttributeError):
        pass  # no generation_config.json beside the tokenizer: then eos and the markers are all there is
    return frozenset(end for end in ends if isinstance(end, int))


def _template_turn_end(tokenizer: Any, ends: frozenset[int]) -> int:
    """The end-of-turn token the chat template writes after an assistant message, else eos."""
    content = "callforge"
    chat = [{"role": "user", "content": "?"}, {"role": "assistant", "content": content}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, date_string=FIXED_DATE)
    after = tokenizer.encode(text.rpartition(content)[2], add_special_tokens=False)
    fallback = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(ends)
    return next((token for token in after if token in ends), fallback)


def _token_bytes(tokenizer: Any) -> dict[int, bytes]:
    """The bytes each token stands for; their concatenation is the decoded text."""
    added = {index: token.content.encode() for index, token in tokenizer.added_tokens_decoder.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    to_bytes = _sentencepiece_bytes
    if backend is not None and '"ByteLevel"' in json.dumps(json.loads(backend.to_str())["decoder"]):
        to_bytes = _byte_level_bytes
    return {index: to_bytes(token) for token, index in tokenizer.get_vocab().items()} | added


def _byte_level_bytes(token: str) -> bytes:
    return b"".join(bytes([BYTE_OF[char]]) if char in BYTE_OF else char.encode() for char in token)


def _sentencepiece_bytes(token: str) -> bytes:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return bytes([int(token[3:5], 16)])
    return token.replace("\u2581", " ").encode()


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's alphabet of byte-level BPE: printable bytes stand for themselves, the others for U+0100 onwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


BYTE_OF = _byte_alphabet()
