import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from agents.llm.tiny_tokenizer import tiny_tokenizer
from agents.llm.vocabulary import TextStream, Vocabulary
from tests.agents.llm.tokenizers_for_tests import merging_tokenizer
from videoseek_env.errors import ConfigError

TINY = tiny_tokenizer()
VOCABULARIES = {
    "tiny": Vocabulary(TINY, size=len(TINY) + 5),
    "merging": Vocabulary(merging_tokenizer(), size=len(merging_tokenizer())),
}
each_tokenizer = pytest.mark.parametrize("name", VOCABULARIES)


@each_tokenizer
@given(text=st.text())
def test_any_text_comes_back(name: str, text: str) -> None:
    vocabulary = VOCABULARIES[name]
    assert vocabulary.decode(vocabulary.encode(text)) == text


@each_tokenizer
@given(data=st.data())
def test_any_ids_decode_as_the_tokenizer_has_it(name: str, data: st.DataObject) -> None:
    vocabulary = VOCABULARIES[name]
    ids = data.draw(st.lists(st.integers(0, len(vocabulary.tokenizer) - 1)))
    kept = [index for index in ids if index not in vocabulary.stops]
    assert vocabulary.decode(ids) == vocabulary.tokenizer.decode(kept)


def test_a_character_comes_with_its_last_byte() -> None:
    vocabulary = VOCABULARIES["tiny"]
    ids = vocabulary.encode("€")  # three bytes, no token of its own
    stream = TextStream(vocabulary)
    assert [stream.push(index) for index in ids] == ["", "", "€"]
    assert stream.close() == ""


def test_an_unfinished_character_is_replaced() -> None:
    vocabulary = VOCABULARIES["tiny"]
    assert vocabulary.decode(vocabulary.encode("a€")[:-1]) == "a\ufffd"


@each_tokenizer
def test_special_tokens_in_a_text_stay_text(name: str) -> None:
    vocabulary = VOCABULARIES[name]
    ids = vocabulary.encode("<|video_pad|><|im_end|>")
    assert not {vocabulary.video_pad, vocabulary.end_of_turn} & set(ids)
    assert vocabulary.decode(ids) == "<|video_pad|><|im_end|>"


def test_what_must_not_be_sampled_is_banned() -> None:
    vocabulary = VOCABULARIES["tiny"]
    banned = vocabulary.banned
    assert banned[[vocabulary.video_pad, vocabulary.vision_start, vocabulary.vision_end]].all()
    assert not banned[vocabulary.end_of_turn]
    assert not banned[vocabulary.encode("<think>A</think>")].any()
    # The model's five spare rows beyond the tokenizer.
    assert banned[-5:].all() and banned.sum() == 5 + 6


def test_a_tokenizer_larger_than_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="the model only 10"):
        Vocabulary(TINY, size=10)


def test_a_tokenizer_without_vision_tokens_is_refused() -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(unk_token="?")))
    with pytest.raises(ConfigError, match=r"no <\|im_end\|>"):
        Vocabulary(bare, size=100)


def test_a_tokenizer_that_is_not_byte_level_is_refused() -> None:
    special = ["<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
    words.add_special_tokens({"additional_special_tokens": special})
    with pytest.raises(ConfigError, match="byte-level"):
        Vocabulary(words, size=100).decode([0])


def with_template(template: str | None) -> Vocabulary:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = template
    return Vocabulary(tokenizer, size=len(tokenizer))


def written(vocabulary: Vocabulary, ids: tuple[int, ...]) -> str:
    return str(vocabulary.tokenizer.decode(ids))


def test_the_chat_pieces_are_those_of_the_template() -> None:
    vocabulary = VOCABULARIES["tiny"]
    chat = vocabulary.chat
    assert written(vocabulary, chat.begin) == "<|im_start|>system\n"
    assert written(vocabulary, chat.system_to_user) == "<|im_end|>\n<|im_start|>user\n"
    assert written(vocabulary, chat.user_to_reply) == "<|im_end|>\n<|im_start|>assistant\n"
    assert written(vocabulary, chat.reply_to_user) == "<|im_end|>\n<|im_start|>user\n"


def test_a_tokenizer_without_a_template_speaks_chatml() -> None:
    assert with_template(None).chat == VOCABULARIES["tiny"].chat


def test_a_template_that_opens_the_thought_leaves_that_to_the_reply() -> None:
    template = TINY.chat_template.replace(
        "assistant\\n' -}}\n{%- endif", "assistant\\n<think>\\n' -}}\n{%- endif"
    )
    assert template != TINY.chat_template
    assert with_template(template).chat == VOCABULARIES["tiny"].chat


def test_a_template_that_drops_messages_is_refused() -> None:
    with pytest.raises(ConfigError, match="drops or reorders"):
        _ = with_template("{{ messages[-1].content }}").chat
