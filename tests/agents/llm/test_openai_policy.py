import dataclasses
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.llm.openai_client import ChatClient
from agents.llm.openai_policy import OpenAIPolicy
from tests.agents.llm.chat_server import MODEL, decode_image
from tests.agents.llm.scripted_server import STOPS, Server, ask, config_for, play, requests_of
from tests.sample_trajectories import answer_reply, crop_reply
from tests.synthetic_video import read_barcodes
from videoseek_env.session import Observation


def images_in(message: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    parts = [part for part in message["content"] if part["type"] == "image_url"]
    return np.stack([decode_image(part["image_url"]["url"]) for part in parts])


def texts_in(message: dict[str, Any]) -> list[str]:
    return [part["text"] for part in message["content"] if part["type"] == "text"]


def test_the_first_request_is_the_system_prompt_the_frames_behind_their_times_and_the_text(
    server: Server, minute_video: Path
) -> None:
    config = config_for(server.url, answer_reply("B"), image_format="png")
    (seen,) = play(config, minute_video)
    (request,) = requests_of(config)
    system, user = request["messages"]
    assert system == {"role": "system", "content": seen.system}
    assert seen.clip is not None and len(seen.clip.frames) == 20
    # 600 frames at 10 a second: 20 of them evenly spread are 599 / 19 = 31.5 apart.
    times = [f"{round(number * 599 / 19) / 10:.1f} s" for number in range(20)]
    assert texts_in(user) == [*times, seen.text]
    kinds = [part["type"] for part in user["content"]]
    assert kinds == ["text", "image_url"] * 20 + ["text"]
    np.testing.assert_array_equal(images_in(user), seen.clip.frames)


def test_frames_are_readable_as_jpeg(server: Server, minute_video: Path) -> None:
    config = config_for(server.url, answer_reply("B"))
    (seen,) = play(config, minute_video)
    user = requests_of(config)[0]["messages"][1]
    assert seen.clip is not None
    assert read_barcodes(images_in(user)) == read_barcodes(seen.clip.frames)
    sent = [part["image_url"] for part in user["content"] if part["type"] == "image_url"]
    assert {tuple(image) for image in sent} == {("url",)}  # no detail unless asked for


def test_jpeg_quality_buys_smaller_pictures(server: Server, minute_video: Path) -> None:
    def characters(quality: int) -> int:
        config = config_for(server.url, answer_reply("B"), jpeg_quality=quality, max_images=1)
        play(config, minute_video)
        return len(requests_of(config)[0]["messages"][1]["content"][1]["image_url"]["url"])

    assert characters(1) < characters(50) < characters(100)


def test_the_whole_conversation_is_sent_each_turn_and_each_frame_encoded_once(
    server: Server, minute_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    encoded: list[str] = []
    save = Image.Image.save

    def counted(image: Image.Image, target: io.BytesIO, kind: str, **options: Any) -> None:
        encoded.append(kind)
        save(image, target, kind, **options)

    monkeypatch.setattr(Image.Image, "save", counted)
    replies = [crop_reply(10, 20), "<think>?</think><grounding>{}</grounding>", answer_reply("B")]
    config = config_for(server.url, *replies)
    overview, crop, error = play(config, minute_video)
    first, second, third = (request["messages"] for request in requests_of(config))
    assert second[:2] == first and third[:4] == second
    assert second[2] == {"role": "assistant", "content": replies[0]}
    assert third[4] == {"role": "assistant", "content": replies[1]}
    assert overview.clip is not None and crop.clip is not None and error.clip is None
    assert len(encoded) == len(overview.clip.frames) + len(crop.clip.frames) == 28
    assert texts_in(second[3])[-1] == crop.text
    assert third[5] == {"role": "user", "content": [{"type": "text", "text": error.text}]}


def test_too_many_frames_are_thinned_out_evenly_and_the_text_says_so(
    server: Server, minute_video: Path
) -> None:
    config = config_for(server.url, answer_reply("B"), max_images=5, image_format="png")
    (seen,) = play(config, minute_video)
    user = requests_of(config)[0]["messages"][1]
    # 19 / 4 = 4.75 apart: 0, 4.75, 9.5, 14.25, 19, to the nearest, halves to the even one.
    assert seen.clip is not None
    np.testing.assert_array_equal(images_in(user), seen.clip.frames[[0, 5, 10, 14, 19]])
    *times, text = texts_in(user)
    assert times == ["0.0 s", "15.8 s", "31.5 s", "44.1 s", "59.9 s"]
    assert text == f"{seen.text}\n5 of the 20 frames are shown."


@pytest.mark.parametrize("most", [20, 21])
def test_frames_that_are_not_too_many_are_all_sent(
    server: Server, minute_video: Path, most: int
) -> None:
    config = config_for(server.url, answer_reply("B"), max_images=most)
    (seen,) = play(config, minute_video)
    user = requests_of(config)[0]["messages"][1]
    assert len(images_in(user)) == 20
    assert texts_in(user)[-1] == seen.text


def test_settings_are_sent_as_they_are(server: Server, minute_video: Path) -> None:
    config = config_for(
        server.url, answer_reply("B"), temperature=0.0, top_p=0.5, max_reply_tokens=77,
        image_detail="low",
    )  # fmt: skip
    play(config, minute_video)
    (request,) = requests_of(config)
    assert {key: value for key, value in request.items() if key not in ("messages", "seed")} == {
        "model": MODEL,
        "temperature": 0.0,
        "top_p": 0.5,
        "max_completion_tokens": 77,
        "stop": STOPS,
    }
    assert request["messages"][1]["content"][1]["image_url"]["detail"] == "low"


def test_settings_that_are_none_are_left_to_the_server(server: Server) -> None:
    config = config_for(server.url, answer_reply("B"), max_reply_tokens=None, stop_at_tags=False)
    ask(config, server)
    assert set(requests_of(config)[0]) == {"model", "messages"}


def test_further_fields_reach_the_server(server: Server) -> None:
    config = config_for(server.url, answer_reply("B"))
    extra = {**config.extra_body, "presence_penalty": 0.5}
    ask(dataclasses.replace(config, extra_body=extra))
    assert requests_of(config)[0]["presence_penalty"] == 0.5


def test_each_turn_has_a_seed_of_its_own_that_the_episode_seed_decides(
    server: Server, minute_video: Path
) -> None:
    def seeds(seed: int | None) -> list[int | None]:
        config = config_for(server.url, crop_reply(10, 20), crop_reply(1, 5), answer_reply("B"))
        play(config, minute_video, seed=seed)
        return [request.get("seed") for request in requests_of(config)]

    assert seeds(7) == seeds(7)
    assert len({*seeds(7), *seeds(8)}) == 6
    assert seeds(None) == [None, None, None]


def test_seeds_fit_every_server(server: Server) -> None:
    config = config_for(server.url, *[""] * 20)
    with ChatClient(config, client=server.connection) as client:
        policy = OpenAIPolicy(client)
        policy.reset(seed=2**32 - 1)
        for _ in range(20):
            policy.act(Observation("?"))
    seeds = [request["seed"] for request in requests_of(config)]
    assert len(set(seeds)) == 20 and all(0 <= seed < 2**31 for seed in seeds)


def test_a_reset_or_another_role_begins_a_new_conversation(server: Server) -> None:
    config = config_for(server.url, "<answer>A</answer>", "<answer>B</answer>")
    with ChatClient(config) as client:
        policy = OpenAIPolicy(client)
        replies = [policy.act(Observation(text)) for text in "ab"]
        policy.reset(seed=1)
        replies.append(policy.act(Observation("c", system="Be brief.")))
        assert policy.usage.requests == 1
        policy.act(Observation("d"))
        policy.act(Observation("e", system="You are another."))
    assert replies == ["<answer>A</answer>", "<answer>B</answer>", "<answer>A</answer>"]
    roles = [
        [message["role"] for message in request["messages"]] for request in requests_of(config)
    ]
    assert roles == [
        ["user"],
        ["user", "assistant", "user"],
        ["system", "user"],
        ["system", "user", "assistant", "user"],
        ["system", "user"],  # another role, as the answerer of the decoupled way
    ]
