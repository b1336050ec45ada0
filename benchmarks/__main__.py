"""``make bench``: all measurements, as Markdown. ``python -m benchmarks launch`` runs one of them."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jupyterhub

from benchmarks import cluster, containers, demo_start, launch, pasting, resolving, watchers
from tests.requirements import missing

MEASUREMENTS: dict[str, Callable[[Path, int], str]] = {
    "launch": launch.measure,
    "watchers": watchers.measure,
    "demo-start": demo_start.measure,
    "builds": containers.measure_builds,
    "container-launch": containers.measure_launch,
    "output": containers.measure_output,
    "pasting": pasting.measure,
    "resolving": resolving.measure,
    "cluster": cluster.measure,
}
NEEDS = {"cluster": "cluster"}
"""What a machine may lack, by the tests' name for it. Without it, all the others are measured."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("which", nargs="*", help=f"one or more of {', '.join(MEASUREMENTS)}; default: all")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    if unknown := set(options.which) - MEASUREMENTS.keys():
        parser.error(f"there is no measurement {', '.join(sorted(unknown))}; there are {', '.join(MEASUREMENTS)}")
    print(
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, CPython {platform.python_version()}, "
        f"JupyterHub {jupyterhub.__version__}; load when it began: {os.getloadavg()[0]:.1f}\n"
    )
    with tempfile.TemporaryDirectory(prefix="replay-bench-") as folder:
        for name in options.which or MEASUREMENTS:
            if name in NEEDS and (reason := missing(NEEDS[name])):
                if options.which:
                    parser.error(f"{name} cannot be measured here: {reason}")
                print(f"Not measured: {name} ({reason}).\n", flush=True)
                continue
            print(MEASUREMENTS[name](Path(folder) / name, options.rounds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
