import numpy as np
import pytest

from agents.learning.sample import Sample
from agents.llm.context import Context
from tests.agents.learning.samples import ANSWER, CROP, sample
from tests.agents.llm.models import tiny
from videoseek_env.errors import ConfigError
from videoseek_env.session import Observation


def test_a_sample_is_a_copy_that_later_turns_do_not_change() -> None:
    model, context = tiny(), Context()
    model.builder.observe(context, Observation("Which?"))
    model.builder.reply(context, model.vocabulary.encode(ANSWER))
    kept = Sample.of(context, ())
    before = kept.tokens.copy()
    context.rollback(context.mark()._replace(tokens=1))
    model.builder.reply(context, [5, 6, 7])
    assert np.array_equal(kept.tokens["id"], before["id"])


def test_the_prompt_ends_where_the_first_reply_begins() -> None:
    one = sample(CROP, ANSWER)
    assert not one.tokens["trained"][: one.prompt_tokens].any()
    assert one.tokens["trained"][one.prompt_tokens]
    replies = [len(tiny().vocabulary.encode(reply)) for reply in (CROP, ANSWER)]
    assert one.trained_tokens == sum(replies)
    turns = one.turn_of_tokens()
    assert [(turns == turn).sum() for turn in (0, 1)] == replies
    assert turns.max() == 1 and np.array_equal(turns >= 0, one.tokens["trained"])


def test_a_sample_needs_a_reply_after_something_and_all_frames() -> None:
    one = sample(ANSWER)
    with pytest.raises(ConfigError, match="expected a context with a reply"):
        Sample(one.tokens[: one.prompt_tokens], one.refs, one.clips)
    with pytest.raises(ConfigError, match="expected a context with a reply"):
        Sample(one.tokens[one.prompt_tokens :], one.refs, one.clips)
    with pytest.raises(ConfigError, match="1 clips in the context, frames of 0"):
        Sample(one.tokens, one.refs, ())
