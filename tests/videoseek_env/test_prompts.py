import dataclasses

import pytest

from tests.sample_trajectories import make_ref, make_task
from videoseek_env.errors import ConfigError
from videoseek_env.prompts import DEFAULT_PROMPTS, Prompts
from videoseek_env.segment import Segment
from videoseek_env.task import TaskKind


def test_the_first_observation_states_question_options_form_and_sampling() -> None:
    assert DEFAULT_PROMPTS.question_text(make_task(), make_ref()) == (
        "Which digit does the red card show?\n"
        "A. 1\nB. 2\nC. 3\nD. 4\n"
        "Answer with the letter of the right option.\n"
        "Overview: 3 frames from 0.0 s to 100.0 s, 0.03 frames per second."
    )


def test_a_crop_states_how_it_was_sampled() -> None:
    crop = dataclasses.replace(
        make_ref(), indices=(3,), segment=Segment(30.0, 40.0), strategy="fine"
    )
    text = DEFAULT_PROMPTS.crop_text(crop)
    assert text.startswith("Crop: 1 frame from 30.0 s to 40.0 s, 0.10 frames per second.")


@pytest.mark.parametrize(
    ("kind", "form"),
    [(TaskKind.OPEN_ENDED, "in a few words"), (TaskKind.TEMPORAL_GROUNDING, '"temporal_segment"')],
)
def test_each_kind_has_its_form_of_answer(kind: TaskKind, form: str) -> None:
    assert form in DEFAULT_PROMPTS.question_text(make_task(kind), make_ref())


def test_the_system_prompt_shows_the_grammar_with_single_braces() -> None:
    text = DEFAULT_PROMPTS.system_text()
    assert '<grounding>{"temporal_segment": [start, end], "sampling_strategy": "fine"}' in text
    assert "<answer>" in text and "{{" not in text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("system", 'Write {"a": 1}'),
        ("question", "{question} {clue}"),
        ("sampling", "{frames} {0}"),
        ("error", "{message"),
    ],
)
def test_a_template_that_cannot_be_filled_is_refused_at_once(template: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"the prompt '{template}' may use"):
        Prompts(**{template: text})
