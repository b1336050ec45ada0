"""`ReplayLocalSpawner`: sessions as processes on the hub's own machine, from environments of the venv builder.

For trying Replay and developing it. Nothing is isolated: all sessions are processes of the hub's account.
"""

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from inspect import isawaitable
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import psutil
from jupyterhub.spawner import SimpleLocalProcessSpawner
from jupyterhub.utils import random_port
from tornado import web
from traitlets import Unicode

from replay_build_service.links import Repository
from replay_build_service.schemas import LaunchPlan
from replay_spawner.ends import by_status
from replay_spawner.featured import FeaturesMixin
from replay_spawner.features.base import Platform, SessionFile
from replay_spawner.features.places import in_home
from replay_spawner.folders import NotOurs, read_in, write_in
from replay_spawner.lab import data_path
from replay_spawner.local_leftovers import HUB_VARIABLE, Machine
from replay_spawner.usage import Usage, within_time
from replay_spawner.usage.process import usage_of_tree

LOOK_SECONDS = 0.02
"""How often a new server is asked whether it answers. The hub itself would look after up to 5 s."""

TERMINATE_SECONDS = 3.0
"""How long what a server leaves behind may take to end before it is killed."""

_NOT_THE_HUBS = (
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "CONDA_DEFAULT_ENV",
    "CONDA_ROOT",
    "LD_LIBRARY_PATH",
    "JUPYTERHUB_SINGLEUSER_APP",
)
"""Variables of the hub's own environment that mean nothing, or harm, in the environment of a repository."""


