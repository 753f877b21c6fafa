"""From random weights to a policy that seeks: five stages, each kept, none done twice.

The last one unlearns a decision. Demonstrations know which questions need a closer look, and a
model that is good at following them leaves rewards little to teach. So half of the last ones guess.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from agents.learning.from_nothing.copying import Copying
from agents.learning.from_nothing.episodes import Demonstrations, imagined_sight
from agents.learning.from_nothing.examples import Example
from agents.learning.from_nothing.imagined import imagine
from agents.learning.from_nothing.optimise import optimise
from agents.learning.from_nothing.perception import Pairs
from agents.learning.from_nothing.planting import plant_previous_token_heads
from agents.learning.from_nothing.playing import SLIP_PROBABILITY, demonstrate, learn_to_play
from agents.learning.from_nothing.settings import MODEL, needle_config
from agents.learning.from_nothing.ways import GUESSING, NATIVE, Way
from agents.llm.model import VisionLanguageModel
from agents.llm.tiny import save_tiny, tiny_model
from agents.llm.tiny_tokenizer import tiny_tokenizer
from agents.settings_file import claim
from videoseek_env.datasets.needle import load_needle
from videoseek_env.datasets.needle_config import NeedleConfig
from videoseek_env.errors import ConfigError
from videoseek_env.trajectory import append_jsonl, filter_jsonl

Report = Callable[[Mapping[str, Any]], None]
"""Gets what is logged, as it is logged."""

COPIED_WELL: Final = 0.97
"""The share of tokens that are copied rightly, from which copying is learned."""
COPYING_ROUNDS: Final = 3
"""Rounds of copying until then, at most."""
DRILL_PROBABILITY: Final = 0.6
"""The share of drills among imagined examples."""
GUESSING_LEARNING_RATE: Final = 3e-4
"""Low, so that nothing but the decision changes."""
LOOK_BACK_TOKENS: Final = (1, 2)
"""What the planted heads look at."""

BEFORE_PLAYING: Final = "3-seeing"
"""The checkpoint with which everything but playing is learned, in the run's folder."""
BEFORE_GUESSING: Final = "4-playing"
"""The checkpoint that plays as well as demonstrations teach it to."""

_EXAMPLES_FOR_IDS: Final = 300
"""Enough to use every token that demonstrations ever use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FromNothingConfig:
    """How long each stage is, and on what.

    Raises:
        ConfigError: If a number is below one.
    """

    videos: int = 400
    """Videos of the training set; there are twelve tasks about each."""
    imagined_examples: int = 6000
    """Demonstrations and drills without pixels."""
    copying_steps: int = 600
    """Of a round. There is another one if copying is not learned by then, and a third."""
    imagining_steps: int = 900
    seeing_steps: int = 700
    """Steps of the vision tower by itself."""
    playing_steps: int = 600
    """Steps of everything on demonstrations in real videos."""
    guessing_steps: int = 100
    """More of them, on demonstrations of which half guess; see `ways.GUESSING`."""
    batch_tokens: int = 5120
    """Of a batch of demonstrations, padding included."""
    seed: int = 0

    def __post_init__(self) -> None:
        low = [
            f.name for f in dataclasses.fields(self) if getattr(self, f.name) < (f.name != "seed")
        ]
        if low:
            raise ConfigError(f"{', '.join(low)} must be at least 1, and the seed at least 0")


def train_from_nothing(
    config: FromNothingConfig,
    output_folder: str | os.PathLike[str],
    *,
    report: Report = lambda _: None,
) -> Path:
    """Teach a new tiny model to play needle tasks, by demonstrations alone.

    A run that was cut off goes on with the first stage that is not finished. `log.jsonl` holds
    losses and accuracies by class of token. On one core, with `torch.set_num_threads(1)`.

    Args:
        config: How long.
        output_folder: Holds the videos, a checkpoint of each stage, and the log.
        report: Called with every line of the log.

    Returns:
        The folder of the last checkpoint, for `VisionLanguageModel.from_pretrained`.

    Raises:
        ConfigError: If the folder holds a run of another configuration.
        OSError: If the folder can't be written.
    """
    folder = Path(output_folder).expanduser().resolve()
    claim(folder / "config.json", dataclasses.asdict(config))
    run = _Run(folder, config)
    checkpoint = folder / "0-new"
    if not checkpoint.exists():
        _save(_new_model(config), checkpoint)
    for number, (name, teach) in enumerate(_STAGES.items(), 1):
        before, checkpoint = checkpoint, folder / f"{number}-{name}"
        if not checkpoint.exists():
            model = VisionLanguageModel.from_pretrained(before)
            model.network.train()
            log = _Log(folder / "log.jsonl", name, report)
            teach(run, model, log)
            _save(model, checkpoint)
    return checkpoint


def _new_model(config: FromNothingConfig) -> VisionLanguageModel:
    tokenizer = tiny_tokenizer()
    network = tiny_model(dataclasses.replace(MODEL, seed=config.seed), tokenizer=tokenizer)
    model = VisionLanguageModel.wrap(network, tokenizer)
    plant_previous_token_heads(model, LOOK_BACK_TOKENS)
    return model


def _save(model: VisionLanguageModel, folder: Path) -> None:
    save_tiny(folder, model=model.network, tokenizer=model.vocabulary.tokenizer)


class _Log:
    """Where a stage's numbers go."""

    def __init__(self, path: Path, stage: str, report: Report) -> None:
        """Take out what an earlier try at the stage wrote: it is done again."""
        self._path, self._stage, self._report = path, stage, report
        if path.exists():
            filter_jsonl(path, lambda line: line["stage"] != stage)

    def __call__(self, figures: Mapping[str, float]) -> None:
        line = {"stage": self._stage} | {name: round(value, 5) for name, value in figures.items()}
        append_jsonl(self._path, [line])
        self._report(line)


