import pytest

from videoseek_env.datasets import DATASETS, load_tasks
from videoseek_env.errors import DatasetError


def test_an_unknown_dataset_is_answered_with_the_known_names() -> None:
    with pytest.raises(
        DatasetError, match="no dataset is named 'seeker'; choose one of needle, folder"
    ):
        load_tasks("seeker")


def test_every_name_leads_to_a_loader() -> None:
    assert sorted(DATASETS) == ["folder", "needle"]
    for name in DATASETS:
        with pytest.raises((DatasetError, TypeError)):
            load_tasks(name, no_such_argument=1)
