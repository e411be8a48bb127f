"""The prompt and the assistant's turn as token ids, and the masks that tell thought from answer.

The model's own chat template says where messages go in a prompt (chat_template.py); they are put there here.

A turn is encoded in segments (`<think>`, thought, `</think>`, newline and answer, end of turn), so no token spans two
of them and the mask of a training example is exact by construction. A sampled turn comes as ids whose tokens may span
a tag's edge (`>` and newline are often one token); there the mask is found on the bytes of the tokens, never by
encoding text again. Works for byte-level BPE and for sentencepiece vocabularies.

What a prompt says is decided in components/function_calls/prompt.py, whether a turn is right in parse.py beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from components.errors import InputError
from components.files import read_json
from components.function_calls.prompt import THINK_CLOSE, THINK_OPEN, Prompt, TurnText
from components.language_models.chat_template import ConversationError, Layout, Slot, lay_out

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")  # ChatML, Llama 3, Gemma, Phi
OPEN, CLOSE = THINK_OPEN.encode(), THINK_CLOSE.encode()
OPENED = re.compile(rf"{THINK_OPEN}\s*({THINK_CLOSE}\s*)?\Z")  # a thought that the template begins, or closes empty
SURROGATES = re.compile("[\ud800-\udfff]")  # what JSON may hold and UTF-8 may not


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
    """Token ids of the chat up to where the assistant's turn starts; each message is in it exactly once.

    The tokenizer's own template is used where it has one. One that refuses or drops a system message (Gemma) gets it as
    the head of the first user message. A thought that it begins itself, or closes empty, is cut off, because our turn
    brings its own. Control tokens spelled out in a message stay text: data cannot end a turn.

    Raises:
        ConversationError: the template refuses these roles in this order.
        InputError: the template cannot be used at all.
    """
    layout, merged = _layout_of(tokenizer, tuple(message["role"] for message in prompt.messages))
    contents = [message["content"] for message in prompt.messages]
    if merged:
        contents[:2] = ["\n\n".join(contents[:2])]
    ids: list[int] = []
    for text, is_control in _joined(_spans(tokenizer, layout, contents)):
        if is_control:
            ids += _encode_text(tokenizer, text)
        else:
            ids += tokenizer.encode(text, add_special_tokens=False)
    return ids


def refusal(tokenizer: Any, roles: Sequence[str]) -> str:
    """Why the chat template takes no conversation of these roles (Prompt.messages has them); "" when it does."""
    try:
        _layout_of(tokenizer, tuple(roles))
    except ConversationError as error:
        return str(error)
    return ""


def check_template(tokenizer: Any) -> None:
    """Try the chat template on what every record has: functions, in the system message, and a question.

    Raises:
        InputError: it drops or doubles one of them, fails, or does not end.
    """
    if reason := refusal(tokenizer, ("system", "user")):
        raise InputError(reason)


def encode_turn(tokenizer: Any, turn: TurnText) -> EncodedTurn:
    """Token ids of the whole turn, the end-of-turn token included, each segment encoded by itself."""
    thought = [
        *_encode_tag(tokenizer, THINK_OPEN),
        *_encode_text(tokenizer, turn.thought),
        *_encode_tag(tokenizer, THINK_CLOSE),
    ]
    answer = [*_encode_text(tokenizer, "\n" + turn.answer), _template_turn_end(tokenizer)]
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
    controls: re.Pattern[str]
    adds_space: bool  # sentencepiece writes a space before every text it encodes
    layouts: dict[tuple[str, ...], tuple[Layout, bool] | str] = field(default_factory=dict)  # or why there is none


_FACTS: WeakKeyDictionary[Any, _Facts] = WeakKeyDictionary()
_TURN_ENDS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()  # the one that the chat template writes


def _facts(tokenizer: Any) -> _Facts:
    if tokenizer not in _FACTS:
        ensure_chat_template(tokenizer)
        table = _token_bytes(tokenizer)
        first = tokenizer.encode("x", add_special_tokens=False)[:1]
        adds_space = bool(first) and table.get(first[0], b"").startswith(b" ")
        _FACTS[tokenizer] = _Facts(table, _turn_ends(tokenizer), _control_tokens(tokenizer), adds_space)
    return _FACTS[tokenizer]


def _layout_of(tokenizer: Any, roles: tuple[str, ...]) -> tuple[Layout, bool]:
    """The template's layout, and whether the system message is to be the head of the first user message."""
    known = _facts(tokenizer).layouts
    if roles not in known:
        try:
            known[roles] = _lay_out(tokenizer, roles), False
        except ConversationError as error:
            known[roles] = str(error)
            if roles[:2] == ("system", "user"):
                with suppress(ConversationError):  # the first reason is the one to give
                    known[roles] = _lay_out(tokenizer, roles[1:]), True
    found = known[roles]
    if isinstance(found, str):
        raise ConversationError(found)
    return found


