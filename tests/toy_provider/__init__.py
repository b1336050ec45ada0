"""A package that brings a provider, put where Python finds it as if it were installed."""

from pathlib import Path

from tests.requirements import ROOT

MODULE = ROOT / "tests" / "toy_provider" / "replay_toy_provider.py"


def install(folder: Path, *, server: str | None = None, **providers: str) -> Path:
    """Makes ``folder`` a place of installed packages with one in it, for ``sys.path`` or ``PYTHONPATH``.

    ``server``: the git server that the toy knows. ``providers``: what the package's entry points name, by the providers' names; the
    toy where nothing is given.
    """
    description = folder / "replay_toy_provider-1.0.dist-info"
    description.mkdir(parents=True)
    (description / "METADATA").write_text("Metadata-Version: 2.1\nName: replay-toy-provider\nVersion: 1.0\n")
    named = providers or {"toy": "replay_toy_provider:ToyProvider"}
    lines = [f"{name} = {value}" for name, value in named.items()]
    (description / "entry_points.txt").write_text("\n".join(["[replay.providers]", *lines, ""]))
    text = MODULE.read_text()
    (folder / MODULE.name).write_text(text if server is None else text.replace("https://git.example.org", server))
    return folder
