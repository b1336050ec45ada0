"""``replay-build-service``: from configuration to a running service. It wires, with the objects that `assembly` makes."""

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
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tornado.httpserver import HTTPServer
from traitlets.config.application import Application, catch_config_error

from replay_build_service import metrics
from replay_build_service.assembly import (
    NOTICES,
    UnusableSettings,
    make_builder,
    make_contents,
    make_policies,
    make_providers,
    outgoing_rules,
    source_tokens,
)
from replay_build_service.assembly.features import make_features
from replay_build_service.assembly.managing import make_managing
from replay_build_service.assembly.providers import installed_providers
from replay_build_service.builders.base import Builder
from replay_build_service.builds import Builds
from replay_build_service.db import Store, UnusableDatabase, open_database, shown_url, upgrade
from replay_build_service.doctor import Deployment, DoctorOptions, examine, find_access, parse_options
from replay_build_service.events import EventFeed
from replay_build_service.git import GitHttp
from replay_build_service.hub import HubClient
from replay_build_service.kept_secrets import UnusableSecret, kept_secret
from replay_build_service.launches import Launches
from replay_build_service.managing import Managing
from replay_build_service.pasted_links import PastedLinks
from replay_build_service.permissions import Permissions
from replay_build_service.policies import PolicySet
from replay_build_service.policy_command import (
    POLICY_HELP,
    PolicyOptions,
    UnusablePolicies,
    parse_policy_options,
    run_policy,
)
from replay_build_service.settings import ServiceSettings
from replay_build_service.sources.asking import Asker
from replay_build_service.web import MOST_BODY_BYTES, Site, encode_event, make_application, make_templates
from replay_build_service.web.auth import RateLimit, StatelessHubOAuth

COMMANDS = {
    "run": "Serve until the hub ends this. The command where none is named.",
    "upgrade-db": "Bring the database to this version's schema, and end. A SQLite file is copied first. "
    "Name the same configuration as for “run”: it says which database is meant.",
    "doctor": "Examine a running deployment, say what to do for each fault, and end with 1 where there is one. Takes the "
    "configuration of “run”, --json for programs, and where it is not run as the service: --api-url URL and "
    "--token-file FILE, the hub's API and a token of the service's.",
    "policy": POLICY_HELP,
}


class _Stopping(Exception):
    """Somebody asked the service to end."""


