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

    def why_it_did_not_start(self, engine: str) -> str:
        """A sentence for what the engine said instead of starting the container."""
        return self._of_the_command(engine, None) or refused_by_the_engine(engine)

    def why_it_ended(self, state: Mapping[str, Any], log: str) -> str:
        """A sentence for a container that ended before it answered; ``state`` is the engine's (``State``)."""
        status = state.get("ExitCode")
        lines = last_lines(log)
        if state.get("OOMKilled") or status == _KILLED:
            limit = "" if self.memory_limit is None else f" It may have at most {_size(self.memory_limit)}."
            return f"The session ran out of memory while it started, so it was ended.{limit}"
        if sentence := self._of_the_command(log, status):
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

    def _of_the_command(self, text: str, status: int | None) -> str | None:
        """Of a program that cannot be run: by Docker's words, tini's, a shell's or Python's."""
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


def refused_by_the_engine(said: str) -> str:
    """A sentence for an error that the engine answered with."""
    if "no space left on device" in said:
        return (
            "The disk of the machine that runs sessions is full, so this one could not start. Tell the administrators."
        )
    if "docker-init" in said:
        return "The container engine lacks a part, docker-init, that sessions need. Tell the administrators."
    return f"The container engine refused the session: {safe(said)}. If this comes back, tell the administrators."


def last_lines(log: str) -> str:
    """The last lines that say something serious, or else the last ones."""
    lines = [line for line in log.splitlines() if line.strip()]
    serious = [line for line in lines if _SERIOUS.search(line)]
    return " / ".join(safe(line) for line in (serious or lines)[-3:]) or "it said nothing."


def safe(text: str, most: int = 300) -> str:
    """A stranger's text as it may stand in a sentence: one line, no escape sequences, nothing that is not seen."""
    plain = _ESCAPES.sub("", text[: 4 * most])
    return "".join(letter if letter.isprintable() else " " for letter in plain).strip()[:most]


def _size(size: int) -> str:
    return f"{size / 1024**3:.3g} GB" if size >= 1024**3 else f"{size / 1024**2:.3g} MB"
