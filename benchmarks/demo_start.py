"""How long ``make demo`` takes to start when everything is set up."""

import time
from pathlib import Path

from benchmarks.figures import spread
from tests.e2e.test_demo import first_of_free_ports, running_demo


def measure(folder: Path, _rounds: int) -> str:
    """The Markdown of this measurement."""
    folder.mkdir(parents=True)
    port, taken = first_of_free_ports(), []
    for _ in range(6):
        began = time.perf_counter()
        with running_demo(folder / "demo", port):
            taken.append(time.perf_counter() - began)
    return f"""### The demo's next start

{spread(taken[1:])}, the slowest of five **{max(taken[1:]):.1f} s** (asked: under 5 s).
"""
