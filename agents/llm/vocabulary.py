"""What a tokenizer's ids mean: their bytes, the chat template, and what is never sampled."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from videoseek_env.errors import ConfigError

_CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""What both model families speak; for tokenizers that were saved without a chat template."""
_THINKING_PROMPT = "<think>"
"""Templates of thinking models open the thought themselves; here the reply opens it."""


@dataclass(frozen=True, slots=True)
class ChatPieces:
    """The ids between the messages of a chat."""

    begin: tuple[int, ...]
    """Before the system prompt."""
    system_to_user: tuple[int, ...]
    user_to_reply: tuple[int, ...]
    reply_to_user: tuple[int, ...]


class Vocabulary:
    """The ids of a Qwen-VL tokenizer.

    Raises:
        ConfigError: If the tokenizer is not byte-level, lacks a vision token, or has a chat
            template that does not keep the messages in order.
    """

    def __init__(self, tokenizer: Any, *, size: int) -> None:
        """Read a tokenizer.

        Args:
            tokenizer: A fast tokenizer of transformers.
            size: Rows of the model's embedding; those beyond the tokenizer's ids are never sampled.
        """
        self.tokenizer = tokenizer
        self.size = size
        if len(tokenizer) > size:
            raise ConfigError(f"the tokenizer has {len(tokenizer)} ids, the model only {size}")
        self.end_of_turn = self._special("<|im_end|>")
        self.vision_start = self._special("<|vision_start|>")
        self.vision_end = self._special("<|vision_end|>")
        self.video_pad = self._special("<|video_pad|>")
        self.stops = frozenset({self.end_of_turn, tokenizer.eos_token_id} - {None})
        """Ids that end a reply without an action."""

    def _special(self, token: str) -> int:
        index = self.tokenizer.convert_tokens_to_ids(token)
        if not isinstance(index, int) or index == self.tokenizer.unk_token_id:
            raise ConfigError(f"the tokenizer has no {token}; expected that of a Qwen-VL model")
        return index

    @cached_property
    def banned(self) -> npt.NDArray[np.bool_]:
        """Ids that are never sampled and take no part in the softmax, [size].

        A sampled vision token would ask for an image that isn't there.
        """
        special = {
            index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special
        }
        banned = np.arange(self.size) >= len(self.tokenizer)
        banned[sorted((special | set(self.tokenizer.all_special_ids)) - self.stops)] = True
        return banned

    @cached_property
    def _bytes(self) -> list[bytes]:
        """What each id stands for."""
        if "ByteLevel" not in repr(self.tokenizer.backend_tokenizer.decoder):
            raise ConfigError("expected a byte-level tokenizer, such as that of any Qwen-VL model")
        added = {index: str(token) for index, token in self.tokenizer.added_tokens_decoder.items()}
        tokens = self.tokenizer.convert_ids_to_tokens(range(len(self.tokenizer)))
        return [
            added[index].encode()
            if index in added
            else b"".join(_BYTE_OF.get(char) or char.encode() for char in token or "")
            for index, token in enumerate(tokens)
        ]

    def encode(self, text: str) -> list[int]:
        """The ids of a text; what looks like a special token in it stays text."""
        ids: list[int] = self.tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=True
        )
        return ids

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.encode(text))

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD, and ids that end a reply nothing.

        Equal to what `TextStream` gives piece by piece.
        """
        stream = TextStream(self)
        return "".join([stream.push(index) for index in ids]) + stream.close()

    def bytes_of(self, index: int) -> bytes:
        """What an id stands for; nothing if it ends a reply."""
        return b"" if index in self.stops or index >= len(self._bytes) else self._bytes[index]

    @cached_property
    def chat(self) -> ChatPieces:
        """The chat template, cut where the messages go."""
        marks = ["\x00system\x00", "\x00user\x00", "\x00reply\x00", "\x00next\x00"]
        roles = ["system", "user", "assistant", "user"]
        rendered: str = self.tokenizer.apply_chat_template(
            [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)],
            chat_template=self.tokenizer.chat_template or _CHATML,
            tokenize=False,
            add_generation_prompt=True,
        )
        pieces = []
        for mark in marks:
            piece, found, rendered = rendered.partition(mark)
            if not found:
                raise ConfigError("the chat template drops or reorders messages; expected ChatML")
            pieces.append(piece)
        prompt = rendered.rstrip()
        if prompt.endswith(_THINKING_PROMPT):
            rendered = prompt.removesuffix(_THINKING_PROMPT)
        begin, system_to_user, _, reply_to_user = map(self._template_ids, pieces)
        return ChatPieces(begin, system_to_user, self._template_ids(rendered), reply_to_user)

    def _template_ids(self, piece: str) -> tuple[int, ...]:
        return tuple(self.tokenizer.encode(piece, add_special_tokens=False))


class TextStream:
    """Text of ids that come one at a time; a character is given once its last byte is there."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, index: int) -> str:
        """The text that an id completes."""
        return self._decoder.decode(self._vocabulary.bytes_of(index))

    def close(self) -> str:
        """What an unfinished character leaves."""
        return self._decoder.decode(b"", final=True)


def _byte_alphabet() -> dict[str, bytes]:
    """The characters by which byte-level tokenizers write the 256 bytes.

    Printable Latin-1 characters stand for themselves, the other bytes for U+0100 and what follows.
    """
    printable: Sequence[int] = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    own = {chr(byte): bytes([byte]) for byte in printable}
    return own | {chr(0x100 + place): bytes([byte]) for place, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