class ReplayLocalSpawner(FeaturesMixin, SimpleLocalProcessSpawner):
    """Starts the environment of a launch as a process, in a folder of its own that goes with it."""

    applies_plans = True
    platform = Platform.PROCESS

    sessions_dir = Unicode("replay-state/sessions", help="Folder in which each session gets a folder of its own.").tag(
        config=True
    )

    _session: Path | None = None
    """The folder of the session that runs; kept over a restart of the hub."""

    def place_to_sweep(self) -> Machine:
        return Machine(Path(self.sessions_dir).resolve(), self.hub_mark, _remove)

    async def start(self) -> Any:
        """Start the server; for a launch, return only once it answers, so that the hub's first look finds it."""
        if self.plan is None:
            return await super().start()
        try:
            return await self._start_session(self.plan)
        except web.HTTPError:
            raise
        except Exception as error:
            # Whatever a repository's files or its server do to us here is no fault of the hub's, which would count it
            # towards its own end.
            self.log.exception("The session of launch %s could not be started", self.plan.launch)
            raise self.refusal(
                422,
                "The session could not be started from this repository's files. If you need help, tell the "
                f"administrators the launch's number, {self.plan.launch}.",
            ) from error

    async def _start_session(self, plan: LaunchPlan) -> Any:
        if plan.resources.gpus is not None:
            raise self.refusal(
                422, "Sessions of this hub are plain processes and cannot be given GPUs. Tell the administrators."
            )
        self._session = session = self._folder_of(plan)
        home = session / "home" / _folder_name(plan)
        log_file = session / "server.log"
        log = await asyncio.to_thread(_make_session, home, plan.source, log_file)
        if plan.content is not None:
            self._refuse_content(plan.content, await asyncio.to_thread(os.listdir, home))
            await asyncio.to_thread(_make_home, home / plan.content.name, plan.content.folder)
        await self._prepare_features(plan, str(home), frozenset(await asyncio.to_thread(os.listdir, home)))
        await self._deliver_at_start()
        self.override(
            cmd=list(plan.command),
            home_dir=str(home),
            port=self.port or random_port(),
            mem_limit=plan.resources.memory_limit,
            mem_guarantee=plan.resources.memory_guarantee,
            cpu_limit=plan.resources.cpu_limit,
            cpu_guarantee=plan.resources.cpu_guarantee,
        )
        with log:
            # The folder is there and is the working directory: no code of ours need run between fork and exec.
            self.override(popen_kwargs={"preexec_fn": None, "cwd": str(home), "stdout": log, "stderr": log})
            address = await super().start()
        _limit_memory(int(self.pid), plan.resources.memory_limit)
        await self._until_it_answers(address, log_file)
        self._keep_features_fresh()
        return address

    async def deliver(self, files: Sequence[SessionFile]) -> None:
        """Into the session's home, or into a folder of the session's own beside it."""
        for file in files:
            if file.content is None or file.container:
                continue
            base, folder = self._place_of(file)
            mode = 0o400 if file.is_secret else 0o644
            try:
                await asyncio.to_thread(write_in, base, f"{folder}/{file.name}", file.content, mode)
            except NotOurs as error:
                # The repository's own, which stays. A later try would find it, too.
                self.log.warning("%s is not put into the session: %s", file.name, error)

    async def read(self, files: Sequence[SessionFile]) -> Mapping[tuple[str, str], bytes]:
        found: dict[tuple[str, str], bytes] = {}
        for file in files:
            base, folder = self._place_of(file)
            content = await asyncio.to_thread(read_in, base, f"{folder}/{file.name}")
            if content is not None:
                found[file.folder, file.name] = content
        return found

    def path_of(self, file: SessionFile) -> str:
        base, folder = self._place_of(file)
        return str(base / folder / file.name)

    def _place_of(self, file: SessionFile) -> tuple[Path, str]:
        """A folder of ours, and the file's folder below it."""
        if self._session is None or self._context is None:
            raise RuntimeError("There is no session that could have files.")
        folder = in_home(file.folder)
        return (
            (self._session / "files", file.folder.lstrip("/")) if folder is None else (Path(self._context.home), folder)
        )

    def _folder_of(self, plan: LaunchPlan) -> Path:
        return Path(self.sessions_dir).resolve() / plan.launch

    async def _until_it_answers(self, address: tuple[str, int], log_file: Path) -> None:
        ip, port = address
        # JupyterHub sets the server before it starts the spawner.
        base_url = str(self.server.base_url)  # pyright: ignore[reportOptionalMemberAccess]
        url = f"http://{ip}:{port}{base_url}api"
        async with httpx.AsyncClient(trust_env=False, timeout=self.http_timeout) as client:
            try:
                async with asyncio.timeout(self.http_timeout):
                    while True:
                        if (status := await self.poll()) is not None:
                            lines = await asyncio.to_thread(_last_lines, log_file)
                            raise self.refusal(
                                422, f"The session's server ended at once, with status {status}: {lines}"
                            )
                        try:
                            # The head of an answer is enough; its body is a stranger's.
                            async with client.stream("GET", url):
                                return
                        except httpx.HTTPError:
                            await asyncio.sleep(LOOK_SECONDS)
            except TimeoutError as error:
                raise self.refusal(
                    422, f"The session's server did not answer within {self.http_timeout} seconds."
                ) from error

    def get_args(self) -> list[str]:
        """Jupyter refuses to run as root unless told; where the hub itself does, there is no other account to run as."""
        allow_root = ["--allow-root"] if self.plan is not None and os.geteuid() == 0 else []
        return [*super().get_args(), *allow_root]

    def get_env(self) -> dict[str, str]:
        """The repository's environment, with nothing of the hub's own Python in it."""
        env = super().get_env()
        if self.plan is None:
            return env
        for name in _NOT_THE_HUBS:
            env.pop(name, None)
        env[HUB_VARIABLE] = self.hub_mark
        env |= {name: value.replace("{home}", self.home_dir) for name, value in self.plan.environment.items()}
        return env | {"JUPYTER_PATH": data_path(env)}

    async def poll(self) -> int | None:
        """As JupyterHub's; why a session ended that nobody stopped is told."""
        ran = bool(self.pid)
        status = await super().poll()
        if ran and status is not None and self._session is not None and not self._start_pending:
            # Of a process that another hub had started nothing is known but that it is gone, which JupyterHub tells as 0.
            # A signal's number comes negative, and as a shell and engines write it here.
            self.tell_end(self._session.name, by_status(status if status >= 0 else 128 - status))
        return status

    async def usage(self) -> Usage | None:
        return await within_time(asyncio.to_thread(usage_of_tree, int(self.pid)))

    async def stop(self, now: bool = False) -> None:
        """Stop the server and everything that it started."""
        descendants = await asyncio.to_thread(_descendants, int(self.pid))
        await super().stop(now)
        await asyncio.to_thread(_end, descendants)

    async def run_post_stop_hook(self) -> None:
        """Also when a server died by itself or never started, what belonged to its session goes."""
        await self._end_features()
        session, self._session = self._session, None
        if session is not None:
            await asyncio.to_thread(_remove, session)
        hook: Any = super().run_post_stop_hook()
        if isawaitable(hook):
            await hook

    def get_state(self) -> dict[str, Any]:
        """What a restarted hub needs: the process, and the session's folder."""
        state: dict[str, Any] = super().get_state()
        if self._session is not None:
            state["replay_session"] = str(self._session)
        return state

    def load_state(self, state: dict[str, Any]) -> None:
        """Find a running session again."""
        super().load_state(state)
        if "replay_session" in state:
            self._session = Path(state["replay_session"])


