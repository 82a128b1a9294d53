"""Fairness of returns: arrays (..., K), one return per objective."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np


def jain(returns_K: np.ndarray) -> np.ndarray:
    """Jain's index (sum R)^2 / (K sum R^2): 1 where all are equal, 1 / K where one has all; 0 for no
    returns."""
    square = returns_K.shape[-1] * np.square(returns_K).sum(-1)
    return np.square(returns_K.sum(-1)) / np.where(square > 0, square, 1.0)


def nash(returns_K: np.ndarray) -> np.ndarray:
    """sum of log R; -inf where an objective has nothing."""
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(returns_K, 0.0)).sum(-1)


def scaled(return_EK: np.ndarray, length_E: np.ndarray, low_K: np.ndarray, high_K: np.ndarray) -> np.ndarray:
    """Returns (E, K) as sums of rewards scaled to [0, 1] by a data set's least and largest reward.

    A reward that never changes there is scaled to 0, as `marl.offline.Scaler` does.
    """
    span_K = np.where(high_K > low_K, high_K - low_K, 1.0)
    return (return_EK - length_E[:, None] * low_K) / span_K


def read(path: Path) -> list[dict[str, str]]:
    """The rows of a raw file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
