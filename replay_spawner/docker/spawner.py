"""`ReplayDockerSpawner`: the order of events, and what the hub may ask meanwhile.

Images come by digest or id. What a container is made of is `containers`, whom it runs as `images`, how its image comes
`pull`, its files `bringing`, what answers in it `answers`, why it did not start `faults`, how it goes `leftovers`.
"""

import asyncio
import os
from typing import Any, ClassVar

import httpcore
from cachetools import LRUCache
from docker.errors import APIError, ImageNotFound
from jupyterhub.utils import fmt_ip_url
from tornado import web
from traitlets import Dict, Integer

from replay_build_service.schemas import ImageModel, LaunchPlan
from replay_spawner import images
from replay_spawner.answers import Answer, Started, ask, pause_after
from replay_spawner.docker import containers, homes
from replay_spawner.docker.bringing import BringingDockerSpawner
from replay_spawner.docker.engine import ENGINE_FAULTS, EngineSilent, text_in
from replay_spawner.docker.faults import refused_by_the_engine, why_not_started
from replay_spawner.docker.leftovers import Containers, Leftovers
from replay_spawner.docker.pull import Pull
from replay_spawner.ends import by_status, vanished
from replay_spawner.faults import own_timeout
from replay_spawner.features.base import Platform
from replay_spawner.plans import OUTSIDE_THE_HOME, launch_in, marks, session_environment
from replay_spawner.steps import Steps
from replay_spawner.usage import Usage, within_time

STATE_SECONDS = 0.5
"""How often the engine is asked meanwhile whether the container still runs."""

TERMINATE_SECONDS = 10.0
"""How long a server may take to end before it is killed."""


