"""Make the model that `make demo` starts from, of a trained one.

    python docs/ship_checkpoint.py runs/reproduce/sft/5-guessing

The argument is what `train_from_nothing` of `agents.learning.from_nothing.train` made. Weights are
rounded to bfloat16, which halves the file; the rules of its episodes go with them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import torch

from agents.demo import SHIPPED
from agents.learning.from_nothing.settings import NEEDLE_SESSION
from agents.llm.model import VisionLanguageModel
from agents.session_rules import write_rules


def main(trained: Path) -> None:
    """Replace the shipped model."""
    model = VisionLanguageModel.from_pretrained(trained)
    model.network.to(torch.bfloat16)
    shutil.rmtree(SHIPPED, ignore_errors=True)
    model.save_pretrained(SHIPPED)
    write_rules(SHIPPED, NEEDLE_SESSION)
    size = sum(path.stat().st_size for path in SHIPPED.rglob("*"))
    print(f"{SHIPPED}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