def _lay_out(tokenizer: Any, roles: tuple[str, ...], answer: bool = True) -> Layout:
    values = {name: token for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    try:
        return lay_out(tokenizer.get_chat_template(), roles, values, answer)
    except InputError as error:
        raise type(error)(f"chat template of {tokenizer.name_or_path}: {error}") from None


def _spans(tokenizer: Any, layout: Layout, contents: Sequence[str]) -> Iterator[tuple[str, bool]]:
    """The text of the prompt in pieces, and whether each is a control token that a message spells out."""
    for place, piece in enumerate(layout):
        if isinstance(piece, Slot):
            parts = _facts(tokenizer).controls.split(piece.fill(contents[piece.index]))
            yield from ((part, bool(number % 2)) for number, part in enumerate(parts))
        else:
            yield OPENED.sub("", piece) if place == len(layout) - 1 else piece, False


def _joined(spans: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Neighbours of one kind together: tokens may span a message's edge, as they do when text is encoded whole."""
    for is_control, group in groupby(spans, key=itemgetter(1)):
        if text := SURROGATES.sub("\ufffd", "".join(text for text, _ in group)):
            yield text, is_control


def _encode_tag(tokenizer: Any, tag: str) -> list[int]:
    return _without_added_space(tokenizer, tag, split_special_tokens=False)


def _encode_text(tokenizer: Any, text: str) -> list[int]:
    return _without_added_space(tokenizer, text, split_special_tokens=True)


def _without_added_space(tokenizer: Any, text: str, **options: Any) -> list[int]:
    text = SURROGATES.sub("\ufffd", text)
    if text and _facts(tokenizer).adds_space:
        # Encoded behind a newline no space is added; then the newline is taken off again.
        anchor = tokenizer.encode("\n", add_special_tokens=False)
        ids = tokenizer.encode("\n" + text, add_special_tokens=False, **options)
        if ids[: len(anchor)] == anchor:
            return ids[len(anchor) :]
    return tokenizer.encode(text, add_special_tokens=False, **options)


def _control_tokens(tokenizer: Any) -> re.Pattern[str]:
    """A pattern that splits a text at them, keeping them at the odd places."""
    tokens = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special and token.content]
    longest_first = sorted(tokens, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")


def _turn_ends(tokenizer: Any) -> frozenset[int]:
    ends = {tokenizer.eos_token_id}
    vocabulary = tokenizer.get_vocab()
    ends |= {vocabulary[token] for token in TURN_ENDS if token in vocabulary}
    # Without a file of ours to read beside the tokenizer, eos and the markers are all there is.
    with suppress(FileNotFoundError, InputError):
        stated = read_json(Path(str(tokenizer.name_or_path)) / "generation_config.json").get("eos_token_id")
        ends |= {end for end in (stated if isinstance(stated, list) else [stated]) if isinstance(end, int)}
    return frozenset(end for end in ends if isinstance(end, int))


def _template_turn_end(tokenizer: Any) -> int:
    """The end-of-turn token the chat template writes after an assistant message, else eos."""
    ends = _facts(tokenizer).turn_ends
    if tokenizer not in _TURN_ENDS:
        after: list[int] = []
        with suppress(ConversationError):
            *_, last = _lay_out(tokenizer, ("user", "assistant"), answer=False)
            after = tokenizer.encode(last, add_special_tokens=False) if isinstance(last, str) else []
        fallback = tokenizer.eos_token_id if tokenizer.eos_token_id is not None else min(ends)
        _TURN_ENDS[tokenizer] = next((token for token in after if token in ends), fallback)
    return _TURN_ENDS[tokenizer]


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