class ReplayBuildService(ServiceSettings):
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
        self.doctor_options = DoctorOptions()
        if self.command == "doctor":
            self.doctor_options, arguments = parse_options(arguments)
        self.policy_options = PolicyOptions()
        if self.command == "policy":
            self.policy_options, arguments = parse_policy_options(arguments)
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
        commands: dict[str, Callable[[], None]] = {
            "run": self.run,
            "upgrade-db": self.upgrade_db,
            "doctor": self.doctor,
            "policy": self.policy,
        }
        command = commands.get(self.command)
        if command is None:
            sys.exit(f"There is no command “{self.command}”. The commands are: {', '.join(commands)}.")
        try:
            command()
        except (UnusableDatabase, UnusablePolicies, UnusableSecret, UnusableSettings) as error:
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

    def policy(self) -> None:
        """Check or explain policies."""
        run_policy(self.policy_options, self, self.database_url, self.upgrade_command)

    def doctor(self) -> None:
        """Examine the deployment; ends the process with 1 where something is wrong."""
        logging.getLogger().setLevel(logging.ERROR)  # What went wrong is told, once.
        state = Path(self.state_dir).resolve()
        deployment = Deployment(
            settings=self,
            database_url=self.database_url,
            upgrade_command=self.upgrade_command,
            token_file=self._internal_token_file(state).absolute(),
            hub=find_access(self.doctor_options, self.config_file, self.api_token_file),
        )
        if not examine(deployment, as_json_text=self.doctor_options.as_json):
            sys.exit(1)

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        outgoing_rules(self)  # Before anything else is begun.
        source_tokens(self)
        policies = make_policies(self)
        make_features(self)
        installed_providers()
        logging.getLogger().setLevel(self.log_level)
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=self.log_level)
        for chatty in ("httpx", "httpcore", "aiosqlite", "alembic", "asyncio"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        asyncio.run(self._serve(policies))

    async def _serve(self, policies: PolicySet) -> None:
        api_token = self._api_token()
        missing = [name for name in ("JUPYTERHUB_API_URL", "JUPYTERHUB_SERVICE_URL") if name not in os.environ]
        if not api_token:
            missing.insert(0, "JUPYTERHUB_API_TOKEN")
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
            hub = await resources.enter_async_context(HubClient(os.environ["JUPYTERHUB_API_URL"], api_token))
            builder = await make_builder(self, state, resources)
            asker = Asker(outgoing_rules(self).for_archives(), tokens=source_tokens(self))
            ask = await resources.enter_async_context(asker)
            git = await resources.enter_async_context(GitHttp(outgoing_rules(self), limits=ask.limits))
            resources.enter_context(metrics.sources_watched(ask.limits.remaining))
            self._serve_metrics(resources)
            try:
                async with asyncio.TaskGroup() as tasks:
                    await self._serve_until(stop, state, store, hub, builder, policies, tasks, ask, git)
                    raise _Stopping
            except* _Stopping:
                self.log.info("Ended")

    def _serve_metrics(self, resources: AsyncExitStack) -> None:
        try:
            resources.enter_context(metrics.served_at(self.metrics_address))
        except (OSError, ValueError) as error:
            sys.exit(f"Metrics cannot be served: {error}")

    def _state_folder(self) -> Path:
        state = Path(self.state_dir).resolve()
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        return state

    def _api_token(self) -> str:
        """For the hub's API: from a file, where one is named, or else from the environment; may be empty."""
        if not self.api_token_file:
            return os.environ.get("JUPYTERHUB_API_TOKEN", "")
        try:
            return Path(self.api_token_file).read_text(encoding="utf-8").strip()
        except OSError as error:
            sys.exit(f"The token for the hub's API cannot be read from {self.api_token_file}: {error.strerror}.")

    def _internal_token_file(self, state: Path) -> Path:
        return Path(self.token_file) if self.token_file else state / "service_token"

    async def _serve_until(
        self,
        stop: asyncio.Event,
        state: Path,
        store: Store,
        hub: HubClient,
        builder: Builder,
        policies: PolicySet,
        tasks: asyncio.TaskGroup,
        ask: Asker,
        git: GitHttp,
    ) -> None:
        address = urlsplit(os.environ["JUPYTERHUB_SERVICE_URL"])
        host, port = address.hostname or "127.0.0.1", address.port or 80
        feed = EventFeed(store, encode_event, tasks)
        builds = Builds(store, builder, feed, tasks, f"{socket.gethostname()}:{port}", at_once=self.builds_at_once)
        try:
            providers = make_providers(self, tasks, ask, git)
        except UnusableSettings as error:
            sys.exit(str(error))  # The group of tasks would wrap any other exception.
        permissions = Permissions(policies, store, store, make_features(self))
        contents = make_contents(self, state, builder)
        launches = Launches(store, providers, builds, hub, permissions, feed, tasks, contents)
        managing = make_managing(self, store, hub, builds, policies, feed, providers)
        pasted = PastedLinks(providers, policies)
        site = self._make_site(state, store, feed, builds, launches, pasted, managing, hub)
        application = make_application(site, kept_secret(state / "cookie_secret"))
        server = HTTPServer(application, xheaders=True, max_body_size=MOST_BODY_BYTES, max_buffer_size=1024 * 1024)
        await builds.recover()
        await launches.recover()
        tasks.create_task(launches.lifetimes.watch(), name="lifetimes")
        server.listen(port, host)
        self.log.info("Replay's build service answers at http://%s:%s%s", host, port, site.base_url)
        await stop.wait()
        self.log.info("Ending")
        server.stop()
        if self.stop_builds_on_exit:
            await builds.cancel_all()
        await feed.end()
        await server.close_all_connections()

    def _make_site(
        self,
        state: Path,
        store: Store,
        feed: EventFeed,
        builds: Builds,
        launches: Launches,
        pasted: PastedLinks,
        managing: Managing,
        hub: HubClient,
    ) -> Site:
        base_url = os.environ.get("JUPYTERHUB_SERVICE_PREFIX", "/services/replay/")
        hub_auth = StatelessHubOAuth(
            parent=self, base_url=base_url, api_token=self._api_token(), cache_max_age=self.hub_cache_seconds
        )
        hub_auth.set_secret(kept_secret(state / "cookie_secret"))
        return Site(
            launches=launches,
            pasted=pasted,
            builds=builds,
            managing=managing,
            store=store,
            feed=feed,
            hub_auth=hub_auth,
            templates=make_templates(),
            base_url=base_url,
            public_url=self.public_url.rstrip("/"),
            hub_home_url=f"{str(hub_auth.hub_prefix).rstrip('/')}/home",
            internal_token=kept_secret(self._internal_token_file(state)).hex(),
            session_report=hub.session_report,
            read_session=hub.reading,
            notices=NOTICES[self.builder],
            launch_limit=RateLimit(self.launches_per_minute, 60),
            look_limit=RateLimit(self.looks_per_minute, 60),
        )


def main() -> None:
    """The command ``replay-build-service``."""
    ReplayBuildService.launch_instance()


if __name__ == "__main__":
    main()
