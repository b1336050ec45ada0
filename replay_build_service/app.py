"""``replay-build-service``: from configuration to objects to a running service. The one place that wires."""

import asyncio
import logging
import os
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Generator
from contextlib import AsyncExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

from jupyterhub.traitlets import ByteSpecification
from tornado.httpserver import HTTPServer
from traitlets import Bool, Dict, Enum, Float, Integer, List, Unicode
from traitlets.config.application import Application, catch_config_error

from replay_build_service.builders.base import Builder
from replay_build_service.builders.venv.builder import VenvBuilder, VenvBuilderSettings, running_version
from replay_build_service.builds import Builds
from replay_build_service.db import Store, UnusableDatabase, open_database, shown_url, upgrade
from replay_build_service.domain import Resources
from replay_build_service.events import EventFeed
from replay_build_service.hub import HubClient
from replay_build_service.kept_secrets import UnusableSecret, kept_secret
from replay_build_service.launches import Launches
from replay_build_service.outgoing import DEFAULT_ALLOWED_HOSTS, OutgoingRules
from replay_build_service.policies import PolicySet
from replay_build_service.providers.base import RepoProvider
from replay_build_service.providers.gh import GitHubProvider
from replay_build_service.providers.git import GitProvider
from replay_build_service.web import MOST_BODY_BYTES, Site, encode_event, make_application, make_templates
from replay_build_service.web.auth import RateLimit, StatelessHubOAuth

VENV_NOTICES = (
    "Builds and sessions on this site are ordinary processes of one account on one machine: they are not isolated "
    "from each other, nor from the hub.",
    "The memory limit holds for each process of a session, where the operating system allows it; "
    "memory and CPU are not reserved.",
)


GIB = 1024**3

COMMANDS = {
    "run": "Serve until the hub ends this. The command where none is named.",
    "upgrade-db": "Bring the database to this version's schema, and end. A SQLite file is copied first. "
    "Name the same configuration as for “run”: it says which database is meant.",
}


class _Stopping(Exception):
    """Somebody asked the service to end."""


