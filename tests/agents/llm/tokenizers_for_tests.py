"""A byte-level tokenizer whose tokens run across the borders of tags, as real ones' do."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from agents.llm.tiny_tokenizer import CHAT_TEMPLATE, SPECIAL_TOKENS


@cache
def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Merges whatever it saw often, `}</`, `">B</` and `é` halves included."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL_TOKENS.values()),
        show_progress=False,
        max_token_length=5,
    )
    texts = [
        f'<think>At {n} s, é.</think><grounding>{{"temporal_segment": [{n}, {n + 9}], '
        f'"sampling_strategy": "fine"}}</grounding><answer>{"ABCD"[n % 4]}</answer>'
        for n in range(200)
    ]
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
    )
