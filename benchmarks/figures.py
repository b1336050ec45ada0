"""Medians with their spread, and ratios."""

from collections.abc import Sequence
from statistics import median, quantiles


def spread(values: Sequence[float], unit: str = "s", factor: float = 1.0, digits: int = 2) -> str:
    """``2.31 s (1.92 to 2.80)``: the median, and the quarter and three-quarter points."""
    low, _, high = quantiles(values, n=4)
    middle = median(values)
    return f"{middle * factor:.{digits}f} {unit} ({low * factor:.{digits}f} to {high * factor:.{digits}f})"
