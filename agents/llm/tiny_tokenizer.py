"""A byte-level tokenizer of some 1,500 tokens, from code: words of this project, and every integer.

A piece of text is one token if the vocabulary has it, else it falls to its bytes: any text comes
back exactly. A *value* is an integer, a capital letter or a colour. It never carries the space
before it, so that a time is the same token in a timestamp and in JSON, and a colour the same in the
question and in an option: a small model copies tokens, and " red" tells it nothing about "red".
"""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from videoseek_env.datasets.needle_scene import COLOURS, SHAPES

SPECIAL_TOKENS: Final = MappingProxyType(
    {
        "pad_token": "<|endoftext|>",
        "im_start_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
        "video_token": "<|video_pad|>",
        "image_token": "<|image_pad|>",
    }
)
"""Qwen's special tokens by the tokenizer's attribute; they are the last ids."""

CHAT_TEMPLATE: Final = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}
{{- part['text'] -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- elif part['type'] in ('image', 'image_url') -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- else -%}
{{- raise_exception('expected text, video or image parts, got ' + part['type']) -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""ChatML; a message's content is a text, or a list of text, video and image parts."""

_FRAGMENTS: Final = (
    "<think>", "</think>", "<grounding>", "</grounding>", "<answer>", "</answer>",
    '{"temporal_segment": [', '], "sampling_strategy": "', '"}', "]}", " seconds>", "...",
)  # fmt: skip
"""Pieces of the reply grammar and of timestamps; one token each wherever they stand."""

_BEFORE_VALUES: Final = (", ", ". ", ": ")
"""One token each before a value: lists, options, labels."""

_TEXTS: Final = """\
You answer a question about a video. First you see an overview: a few small frames of all of it.
In every turn, think inside <think>...</think>, and then do exactly one of two things.
To look closer, crop a stretch of the video, at a level of detail that is coarse, medium or fine:
<grounding>{"temporal_segment": [start, end], "sampling_strategy": "fine"}</grounding>
Times are seconds of the whole video, at least one second apart. You then get new frames of it.
To finish, answer: <answer>...</answer>
Overview: 2 frames from 0.0 s to 1.0 s, 2.00 frames per second.
Crop: 1 frame from 0.0 s to 1.0 s, 1.00 frames per second.
Look closer again, or answer.
Answer in a few words.
Answer with the letter of the right option.
Answer with the stretch as JSON: {"temporal_segment": [start, end]}, in seconds.
Try again, or answer.
This is your last turn: give your final answer now.
Crop, then answer.
Answer now.

That reply could not be carried out. Expected <grounding>{...}</grounding> or found neither.
Expected one JSON object inside <grounding>. Try again, or answer.
That reply could not be carried out. The grounding lacks the key "temporal_segment".
The grounding lacks the key "sampling_strategy".
"temporal_segment" must be a list of two finite numbers of seconds.
The segment must span at least 1 s inside the video (0.0 s to 1.0 s), but runs from 0.0 s to 1.0 s.
"sampling_strategy" must be one of ('coarse', 'medium', 'fine').

Which digit does the red card show when it turns over?
The red card turns over for a moment. Which digit is on its face?
What digit is written on the face of the red card?
Which digit appears when the red card is face up?
Which digit is on the red card that appears first after the red star?
Find the red card last before the red star. Which digit does it show when it turns over?
What is the sum of the digits on the red card and the red card?
Add the digit of the red card to the digit of the red card. What do you get?
Write the digit of the red card and then the digit of the red card. Which number is it?
Which number do you read if the red card's digit comes first and the red card's second?
Which letter is on the red banner?
What letter does the red banner carry?
Read the red banner. Which letter is on it?
What colour is the banner with the letter A?
On a banner of which colour is the letter A?
How many large stars appear in the video, whatever their colour?
Count the large stars in the whole video. How many are there?
What is the colour of the banner that appears first?
Of all the banners in the video, which one comes last?
Which letter is on the red banner that appears last before the red star?
Find the red banner first after the red star. Which letter does it carry?
When is the red star on screen?
From when to when is the red star visible?
Find the stretch of the video that shows the red star.
Which digit appears when the red card is face up? Answer with the digit.
Which letter is on the red banner? Answer with the letter.

The clue is at 1.0 s to 2.0 s.
I have seen what I need.
The red card is at 1.0 s; I want its face.
I can't find what the question is about.
I did not see every digit.
It looks like red, which is no option.
It is red.
I have seen it.
Anywhere.
Anything.
"""
"""What an agent reads and writes here, line by line; every word of it is a token as it stands."""

_WORDS: Final = """\
system user assistant coarse medium fine card banner digit letter number time
at no not yes none nothing empty one two three four blank face back up down left right here there
first last next before after between earlier later start end see seen show shown visible hidden
look again closer wider found guess sure maybe answer
"""
"""Words for thoughts of one's own, and the chat's roles: tokens with a space and without."""

_VALUE: Final = rf"(?:[0-9]|(?:{'|'.join(COLOURS)}|[A-Z])(?!\p{{L}}))"
_PIECE: Final = "|".join(
    [
        *map(re.escape, sorted(_FRAGMENTS, key=len, reverse=True)),
        rf"[,.:] (?={_VALUE})",
        r"[1-9][0-9]{0,2}|0",
        r"'(?:s|t|m|re|ve|ll|d)(?!\p{L})",
        rf" (?!{_VALUE})\p{{L}}+|\p{{L}}+",
        r"[^\p{L}0-9]",
    ]
)
"""Regular expression of the pieces into which any text falls."""


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A new tokenizer; its ids depend on nothing but this module and the needle set's words.

    First come the 256 bytes, then the integers 10 to 999, then words and fragments in alphabetical
    order, then `SPECIAL_TOKENS`. Integers below 10 and capital letters are bytes.
    """
    backend = Tokenizer(models.BPE(vocab=_vocabulary(), merges=[], ignore_merges=True))
    backend.pre_tokenizer = _pieces()
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS.values()]
    )
    standard = {"pad_token", "eos_token"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        **{name: SPECIAL_TOKENS[name] for name in standard},
        extra_special_tokens={
            name: token for name, token in SPECIAL_TOKENS.items() if name not in standard
        },
    )


def byte_fallbacks(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    """The pieces of a text that the vocabulary lacks, in order: they take a token for each byte.

    >>> byte_fallbacks(tiny_tokenizer(), "A red zeppelin at 30 s")
    [' zeppelin']
    """
    backend = tokenizer.backend_tokenizer
    pieces = backend.pre_tokenizer.pre_tokenize_str(text)
    return [text[start:end] for piece, (start, end) in pieces if backend.token_to_id(piece) is None]


def _pieces() -> pre_tokenizers.PreTokenizer:
    split = pre_tokenizers.Split(Regex(_PIECE), behavior="isolated")
    return pre_tokenizers.Sequence([split, _byte_level()])


def _byte_level() -> pre_tokenizers.ByteLevel:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _vocabulary() -> dict[str, int]:
    """Tokens as the backend writes them, by bytes, to their ids."""
    found = {piece for piece, _ in _pieces().pre_tokenize_str(_TEXTS)}
    words = [*_WORDS.split(), *SHAPES, *(f"{shape}s" for shape in SHAPES)]
    texts = [*_FRAGMENTS, *_BEFORE_VALUES, *COLOURS, *words, *(f" {word}" for word in words)]
    added = {_byte_level().pre_tokenize_str(text)[0][0] for text in texts}
    tokens = [
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
        *map(str, range(10, 1000)),
        *sorted(found | added),
    ]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}