class _Run:
    """What the stages learn from."""

    def __init__(self, folder: Path, config: FromNothingConfig) -> None:
        self.config = config
        self._folder = folder
        self._native: list[Example] = []

    def imagined(self, model: VisionLanguageModel, count: int) -> list[Example]:
        """Without pixels."""
        endless = imagine(
            model,
            needle_config("imagined", 1, seed=self.config.seed),
            slip_probability=SLIP_PROBABILITY,
            drill_probability=DRILL_PROBABILITY,
            seed=self.config.seed,
        )
        return list(itertools.islice(endless, count))

    def native(self, model: VisionLanguageModel) -> list[Example]:
        """Native demonstrations in the training videos, made when they are first asked for."""
        self._native = self._native or self._demonstrate(model, NATIVE)
        return self._native

    def guessing(self, model: VisionLanguageModel) -> list[Example]:
        """Demonstrations of which half guess."""
        return self._demonstrate(model, GUESSING)

    def _demonstrate(self, model: VisionLanguageModel, way: Way) -> list[Example]:
        tasks = load_needle(training_set(self.config), root=self._folder / "videos")
        return demonstrate(model, tasks, way=way)


def training_set(config: FromNothingConfig) -> NeedleConfig:
    """The videos of a run, which it keeps in the folder "videos" of its own."""
    return needle_config("train", config.videos, seed=config.seed)


def _copy(run: _Run, model: VisionLanguageModel, log: Report) -> None:
    """Round after round until it is learned: it comes all at once, and when is a matter of luck."""
    examples = run.imagined(model, _EXAMPLES_FOR_IDS)
    ids = np.unique(np.concatenate([example.tokens["id"] for example in examples])).astype(np.int64)
    text = model.base.model.language_model
    copied = 0.0

    def log_round(figures: Mapping[str, float]) -> None:
        nonlocal copied
        copied = figures["copy"]
        log({"round": number, **figures})

    for number in range(COPYING_ROUNDS):
        stage = Copying(model, ids, rows=48, length=48, seed=run.config.seed, part=number)
        steps = run.config.copying_steps
        optimise(text.parameters(), stage.loss, steps=steps, learning_rate=3e-3, log=log_round)
        if copied >= COPIED_WELL:
            break


def _imagine(run: _Run, model: VisionLanguageModel, log: Report) -> None:
    stage = Demonstrations(
        model,
        run.imagined(model, run.config.imagined_examples),
        sight=imagined_sight,
        tokens=run.config.batch_tokens,
        seed=run.config.seed,
    )
    text = model.base.model.language_model
    steps = run.config.imagining_steps
    optimise(text.parameters(), stage.loss, steps=steps, learning_rate=2e-3, log=log)


def _see(run: _Run, model: VisionLanguageModel, log: Report) -> None:
    stage = Pairs(model, run.native(model), pairs=256, seed=run.config.seed)
    tower = model.base.model.visual
    steps = run.config.seeing_steps
    optimise(tower.parameters(), stage.loss, steps=steps, learning_rate=2e-3, log=log)


def _play(run: _Run, model: VisionLanguageModel, log: Report) -> None:
    config = run.config
    learn_to_play(
        model,
        run.native(model),
        steps=config.playing_steps,
        batch_tokens=config.batch_tokens,
        seed=config.seed + 1,
        log=log,
    )


def _guess(run: _Run, model: VisionLanguageModel, log: Report) -> None:
    config = run.config
    learn_to_play(
        model,
        run.guessing(model),
        steps=config.guessing_steps,
        batch_tokens=config.batch_tokens,
        seed=config.seed + 2,
        learning_rate=GUESSING_LEARNING_RATE,
        log=log,
    )


_STAGES: Final[Mapping[str, Callable[[_Run, VisionLanguageModel, Report], None]]] = {
    "copying": _copy,
    "imagining": _imagine,
    "seeing": _see,
    "playing": _play,
    "guessing": _guess,
}