def _folder_name(plan: LaunchPlan) -> str:
    """What a terminal's prompt shows: the repository's own name."""
    return Repository(plan.repository).folder_name


def _make_session(home: Path, source: str | None, log_file: Path) -> BinaryIO:
    """The session's folder with its home; what the server says goes to the file that is returned."""
    log_file.parent.mkdir(parents=True, mode=0o700)
    home.parent.mkdir()
    _make_home(home, source)
    return log_file.open("wb")


def _make_home(home: Path, source: str | None) -> None:
    if source is None:
        home.mkdir()
        return
    shutil.copytree(source, home, symlinks=True)
    for folder in [home, *(path for path in home.rglob("*") if path.is_dir() and not path.is_symlink())]:
        folder.chmod(folder.stat().st_mode | 0o700)


def _limit_memory(pid: int, limit: int | None) -> None:
    """Let no process of the session have more private memory than the limit; Linux only, the page says what holds where.

    ``RLIMIT_DATA`` counts private writable memory since Linux 4.7 (setrlimit(2)); children inherit it.
    """
    if limit is None or sys.platform != "linux":
        return
    import resource

    resource.prlimit(pid, resource.RLIMIT_DATA, (limit, limit))


def _descendants(pid: int) -> list[psutil.Process]:
    if not pid:
        return []
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _end(processes: list[psutil.Process]) -> None:
    """Kernels and terminals live in sessions of their own and survive their server's signal; psutil knows a reused pid."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=TERMINATE_SECONDS)
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def _remove(session: Path) -> None:
    """End what has left the server's tree, too, such as ``nohup … &`` in a terminal that was closed; then the folder."""
    _end([process for process in psutil.process_iter() if _launch_of(process) == session.name])
    # Not shutil's: it gives up below some hundred folders, and how deep these are was up to the session.
    subprocess.run(["chmod", "-R", "u+rwx", str(session)], check=False, stderr=subprocess.DEVNULL)
    subprocess.run(["rm", "-rf", "--", str(session)], check=False)


def _launch_of(process: psutil.Process) -> str | None:
    try:
        return process.environ().get("REPLAY_LAUNCH")
    except (psutil.Error, OSError):
        return None


def _last_lines(file: Path) -> str:
    with file.open("rb") as log:
        log.seek(max(0, log.seek(0, os.SEEK_END) - 20_000))
        lines = log.read().decode("utf8", "replace").strip().splitlines()
    serious = [line for line in lines if re.search(r"^\[[CE] |Error\b", line)]
    return " / ".join(line[:300] for line in (serious or lines)[-3:]) or "it said nothing."