class ReplayDockerSpawner(BringingDockerSpawner):
    """Runs a launch's image in a container of its own, which goes with the session; ordinary servers stay the admin's.

    Of the admin's settings a session has the network, what the hub needs to be reached, and how it shares the machine.
    It has none of the volumes, devices, capabilities and commands, which are for images that the admin chose.
    """

    applies_plans = True
    platform = Platform.CONTAINER

    replay_session_volumes = Dict(
        help="""Volumes for sessions, in the form of `volumes`, which sessions do not get: a stranger's code runs in them.

        Whatever is mounted here can be read, and written unless it is ``ro``, by whatever repository somebody opens.
        The container engine's socket, or a folder that holds it, is refused.
        """
    ).tag(config=True)
    replay_most_processes = Integer(4096, help="How many processes and threads a session may have.").tag(config=True)
    _leftovers: ClassVar[Leftovers] = Leftovers()
    _needing_home: ClassVar[LRUCache[str, bool]] = LRUCache(images.MOST_KNOWN)
    """Of images of which a session may be made: whether their users need one. By location, which always means the same."""

    _closed_homes: ClassVar[LRUCache[str, bool]] = LRUCache(images.MOST_KNOWN)
    """Likewise: whether these cannot write there."""

    _starting = _fetching = False
    _engine_was_silent = False

    def place_to_sweep(self) -> Containers:
        self._leftovers.log = self.log
        return Containers(self.docker, self._leftovers, self.hub_mark)

    # from a plan to a server that answers

    async def start(self) -> Any:
        """Start the server; for a launch, return only once it answers, so that the hub's first look finds it."""
        self._steps, self._session = Steps(), None
        self._began.set()
        if self.plan is None:
            return await super().start()
        self._session, self._starting, self._may_exist, self._fetching = self.plan.launch, True, False, False
        self._leftovers.log = self.log
        try:
            return await self._started_or_refused(self.plan)
        except BaseException:
            # Also where the hub gives up or somebody stops the server meanwhile: nothing stays of it.
            await self._discard()
            raise
        finally:
            self._starting = False

    async def _started_or_refused(self, plan: LaunchPlan) -> tuple[str, int]:
        seconds = own_timeout(self.start_timeout)
        try:
            async with asyncio.timeout(seconds) as limit:
                return await self._start_session(plan, limit.when() or 0.0)
        except web.HTTPError:
            raise
        except Exception as error:
            # Whatever an image does to us here is no fault of the hub's, which would count it towards its own end.
            told = why_not_started(error, plan.launch, seconds, fetching=self._fetching)
            self.log.error("Launch %s was not started: %s", plan.launch, told.detail, exc_info=told.is_unexpected)
            raise self.refusal(422, told.sentence) from error

    async def _start_session(self, plan: LaunchPlan, deadline: float) -> tuple[str, int]:
        location = containers.ImageLocation.parse(plan.location)
        if location is None:
            raise self._refusal_without_digest(plan)
        if self.internal_ssl:
            self.log.error("JupyterHub.internal_ssl is on: sessions of launches have no certificates yet")
            raise self.refusal(
                422,
                "This hub's internal encryption does not cover launches, so nothing was started. Tell the administrators.",
            )
        if plan.container is not None:
            self._refuse_root(plan.container)
        await self._prepare_features(plan, images.home_of(plan.container), images.top_level_with_content(plan))
        self._apply(plan)
        image = await self._make_container(plan, location)
        await self.bring_content(plan, image)
        await self._deliver_at_start()
        started = Started(plan.command[0], image.entrypoint, self.port, plan.resources.memory_limit)
        try:
            await self._ask("start", self.object_id, seconds=None)
        except APIError as error:
            self.log.error("Launch %s: %s", plan.launch, error)
            said = str(error.explanation)
            raise self.refusal(422, started.why_it_cannot_run(said) or refused_by_the_engine(said)) from error
        address = await self._address(started)
        self._steps.tell(80, "Waiting for the server")
        await self._until_it_answers(address, started, deadline)
        self._keep_features_fresh()
        return address

    def _apply(self, plan: LaunchPlan) -> None:
        """The plan over the admin's settings and hooks, until the next spawn."""
        resources = plan.resources
        self.override(
            image=plan.location,
            object_name=containers.container_name(plan.launch),
            cmd=list(plan.command),
            environment={**OUTSIDE_THE_HOME, **self.environment, **session_environment(plan)},
            mem_limit=resources.memory_limit,
            mem_guarantee=resources.memory_guarantee,
            cpu_limit=resources.cpu_limit,
            cpu_guarantee=resources.cpu_guarantee,
            volumes=self.replay_session_volumes,
            read_only_volumes={},
            mounts=[],
            # Folders and pages of the admin's image need not be in this one.
            notebook_dir="",
            default_url="",
            remove=True,
            # What a stranger's image does is no reason for the hub to end itself.
            consecutive_failure_limit=0,
        )

    async def pull_image(self, image: str) -> None:
        """As configured for ordinary servers; a launch's image is fetched by its digest, and only if it is not here."""
        location = containers.ImageLocation.parse(image)
        if self.plan is None or location is None or location.repository is None:
            await super().pull_image(image)
        else:
            await Pull.wait(location, lambda: self.client, lambda pull: self._steps.tell(*pull.step))

    async def _image_on_the_engine(self, plan: LaunchPlan, location: containers.ImageLocation) -> ImageModel:
        """What the engine says of the image, once it has it. Raises `PullFailed`, and docker-py's `ImageNotFound`."""
        try:
            found = await self._ask("inspect_image", plan.location)
        except ImageNotFound:
            if location.repository is None:
                raise
            self._fetching = True
            await self.pull_image(plan.location)
            self._fetching = False
            found = await self._ask("inspect_image", plan.location)
        return images.image_model(found)

    async def _make_container(self, plan: LaunchPlan, location: containers.ImageLocation) -> ImageModel:
        """Have the container made, of an image that may be run. What is in an image is looked at once, as it cannot change."""
        model = await self._image_on_the_engine(plan, location)
        self._refuse_root(model)
        self._steps.tell(60, "Starting the container")
        needs_home = self._needing_home.get(plan.location)
        await self._create(plan, needs_home=bool(needs_home))
        if needs_home is None:
            self._needing_home[plan.location] = needs_home = await self._needs_home(model)
            if needs_home:
                await self._ask("remove_container", self.object_id, v=True)
                await self._create(plan, needs_home=True)
            self._closed_homes[plan.location] = await self._has_closed(images.home_of(model))
        if self._closed_homes.get(plan.location):
            self._steps.tell(70, homes.closed(images.home_of(model)))
        return model

    async def _has_closed(self, home: str) -> bool:
        try:
            owner = await self._owner()
            return await self._in_thread(lambda client: homes.is_closed(client, self.object_id, home, owner))
        except (LookupError, APIError):  # It is a notice alone.
            return False

    async def _needs_home(self, image: ImageModel) -> bool:
        """Whether the image's user is nobody in it. Refuses another name of root's, and lists of accounts that are no files.

        The engine opens these when it starts a container: a pipe there would hang it.
        """
        files = ("/etc/passwd", "/etc/group")
        passwd, group = await self._in_thread(lambda client: [text_in(client, self.object_id, file) for file in files])
        if passwd is None or group is None:
            raise self.refusal(
                422, f"The accounts in this image cannot be read: {' and '.join(files)} must be files of at most 1 MB."
            )
        if images.is_named(image.user):
            if images.names_root(passwd, image.user):
                self._refuse_root(image.model_copy(update={"user": "root"}))
            return False
        return images.may_lack_a_home(image) and not images.has_account(passwd, image.user)

    async def _create(self, plan: LaunchPlan, *, needs_home: bool) -> None:
        """Have the container made. Whatever happens meanwhile, it is known by its name and will be removed."""
        admins = await self._evaluated(self.extra_host_config)
        admins_labels = (await self._evaluated(self.extra_create_kwargs)).get("labels") or {}
        host = containers.host_config(
            admins,
            plan.resources,
            network=self.network_name,
            links=self.links,
            binds=self.volume_binds,
            publish=None if self.use_internal_ip else self.port,
            most_processes=self.replay_most_processes,
        )
        sources = [str(source) for source in self.volume_binds]
        # A link on this machine leads the engine to the same place, where that is on this machine, too.
        followed = await asyncio.to_thread(lambda: [os.path.realpath(one) for one in sources if os.path.isabs(one)])
        containers.refuse_the_engine([*sources, *followed], self.engine_address)
        arguments: dict[str, Any] = {
            "image": plan.location,
            "command": list(plan.command),
            "name": self.object_name,
            "environment": self.get_env(),
            "labels": {**admins_labels, **marks(plan), **self.session_labels(plan.launch)},
            "ports": [self.port],
            "volumes": self.volume_mount_points,
            # The image's own would run outside the session's limits.
            "healthcheck": {"test": ["NONE"]},
        }
        if needs_home:
            arguments["environment"].setdefault("HOME", images.HOME_OF_NOBODY)
        self._may_exist = True
        await self._make(arguments, host, self._leftovers.add)

    async def _address(self, started: Started) -> tuple[str, int]:
        """Where the hub reaches the container. What has ended has no address, or an empty one."""
        try:
            ip, port = await self.get_ip_and_port()
            if not ip:
                raise RuntimeError(f"The engine says no address of {self.object_name}")
        except (*ENGINE_FAULTS, RuntimeError):
            await self._refuse_the_ended(started)
            raise
        return str(ip), int(port)

    async def _until_it_answers(self, address: tuple[str, int], started: Started, deadline: float) -> None:
        ip, port = address
        # JupyterHub sets the server before it starts the spawner.
        base_url = str(self.server.base_url)  # pyright: ignore[reportOptionalMemberAccess]
        url = f"http://{fmt_ip_url(ip)}:{port}{base_url}api"
        loop = asyncio.get_running_loop()
        seconds = self.http_timeout if self.replay_answer_timeout is None else self.replay_answer_timeout
        seconds = max(min(float(seconds), deadline - loop.time() - 1), 0.0)
        began = loop.time()
        next_state = began + STATE_SECONDS
        try:
            async with asyncio.timeout(seconds), httpcore.AsyncConnectionPool(max_keepalive_connections=0) as pool:
                while True:
                    match await ask(pool, url):
                        case Answer.HUB_SERVER:
                            return
                        case Answer.SOMETHING_ELSE:
                            raise self.refusal(422, started.why_it_is_no_server)
                        case Answer.NOTHING_YET:
                            pass
                    if loop.time() >= next_state:
                        await self._refuse_the_ended(started)
                        next_state = loop.time() + STATE_SECONDS
                    await asyncio.sleep(pause_after(loop.time() - began))
        except TimeoutError as error:
            await self._refuse_the_ended(started)
            raise self.refusal(422, started.why_nothing_answers(round(seconds, 1), await self._said())) from error

    async def _refuse_the_ended(self, started: Started) -> None:
        container = await self._inspect()
        if container is None:
            raise self.refusal(422, "The session's container was removed while it started. Open the link again.")
        if not container["State"]["Running"]:
            raise self.refusal(422, started.why_it_ended(container["State"], await self._said()))

    # what the hub asks of a session that starts, runs and ends

    async def poll(self) -> int | str | None:  # pyright: ignore[reportIncompatibleMethodOverride] - as DockerSpawner
        """None while the session runs, or while the engine does not say: its silence is no word on what it runs."""
        if self._session is None:
            return await super().poll()
        if self._starting:
            return None
        if not (self._may_exist and self.object_id):
            return 1
        try:
            container = await self._inspect()
        except (EngineSilent, APIError) as error:
            if not self._engine_was_silent:
                self.log.warning("The engine does not tell of %s, which is taken to run: %r", self.object_name, error)
            self._engine_was_silent = True
            return None
        self._engine_was_silent = False
        if container is None:
            self.log.warning("%s is gone", self.object_name)
            self.tell_end(self._session, vanished("container"))
            return 1
        state = container["State"]
        if state["Running"]:
            return None
        limit = container["HostConfig"].get("Memory") or None
        self.tell_end(
            self._session, by_status(state["ExitCode"], was_out_of_memory=state.get("OOMKilled"), limit=limit)
        )
        return f"ExitCode={state['ExitCode']}, OOMKilled={state.get('OOMKilled')}"

    async def usage(self) -> Usage | None:
        return await within_time(self._counted()) if self._may_exist else None

    async def stop(self, now: bool = False) -> None:
        """End the session and remove its container with what it kept; raises nothing where the engine does not answer."""
        if self._session is None:
            await super().stop(now)
            return
        try:
            if not now:
                await self._terminate()
        except (EngineSilent, APIError) as error:
            self.log.warning("%s could not be asked to end: %r", self.object_name, error)
        await self._discard()

    async def _terminate(self) -> None:
        """Let the server end by itself. A thread that waits for that would be missed by the others."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + TERMINATE_SECONDS
        await self._ask("kill", self.object_id, signal="SIGTERM")
        while loop.time() < deadline:
            container = await self._inspect()
            if container is None or not container["State"]["Running"]:
                return
            await asyncio.sleep(STATE_SECONDS / 4)

    async def _discard(self) -> None:
        if self._session is not None and self._may_exist:
            self._may_exist, self.object_id = False, ""
            await self._leftovers.remove(self.docker, containers.container_name(self._session))

    def load_state(self, state: dict[str, Any]) -> None:
        """Find a running session again, or the container of one whose start a hub did not live to finish."""
        super().load_state(state)
        launch = state.get("replay_launch")
        if launch is None and "object_id" not in state and self.orm_spawner.server is not None:
            # A server on record without a container: what it was to be is in its options.
            launch = launch_in(self.orm_spawner.user_options or {})
        if launch is not None:
            self._session, self._may_exist = launch, True
            self.override(object_name=containers.container_name(launch), remove=True)