class ReplayBuildService(Application):
    """Replay's build service: from a link to an image, and from an image to a launch."""

    name = "replay-build-service"
    description = __doc__ or ""
    version = version("jupyterhub-replay")

    aliases: ClassVar[Any] = {  # pyright: ignore[reportIncompatibleVariableOverride] - traitlets reads it from the class
        "config": "ReplayBuildService.config_file",
        "db": "ReplayBuildService.db_url",
        "log-level": "Application.log_level",
    }
    flags: ClassVar[Any] = {  # pyright: ignore[reportIncompatibleVariableOverride] - traitlets reads it from the class
        **Application.flags,
        "generate-config": (
            {"ReplayBuildService": {"generate_config": True}},
            "Print a configuration file with every setting and its default, and end.",
        ),
    }

    raise_config_file_errors = Bool(True)
    log_level = Enum(
        (0, 10, 20, 30, 40, 50, "DEBUG", "INFO", "WARN", "ERROR", "CRITICAL"),
        "INFO",
        help="From which level on to log.",
    ).tag(config=True)

    config_file = Unicode("", help="A Python configuration file; the hub's own jupyterhub_config.py will do.").tag(
        config=True
    )
    generate_config = Bool(False, help="Print a configuration file and end.").tag(config=True)
    state_dir = Unicode("replay-state", help="Folder for the database, secrets and what builders keep.").tag(
        config=True
    )
    db_url = Unicode(
        "", help="SQLAlchemy URL of the database. Where it is empty: replay.sqlite in the state folder."
    ).tag(config=True)
    token_file = Unicode(
        "",
        help="File with the token that spawner and service share. Where it is empty: service_token in the state folder.",
    ).tag(config=True)
    public_url = Unicode(
        "",
        help="scheme://host[:port] by which people reach the hub, for links and badges. Default: as their request says.",
    ).tag(config=True)

    vos = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="The virtual organisations that may launch, each with the address where one enrols in it (may be empty).",
    ).tag(config=True)
    mem_guarantee = ByteSpecification(2 * GIB, help="Memory that a session is guaranteed.").tag(config=True)
    mem_limit = ByteSpecification(4 * GIB, help="Memory that a session may use at most.").tag(config=True)
    cpu_guarantee = Float(None, allow_none=True, help="CPU cores that a session is guaranteed.").tag(config=True)
    cpu_limit = Float(None, allow_none=True, help="CPU cores that a session may use at most.").tag(config=True)

    allowed_hosts = List(
        Unicode(),
        sorted(DEFAULT_ALLOWED_HOSTS),
        help="Hosts that repositories may come from, over HTTPS; “*.example.org” stands for all below example.org.",
    ).tag(config=True)
    exempt_origins = List(
        Unicode(),
        help="Exact scheme://host:port origins that may be asked although they are not HTTPS or have a private address.",
    ).tag(config=True)

    outgoing_proxy = Unicode("", help="HTTP proxy through which repositories are reached.").tag(config=True)
    ca_file = Unicode("", help="File with the certificates of authorities to trust, instead of the system's.").tag(
        config=True
    )

    launches_per_minute = Integer(30, min=1, help="How many launches one person may ask for in a minute.").tag(
        config=True
    )
    looks_per_minute = Integer(120, min=1, help="How many links one person may open in a minute.").tag(config=True)
    builds_at_once = Integer(2, min=1, help="How many builds run at the same time; the others wait.").tag(config=True)
    build_timeout = Float(1800, min=1, help="Seconds that a build may take.").tag(config=True)
    build_output_limit = ByteSpecification(50 * 1024**2, help="How much a build may print.").tag(config=True)
    build_memory_limit = ByteSpecification(
        None,
        allow_none=True,
        help="Address space of each single program of a build, which is more than the memory it uses; "
        "not the memory of a build as a whole. Under 2 GB common programs fail. Default: no limit.",
    ).tag(config=True)
    build_environment = Dict(
        value_trait=Unicode(),
        key_trait=Unicode(),
        help="Environment variables of builds: proxies, CA certificates, a mirror of PyPI. Nothing else is handed to them.",
    ).tag(config=True)
    python_downloads = Bool(False, help="Whether uv may download the Python that a repository asks for.").tag(
        config=True
    )
    default_python = Unicode(
        "",
        help="Version, such as 3.12, for a repository that names none. Where it is empty: the one that the service runs on.",
    ).tag(config=True)
    uv_cache_dir = Unicode("", help="uv's cache of downloads. Default: a folder beside the environments.").tag(
        config=True
    )
    stop_builds_on_exit = Bool(
        False, help="End running builds when the service ends, instead of finding them again at the next start."
    ).tag(config=True)

    def emit_subcommands_help(self) -> Generator[str, None, None]:
        """The commands, for ``--help``."""
        yield from ("Commands", "========")
        for name, meaning in COMMANDS.items():
            yield from (name, f"    {meaning}")
        yield ""

    def generate_config_file(self, classes: Any = None) -> str:
        """All settings once, as this class has them, and none as its base class would have them."""
        head = f"# Configuration file for {self.name}.\n\nc = get_config()\n\n"
        return head + type(self).class_config_section([type(self)])

    @catch_config_error
    def initialize(self, argv: list[str] | None = None) -> None:
        """Configuration file first, then the command line over it. ``run`` is the default command.

        Whatever is not understood ends the process: settings that are left out would mean another database.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        self.command = arguments.pop(0) if arguments and not arguments[0].startswith("-") else "run"
        self.options = arguments
        self._refuse_unknown_options(arguments)
        self.parse_command_line(arguments)
        if self.extra_args:
            sys.exit(
                f"“{self.extra_args[0]}” is not understood: the command comes first, then options such as --config FILE."
            )
        if self.config_file:
            self._load_named_file(Path(self.config_file))
            self.parse_command_line(arguments)

    def _refuse_unknown_options(self, arguments: list[str]) -> None:
        known = {*self.aliases, *self.flags, "help", "help-all", "version"}
        for argument in arguments:
            name = argument[2:].partition("=")[0]
            if argument.startswith("--") and "." not in name and name not in known:
                sys.exit(f"There is no option --{name}. {self.name} --help names those that there are.")

    def _load_named_file(self, file: Path) -> None:
        """Ends the process with a sentence where the file is missing or fails."""
        if not file.is_file():
            sys.exit(f"There is no configuration file {file.resolve()}.")
        if file.suffix not in {".py", ".json"}:
            sys.exit(f"The configuration {file} must be a .py or a .json file.")
        try:
            self.load_config_file(file.name, path=str(file.resolve().parent))
        except Exception as error:  # noqa: BLE001 - the file is the admin's program, and may raise anything
            frames = traceback.extract_tb(error.__traceback__)
            frame = next((one for one in reversed(frames) if Path(one.filename).name == file.name), frames[-1])
            said = "".join(traceback.format_exception_only(error)).strip()
            sys.exit(f"The configuration {file} cannot be used ({frame.filename}, line {frame.lineno}): {said}")

    def start(self) -> None:
        """Do what the command says; ends the process with 1 and a sentence where it cannot."""
        super().start()
        if self.generate_config:
            print(self.generate_config_file())
            return
        commands: dict[str, Callable[[], None]] = {"run": self.run, "upgrade-db": self.upgrade_db}
        command = commands.get(self.command)
        if command is None:
            sys.exit(f"There is no command “{self.command}”. The commands are: {', '.join(commands)}.")
        try:
            command()
        except (UnusableDatabase, UnusableSecret) as error:
            sys.exit(str(error))

    @property
    def database_url(self) -> str:
        """``db_url``, or the file in the state folder."""
        return self.db_url or f"sqlite:///{Path(self.state_dir).resolve() / 'replay.sqlite'}"

    @property
    def upgrade_command(self) -> str:
        """What an admin types to upgrade the very database that ``run`` with the present options would open."""
        absolute = str(Path(self.config_file).resolve()) if self.config_file else ""
        replaced = {
            self.config_file: absolute,
            f"--config={self.config_file}": f"--config={absolute}",
            self.db_url: shown_url(self.database_url),
            f"--db={self.db_url}": f"--db={shown_url(self.database_url)}",
        }
        return shlex.join([self.name, "upgrade-db", *(replaced.get(option, option) for option in self.options)])

    def upgrade_db(self) -> None:
        """Bring the database to this version's schema."""
        Path(self.state_dir).mkdir(parents=True, exist_ok=True)
        print(f"{shown_url(self.database_url)}: {upgrade(self.database_url)}")

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        self._check_rules()
        logging.getLogger().setLevel(self.log_level)
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=self.log_level)
        for chatty in ("httpx", "httpcore", "aiosqlite", "alembic", "asyncio"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        missing = [
            name
            for name in ("JUPYTERHUB_API_TOKEN", "JUPYTERHUB_API_URL", "JUPYTERHUB_SERVICE_URL")
            if name not in os.environ
        ]
        if missing:
            sys.exit(f"The hub sets {', '.join(missing)} for its services; start this as one, or set them.")
        state = self._state_folder()
        # Before anything else is begun: without its secrets the service must not start.
        for file in (state / "cookie_secret", self._internal_token_file(state)):
            kept_secret(file)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with AsyncExitStack() as resources:
            store = Store(await resources.enter_async_context(open_database(self.database_url, self.upgrade_command)))
            hub = await resources.enter_async_context(
                HubClient(os.environ["JUPYTERHUB_API_URL"], os.environ["JUPYTERHUB_API_TOKEN"])
            )
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._serve_until(stop, state, store, hub, tasks)
                    raise _Stopping
            except* _Stopping:
                self.log.info("Ended")

    def _state_folder(self) -> Path:
        state = Path(self.state_dir).resolve()
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return state

    def _internal_token_file(self, state: Path) -> Path:
        return Path(self.token_file) if self.token_file else state / "service_token"

    async def _serve_until(
        self, stop: asyncio.Event, state: Path, store: Store, hub: HubClient, tasks: asyncio.TaskGroup
    ) -> None:
        address = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
        host, port = address.hostname or "127.0.0.1", address.port or 80
        feed = EventFeed(store, encode_event, tasks)
        builder = self._make_builder(state)
        builds = Builds(store, builder, feed, tasks, f"{socket.gethostname()}:{port}", at_once=self.builds_at_once)
        policies = PolicySet.alike(self.vos, self._resources())
        launches = Launches(store, self._make_providers(tasks), builds, hub, policies, feed, tasks)
        site = self._make_site(state, store, feed, builds, launches)
        application = make_application(site, kept_secret(state / "cookie_secret"))
        server = HTTPServer(application, xheaders=True, max_body_size=MOST_BODY_BYTES, max_buffer_size=1024 * 1024)
        await builds.recover()
        await launches.recover()
        server.listen(port, host)
        self.log.info("Replay's build service answers at http://%s:%s%s", host, port, site.base_url)
        await stop.wait()
        self.log.info("Ending")
        server.stop()
        if self.stop_builds_on_exit:
            await builds.cancel_all()
        await feed.end()
        await server.close_all_connections()

    def _make_site(self, state: Path, store: Store, feed: EventFeed, builds: Builds, launches: Launches) -> Site:
        base_url = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/services/replay/")
        hub_auth = StatelessHubOAuth(parent=self, base_url=base_url)
        hub_auth.set_secret(kept_secret(state / "cookie_secret"))
        return Site(
            launches=launches,
            builds=builds,
            store=store,
            feed=feed,
            hub_auth=hub_auth,
            templates=make_templates(),
            base_url=base_url,
            public_url=self.public_url.rstrip("/"),
            hub_home_url=f"{str(hub_auth.hub_prefix).rstrip('/')}/home",
            internal_token=kept_secret(self._internal_token_file(state)).hex(),
            notices=VENV_NOTICES,
            launch_limit=RateLimit(self.launches_per_minute, 60),
            look_limit=RateLimit(self.looks_per_minute, 60),
        )

    def _make_builder(self, state: Path) -> Builder:
        return VenvBuilder(
            VenvBuilderSettings(
                builds_dir=state / "builds",
                cache_dir=Path(self.uv_cache_dir) if self.uv_cache_dir else None,
                outgoing=self._rules(),
                environment=dict(cast(dict[str, str], self.build_environment)),
                python_downloads=self.python_downloads,
                default_python=self.default_python or running_version(),
                time_limit=self.build_timeout,
                output_limit=cast(int, self.build_output_limit),
                memory_limit=cast(int | None, self.build_memory_limit),
            )
        )

    def _make_providers(self, tasks: asyncio.TaskGroup) -> dict[str, RepoProvider]:
        rules = self._rules()
        found: list[RepoProvider] = [GitProvider(rules, tasks), GitHubProvider(rules, tasks)]
        return {provider.name: provider for provider in found}

    def _check_rules(self) -> None:
        """Ends the process with a sentence where an entry of the rules could never match."""
        checks: dict[str, Callable[[], OutgoingRules]] = {
            "allowed_hosts": lambda: OutgoingRules(allowed_hosts=frozenset(self.allowed_hosts)),
            "exempt_origins": lambda: OutgoingRules(exempt_origins=frozenset(self.exempt_origins)),
        }
        for name, check in checks.items():
            try:
                check()
            except ValueError as error:
                sys.exit(f"ReplayBuildService.{name}: {error}")

    def _rules(self) -> OutgoingRules:
        return OutgoingRules(
            allowed_hosts=frozenset(self.allowed_hosts),
            exempt_origins=frozenset(self.exempt_origins),
            proxy=self.outgoing_proxy or None,
            ca_file=self.ca_file or None,
        )

    def _resources(self) -> Resources:
        memory = cast(int, self.mem_guarantee), cast(int, self.mem_limit)
        return Resources(*memory, self.cpu_guarantee, self.cpu_limit)


def main() -> None:
    """The command ``replay-build-service``."""
    ReplayBuildService.launch_instance()


if __name__ == "__main__":
    main()
