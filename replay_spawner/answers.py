"""From a container that was started to a server that answers, or to the sentence that says why there is none.

The container is a stranger's: what it sends is read within bounds, and what it says is made safe to show.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

import httpcore

ASK_SECONDS = 5.0
"""For one answer's head. A server that is slower is asked again."""

LOOK_SECONDS = 0.03
LOOK_AT_LEAST_SECONDS = 0.25
"""How often a new server is asked whether it answers, the longer it takes the less often: many may start at once. The
hub itself would look after up to 5 s."""

REPO2DOCKER_ENTRYPOINT = "/usr/local/bin/repo2docker-entrypoint"

_KILLED = 137
"""128 + SIGKILL, which is what the kernel sends to what takes too much memory."""

_CANNOT_RUN = frozenset({126, 127})
"""A shell's and tini's status for a command that is not executable, or not there."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.)")
_SERIOUS = re.compile(r"^\[[CE] |Error\b|^\[FATAL")


class Answer(Enum):
    """What is at the address of a session's server."""

    NOTHING_YET = auto()
    HUB_SERVER = auto()
    SOMETHING_ELSE = auto()


async def ask(pool: httpcore.AsyncConnectionPool, url: str) -> Answer:
    """Look at the head of one answer. Nothing is followed, kept or read further; httpcore ends heads at 100 KiB.

    Every ``jupyterhub-singleuser`` since 0.8 sends its version; what logs in at the hub before it answers redirects there.
    """
    timeouts = dict.fromkeys(("connect", "read", "write", "pool"), ASK_SECONDS)
    try:
        async with (
            asyncio.timeout(ASK_SECONDS),
            pool.stream("GET", url, extensions={"timeout": timeouts}) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers}
            if b"x-jupyterhub-version" in headers or b"/hub/api/oauth2/authorize" in headers.get(b"location", b""):
                return Answer.HUB_SERVER
            # The hub itself takes any answer below 500 for the server's.
            return Answer.SOMETHING_ELSE if response.status < 500 else Answer.NOTHING_YET
    except (TimeoutError, httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError):
        return Answer.NOTHING_YET


def pause_after(seconds: float) -> float:
    """How long to wait for the next look at a server that has not answered for so long; both in seconds."""
    return min(max(LOOK_SECONDS, seconds / 50), LOOK_AT_LEAST_SECONDS)


@dataclass(frozen=True, slots=True)
class Started:
    """What there is to know of a session whose container was started, to explain why it has no server."""

    command: str
    """The program that the plan names."""
    entrypoint: Sequence[str]
    """The image's."""
    port: int
    memory_limit: int | None
    """Bytes."""

    def why_it_ended(self, state: Mapping[str, Any], log: str) -> str:
        """A sentence for a container that ended before it answered; ``state`` is the engine's (``State``)."""
        status = state.get("ExitCode")
        lines = last_lines(log)
        if state.get("OOMKilled") or status == _KILLED:
            limit = "" if self.memory_limit is None else f" It may have at most {size_of(self.memory_limit)}."
            return f"The session ran out of memory while it started, so it was ended.{limit}"
        if sentence := self.why_it_cannot_run(log, status):
            return sentence
        if status == 0 and self._own_entrypoint:
            return (
                f"The session's server ended at once. The image's ENTRYPOINT, {self._own_entrypoint}, must run the command "
                f"that it is given: {lines}"
            )
        return f"The session's server ended at once, with status {status}: {lines}"

    def why_nothing_answers(self, seconds: float, log: str) -> str:
        """A sentence for a container that runs, and nothing answers."""
        return (
            f"The session's server did not answer on port {self.port} within {seconds:g} seconds. {self._advice} "
            f"The last that it said: {last_lines(log)}"
        )

    @property
    def why_it_is_no_server(self) -> str:
        """A sentence for an answer that is not a JupyterHub server's."""
        return f"What answers on port {self.port} in this image is no JupyterHub server. {self._advice}"

    @property
    def _own_entrypoint(self) -> str | None:
        """None where the image has none, or repo2docker's, which runs what it is given."""
        if not self.entrypoint or self.entrypoint[0] == REPO2DOCKER_ENTRYPOINT:
            return None
        return safe(" ".join(self.entrypoint), 200)

    @property
    def _advice(self) -> str:
        if self._own_entrypoint:
            return (
                f"The image's ENTRYPOINT, {self._own_entrypoint}, must run the command that it is given "
                f"({self.command}), and nothing else may listen there."
            )
        if self.entrypoint:
            return 'If the repository has a start file, that must end with: exec "$@"'
        return f"{self.command} must listen there, on all addresses."

    def why_it_cannot_run(self, text: str, status: int | None = None) -> str | None:
        """A sentence for a program that cannot be run: by an engine's words, tini's, a shell's or Python's; none for others."""
        if re.search("exec format error", text, re.IGNORECASE):
            return "The image is made for another kind of processor than this machine's, so it cannot run here."
        name = re.escape(self.command)
        cannot = "not found|No such file or directory|Permission denied"
        if re.search(f"{name}.{{0,80}}({cannot})|({cannot}).{{0,80}}{name}", text):
            return (
                f"The image has no {self.command} that could be run: add jupyterhub and jupyterlab (or notebook) to its "
                "environment."
            )
        if status in _CANNOT_RUN:
            ours = self._own_entrypoint
            what = f"The image's ENTRYPOINT, {ours}," if ours else "What the image starts"
            return f"{what} could not be run: {last_lines(text)}"
        return None


def last_lines(log: str) -> str:
    """The last lines that say something serious, or else the last ones."""
    lines = [line for line in log.splitlines() if line.strip()]
    serious = [line for line in lines if _SERIOUS.search(line)]
    return " / ".join(safe(line) for line in (serious or lines)[-3:]) or "it said nothing."


def safe(text: str, most: int = 300) -> str:
    """A stranger's text as it may stand in a sentence: one line, no escape sequences, nothing that is not seen."""
    plain = _ESCAPES.sub("", text[: 4 * most])
    return "".join(letter if letter.isprintable() else " " for letter in plain).strip()[:most]


def size_of(size: int) -> str:
    """Bytes, as people write them."""
    return f"{size / 1024**3:.3g} GB" if size >= 1024**3 else f"{size / 1024**2:.3g} MB"
