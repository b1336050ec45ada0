"""``make demo``: the reference configuration with the demo's settings, and the stand-ins it talks to.

The hub runs from ``jupyterhub_config.py`` as it is. What a real site has elsewhere, Check-in, the DataHub and repositories, is
answered by stand-ins in this process, on loopback. When this ends, nothing that it started is left.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from urllib.parse import quote
from urllib.request import urlopen

import psutil

from demo.certificates import certificate_with_key
from demo.checkin import CheckinStandIn
from demo.checkin_controls import Endpoint
from demo.containers import NoEngine, container_settings, remove_containers
from demo.git_server import GitServer
from demo.onezone import OnezoneStandIn
from demo.people import PEOPLE
from demo.repositories import Published, publish

PROJECT = Path(__file__).resolve().parent.parent
CLIENT_ID = "replay-demo"
DMITRI_MANAGES = "vo.notebooks.egi.eu"
"""By ``demo/policies.yaml``."""
START_SECONDS = 60
STOP_SECONDS = 30


class CannotStart(Exception):
    """Why the demo cannot start, and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until Ctrl-C; 0 at an asked end, 1 with a sentence where it cannot start or the hub ended by itself."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="Replay on this machine, to try it.")
    parser.add_argument("--port", type=int, default=8000, help="where the hub answers; the next six ports are used too")
    parser.add_argument("--dir", type=Path, default=PROJECT / ".demo", help="what the demo keeps")
    options = parser.parse_args(arguments)
    # Also where it was started in the background, and so with Ctrl-C ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        return _run(options.port, options.dir.resolve())
    except CannotStart as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(port: int, folder: Path) -> int:
    for wanted in range(port, port + 7):
        _check_free(wanted, port)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    url = f"http://127.0.0.1:{port}"
    secret_file = folder / "client_secret"
    if not secret_file.exists():
        secret_file.touch(mode=0o600)
        secret_file.write_text(secrets.token_hex(16))
    in_containers = os.environ.get("REPLAY_BUILDER", "venv") == "docker"
    try:
        more = container_settings() if in_containers else {}
    except NoEngine as error:
        raise CannotStart(str(error)) from error
    repositories = publish(folder / "git")
    certificate, authority = certificate_with_key(folder)
    with (
        GitServer(folder / "git", port=port + 5) as git,
        CheckinStandIn(
            port=port + 4,
            client_id=CLIENT_ID,
            client_secret=secret_file.read_text(),
            redirect_uris=[f"{url}/hub/oauth_callback"],
            people=PEOPLE,
        ) as checkin,
        OnezoneStandIn(
            port=port + 6, userinfo_url=checkin.url_of(Endpoint.USERINFO), certificate=certificate
        ) as onezone,
    ):
        settings = {
            "OIDC_CLIENT_ID": CLIENT_ID,
            "OIDC_CLIENT_SECRET_FILE": str(secret_file),
            "OIDC_ISSUER": checkin.issuer,
            "URL": url,
            "PORTS": f"{port + 1},{port + 2},{port + 3}",
            "STATE_DIR": str(folder / "state"),
            "EXEMPT_ORIGINS": git.url.rstrip("/"),
            "FEATURES": "token,datahub,stations",
            "ONEZONE_URL": onezone.url,
            "ONEPROVIDER": onezone.provider,
            "ONEZONE_CA_FILE": str(authority),
            "POLICIES": str(PROJECT / "demo" / "policies.yaml"),
            "PYTHON_DOWNLOADS": os.environ.get("REPLAY_PYTHON_DOWNLOADS", "1"),
            "KEEP_SERVERS": "0",
            "PROXY_COMMAND": f"{_node()} {PROJECT}/node_modules/configurable-http-proxy/bin/configurable-http-proxy",
        } | more
        log_file = folder / "hub.log"
        try:
            hub = _start_hub(settings, folder, log_file)
            _until_it_answers(hub, url, log_file)
            _welcome(url, git.url, repositories, checkin, log_file, in_containers=in_containers)
            hub.wait()
            print(f"The hub ended by itself. Its log: {log_file}", file=sys.stderr)
            return 1
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            _end(folder)
            if in_containers:
                remove_containers(port + 1)


