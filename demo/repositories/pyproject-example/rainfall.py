"""Monthly sums from daily measurements of rain."""

from collections import defaultdict


def monthly(measurements):
    """From ``{"2026-01-31": millimetres}`` to ``{"2026-01": millimetres}``, months in order."""
    sums = defaultdict(float)
    for day, millimetres in measurements.items():
        sums[day[:7]] += millimetres
    return {month: round(sums[month], 1) for month in sorted(sums)}
