import sys

import pytest


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Sums are rounded alike in all tests: the demo, for one, asks for two threads."""
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)
