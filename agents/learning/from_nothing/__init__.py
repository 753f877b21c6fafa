"""A model that seeks, from random weights: `train_from_nothing`."""

from agents.learning.from_nothing.train import FromNothingConfig, train_from_nothing

__all__ = ["FromNothingConfig", "train_from_nothing"]