def _start_hub(settings: dict[str, str], folder: Path, log_file: Path) -> "subprocess.Popen[bytes]":
    with log_file.open("wb") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "-f", str(PROJECT / "jupyterhub_config.py")],
            cwd=folder,
            env=os.environ | {f"REPLAY_{name}": value for name, value in settings.items()},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )


def _check_free(wanted: int, first: int) -> None:
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", wanted))
        except OSError as error:
            raise CannotStart(
                f"Port {wanted} is in use. The demo takes {first} to {first + 6}; name another start with: make demo PORT=…"
            ) from error


def _node() -> str:
    node = shutil.which("node")
    if node is None:
        raise CannotStart("There is no Node. “make demo” gets one; start the demo with that.")
    return node


def _until_it_answers(hub: "subprocess.Popen[bytes]", url: str, log_file: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    for address in (f"{url}/hub/health", f"{url}/services/replay/health"):
        while True:
            if hub.poll() is not None or time.monotonic() > deadline:
                lines = log_file.read_text(errors="replace").splitlines()
                # Sentences and errors, before the proxy's complaints that there is no hub.
                told = [line for line in lines if line.startswith(("[E ", "[C ")) or line.endswith(".")]
                last = "\n".join((told or lines)[-15:])
                raise CannotStart(f"The hub did not start. The end of its log ({log_file}):\n{last}")
            try:
                with urlopen(address, timeout=5):
                    break
            except OSError:
                time.sleep(0.1)  # Until the hub listens, there is nothing to wait for but the next look.


def _welcome(
    url: str,
    git_url: str,
    repositories: Sequence[Published],
    checkin: CheckinStandIn,
    log_file: Path,
    *,
    in_containers: bool,
) -> None:
    print(f"\nReplay runs at {url}\n\nLinks to open:")
    for repository in repositories:
        address = quote(f"{git_url.rstrip('/')}/{repository.name}.git", safe="")
        print(f"  {repository.description}\n    {url}/v2/git/{address}/HEAD?labpath=index.ipynb")
    print("\nPeople who can log in (the stand-in for Check-in asks for no password):")
    for person in checkin.people:
        print(f"  {person.name:<18} {person.remark}")
    print(f"A manager sees and stops what runs for their VO: {url}/services/replay/vo/{DMITRI_MANAGES}")
    print("Everybody has spaces of a stand-in for the DataHub: tick its box where you agree to a launch.")
    print(f"What is said of them, and how Check-in fails, can be changed at {checkin.controls_url}")
    if in_containers:
        print("\nBuilds and sessions are containers of this machine's engine; what was built stays there.")
    else:
        print(
            "\nBuilds and sessions are ordinary processes of your own account: nothing is isolated. Open links that you trust."
        )
    print(
        f"The log is in {log_file}. Ctrl-C ends it all.\n",
        flush=True,
    )


def _end(folder: Path) -> None:
    """End the hub, which ends its proxy, services, sessions and builds; then whatever is left of them, whoever owns it now."""
    print("\nEnding …", flush=True)
    hubs = [process for process in _processes_of(folder) if "jupyterhub" in process.cmdline()]
    for hub in hubs:
        with contextlib.suppress(psutil.NoSuchProcess):
            hub.terminate()
    psutil.wait_procs(hubs, timeout=STOP_SECONDS)
    left = _processes_of(folder)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)
    if alive := _processes_of(folder):
        print(f"Still running: {', '.join(f'{process.pid} ({process.name()})' for process in alive)}", file=sys.stderr)
    else:
        print("Nothing is left running.", flush=True)


def _processes_of(folder: Path) -> list[psutil.Process]:
    """All processes of this demo but this one: the hub's have its state in their environment, builds and sessions their home.

    Not those that merely look at it: somebody may read the log in another terminal.
    """
    state = folder / "state"
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environment = process.environ()
            places = [Path(environment[name]) for name in ("REPLAY_STATE_DIR", "HOME") if environment.get(name)]
            if any(place.is_relative_to(state) for place in places):
                found.append(process)
    return found


if __name__ == "__main__":
    sys.exit(main())
