import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.llm.roles import RoleScanner, TokenRole

TEXT, THINK, GROUNDING, ANSWER, TAG = (
    TokenRole.TEXT,
    TokenRole.THINK,
    TokenRole.GROUNDING,
    TokenRole.ANSWER,
    TokenRole.TAG,
)


def char_roles(text: str) -> list[TokenRole]:
    scanner = RoleScanner()
    return [scanner.read(char) for char in text]


def test_each_character_of_a_crop_has_its_role() -> None:
    roles = char_roles("<think>a b</think><grounding>{}</grounding>")
    # 7 characters of <think>, 3 of thought, 8 of </think>, 11 of <grounding>, 2 of content, 12.
    assert roles == [TAG] * 7 + [THINK] * 3 + [TAG] * 19 + [GROUNDING] * 2 + [TAG] * 12


def test_each_character_of_an_answer_has_its_role() -> None:
    roles = char_roles("x<answer>B</answer>\n")
    assert roles == [TEXT] + [TAG] * 8 + [ANSWER] + [TAG] * 9 + [TEXT]


@pytest.mark.parametrize(
    ("piece", "role"),
    [
        ('"}</', GROUNDING),  # the last bit of content and the closing tag in one token
        ("</", TAG),
        ("}\n", GROUNDING),
        ("", GROUNDING),  # a part of a character
    ],
)
def test_a_token_with_any_content_is_content(piece: str, role: TokenRole) -> None:
    scanner = RoleScanner()
    scanner.read("<grounding>{")
    assert scanner.read(piece) is role


def test_a_token_that_opens_a_tag_and_begins_its_content_is_content() -> None:
    scanner = RoleScanner()
    scanner.read("<answer")
    assert scanner.read(">B") is ANSWER


def test_what_only_looks_like_a_tag_stays_content() -> None:
    roles = char_roles("<think>a <b</think>")
    # "<" might begin a tag, and is not known to when it is written; "b" is known not to.
    assert roles[7:11] == [THINK, THINK, TAG, THINK]


def test_a_second_bracket_may_begin_the_tag() -> None:
    assert char_roles("<<answer>B")[-1] is ANSWER


def test_a_closing_tag_ends_the_reply_and_an_opening_one_does_not() -> None:
    scanner = RoleScanner()
    scanner.read("<think>...</think><grounding>{}</groundin")
    assert not scanner.has_action
    scanner.read("g>")
    assert scanner.has_action


def test_an_answer_inside_a_thought_is_an_answer() -> None:
    assert char_roles("<think><answer>B")[-1] is ANSWER


@given(
    st.lists(
        st.sampled_from(
            [
                "<think>",
                "</think>",
                "<grounding>",
                "</grounding>",
                "<answer>",
                "</answer>",
                "<",
                "a",
            ]
        )
    ),
    st.randoms(use_true_random=False),
)
def test_roles_do_not_depend_on_where_the_text_is_cut(parts: list[str], random: object) -> None:
    text = "".join(parts)
    single = char_roles(text)
    scanner, position = RoleScanner(), 0
    while position < len(text):
        size = random.randint(1, 7)  # type: ignore[attr-defined]
        piece = text[position : position + size]
        role = scanner.read(piece)
        assert role in single[position : position + size]
        contents = [r for r in single[position : position + size] if r not in (TEXT, TAG)]
        assert (role in contents) if contents else role in (TEXT, TAG)
        position += size


@given(st.text())
def test_roles_are_causal(text: str) -> None:
    assert char_roles(text + "</answer>")[: len(text)] == char_roles(text)
