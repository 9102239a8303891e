"""Learning-rate rules for a total batch that differs from M0: AdaScale for SGD, square root for Adam. Pure."""

from __future__ import annotations

from typing import Optional, Tuple

from ..batch import gain

RULES = ("adascale", "sqrt", "linear", "none")


def learning_rate_factor(rule: str, scale: float, moments: Optional[Tuple[float, float]]) -> float:
    """Factor on the learning rate at ``scale`` = M / M0.

    ``moments``: (|gradient|^2, variance) at M0; AdaScale takes the square root of the scale until they are known.
    Raises ValueError for an unknown rule.
    """
    if rule not in RULES:
        raise ValueError("unknown learning-rate rule {!r}; known: {}".format(rule, ", ".join(RULES)))
    if rule == "none" or scale == 1.0:
        return 1.0
    if rule == "linear":
        return scale
    if rule == "adascale" and moments is not None:
        return gain(moments[0], moments[1], scale)
    return float(scale**0.5)
