"""Find a policy by a name such as "seeker", "hf:Qwen/Qwen3-VL-4B-Instruct" or "py:mine:Policy"."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from agents.baselines import OraclePolicy, RandomPolicy
from agents.named_reward import load_attribute
from agents.policy import Policy
from agents.seeker import PixelSeeker
from agents.session_rules import first_rules
from videoseek_env.budget import get_budget
from videoseek_env.errors import ConfigError
from videoseek_env.session import SessionConfig

if TYPE_CHECKING:
    from agents.cli import ModelOptions

BASELINES: dict[str, Callable[[], Policy]] = {
    "random": RandomPolicy,
    "single turn": lambda: PixelSeeker(may_crop=False),
    "seeker": PixelSeeker,
    "oracle": OraclePolicy,
}
"""From what costs nothing to what is told everything; none needs a model."""


@dataclass(frozen=True, slots=True)
class NamedPolicy:
    """A policy that can be made as often as there are episodes."""

    name: str
    make: Callable[[], Policy]
    session: SessionConfig
    """The rules, with contexts counted in the policy's own tokens where it has some."""
    close: Callable[[], None] = lambda: None
    """Ends its connections."""


def rules_of(names: Sequence[str], *, adapter: str | None = None) -> SessionConfig:
    """The rules that the models among some policies were trained by, else the usual ones.

    Those of an adapter that the models are loaded with come before their own.

    Raises:
        ConfigError: If two models were trained by different rules.
    """
    models = [name.removeprefix("hf:") for name in names if name.startswith("hf:")]
    found = (first_rules(adapter, model) for model in models)
    known = [rules for rules in found if rules is not None]
    if any(rules != known[0] for rules in known):
        raise ConfigError(
            "these models were trained by different rules (budget, prompts, turns); let each play "
            "in a command of its own"
        )
    return known[0] if known else SessionConfig()


def load_policy(name: str, options: ModelOptions, session: SessionConfig) -> NamedPolicy:
    """The policy of a name.

    That is a baseline's, `hf:` and a folder or hub name, `openai:` and a model, or `py:` with
    module and attribute: what makes a policy of one's own when called with no arguments.

    Raises:
        ConfigError: If the name is none of these, or an option is out of its range.
        MissingExtraError: If the policy needs a package that is not installed.
    """
    check_policy_name(name)
    if name in BASELINES:
        return NamedPolicy(name, BASELINES[name], session)
    kind, _, rest = name.partition(":")
    return _LOADERS[kind](name, rest, options, session)


def check_policy_name(name: str) -> None:
    """Refuse a name that leads to no policy, as far as that can be told without loading one.

    Raises:
        ConfigError: If it does not.
    """
    kind, _, rest = name.partition(":")
    if name not in BASELINES and not (rest and kind in _LOADERS):
        raise ConfigError(
            f"no policy is named {name!r}; expected one of {', '.join(BASELINES)}, "
            "hf:FOLDER_OR_HUB_NAME, openai:MODEL or py:MODULE:CLASS"
        )
    if kind == "py":
        load_attribute(rest)


def _load_own(name: str, path: str, options: ModelOptions, session: SessionConfig) -> NamedPolicy:
    make = load_attribute(path)
    if not callable(make):
        raise ConfigError(f"{name} is no class of a policy, and no function that makes one")
    return NamedPolicy(name, make, session)


def _load_hf(
    name: str, model_name: str, options: ModelOptions, session: SessionConfig
) -> NamedPolicy:
    from transformers.utils.logging import disable_progress_bar

    from agents.llm.generation import Sampling
    from agents.llm.hf_policy import HFPolicy
    from agents.llm.model import VisionLanguageModel, default_device_map

    disable_progress_bar()  # ours are enough
    model = VisionLanguageModel.from_pretrained(
        model_name,
        dtype=options.dtype,
        device_map=options.device_map or default_device_map(),
        adapter=options.adapter,
    )
    sampling = Sampling.within(session, temperature=options.temperature, top_p=options.top_p)
    make = HFPolicy.factory(model, sampling=sampling, scope=options.scope)
    return NamedPolicy(name, make, model.counting(session))


def _load_openai(
    name: str, model_name: str, options: ModelOptions, session: SessionConfig
) -> NamedPolicy:
    from agents.llm.openai_client import ChatClient, OpenAIConfig
    from agents.llm.openai_policy import OpenAIPolicy

    config = OpenAIConfig(
        model=model_name,
        base_url=options.base_url,
        api_key=options.api_key,
        temperature=options.temperature,
        top_p=options.top_p,
        max_reply_tokens=get_budget(session.budget).max_reply_tokens,
        stop_at_tags=options.stop_at_tags,
        timeout_seconds=options.timeout_seconds,
        max_concurrency=options.max_concurrency,
    )
    client = ChatClient(config)
    return NamedPolicy(name, partial(OpenAIPolicy, client), session, client.close)


_LOADERS = {"hf": _load_hf, "openai": _load_openai, "py": _load_own}
