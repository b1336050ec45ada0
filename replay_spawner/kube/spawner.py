"""`ReplayKubeSpawner`: the order of events, and what the hub may ask meanwhile.

KubeSpawner makes the pod as it always does, with the admin's profiles, templates and hooks. What of that a session's pod
is made of is `pods`, what the cluster says of it `states`, how that is told `telling`, why there is no server `reasons`,
how the cluster is asked `cluster`, how a pod goes `leftovers`.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cachetools import LRUCache
from kubernetes_asyncio.client import V1Pod
from kubernetes_asyncio.client.exceptions import ApiException
from tornado import web
from traitlets import Float, List, Unicode

from replay_build_service.schemas import FeatureReport, LaunchPlan
from replay_spawner import images
from replay_spawner.answers import Started
from replay_spawner.ends import vanished
from replay_spawner.faults import NotStarted, own_timeout
from replay_spawner.features.base import Platform, SessionFile
from replay_spawner.kube import pods, reasons
from replay_spawner.kube.content import NO_HOME, add_content, refuse_another_content
from replay_spawner.kube.feature_parts import add_features, folders_of, sidecar_trouble
from replay_spawner.kube.figures import Figures
from replay_spawner.kube.following import FollowingKubeSpawner, NoServer, Start
from replay_spawner.kube.leftovers import Leftovers, SessionPod
from replay_spawner.kube.making import Making
from replay_spawner.kube.reasons import ClusterSilent
from replay_spawner.kube.secrets import SessionSecrets
from replay_spawner.kube.states import Fetched, PodState, pod_state
from replay_spawner.kube.sweep import ClusterPlace
from replay_spawner.kube.telling import Telling
from replay_spawner.plans import OUTSIDE_THE_HOME, launch_in, session_environment
from replay_spawner.sessions import SessionMixin
from replay_spawner.steps import Steps
from replay_spawner.usage import Usage, within_time

_BY_DIGEST = re.compile(r"[A-Za-z0-9\[][A-Za-z0-9._:/\[\]-]*@sha256:[0-9a-f]{64}")

_OF_THE_LAUNCH = "REPLAY_"
"""What the mixin's variables begin with."""


class ReplayKubeSpawner(SessionMixin, FollowingKubeSpawner):  # pyright: ignore[reportIncompatibleMethodOverride] - the mixin hands on what KubeSpawner returns
    """Runs a launch's image, by its digest, in a pod that goes with the session; ordinary servers stay the admin's.

    Profiles, templates, hooks and ``extra_*`` settings are the admin's for sessions, too. The plan is applied over them,
    and what would hand a stranger's code somebody's data, the cluster's secrets or privileges is left out:
    ``docs/kubernetes-spawner.md`` says what, in which order.
    """

    applies_plans = True
    platform = Platform.POD

    replay_session_volumes = List(
        Unicode(),
        help="""Names of volumes that sessions get although these may hold somebody's data or secrets, with wildcards.

        Of the admin's volumes a session has those that hold nothing of anybody's: ``configMap``, ``emptyDir``,
        ``downwardAPI``, ``ephemeral``, ``image``, and ``projected`` ones of these. All others are left out of its
        container, the person's home among them: a stranger's code runs there. Names are those in the pod, after templates.
        """,
    ).tag(config=True)
    replay_room_timeout = Float(
        None,
        allow_none=True,
        help="Seconds that a session waits for a machine with room for it; `start_timeout` where none are given.",
    ).tag(config=True)

    _leftovers: ClassVar[Leftovers] = Leftovers()
    _known_images: ClassVar[LRUCache[str, Fetched]] = LRUCache(images.MOST_KNOWN)
    """What fetching them took; by location, which always means the same."""

    _figures: ClassVar[Figures] = Figures()

    _current: Start | None = None
    """The start that is going on."""

    _is_finished = False
    """Whether its start was seen to end well, by this hub or an earlier one."""

    _making: Making | None = None

    _answering: "asyncio.Future[bool] | None" = None
    """Done once the session's server answers; while it starts."""

    _cluster_said = ""
    """What making the pod last failed with, where that is tried again."""

    _cluster_was_silent = False

    def place_to_sweep(self) -> ClusterPlace:
        self._leftovers.log = self.log
        namespace = None if self.enable_user_namespaces else self.namespace
        return ClusterPlace(self.api, namespace, self._leftovers, self.hub_mark)

    def _what_the_hub_is(self) -> tuple[str, ...]:
        # Hubs of several namespaces may all be called “hub” by their pods.
        return (*super()._what_the_hub_is(), self._namespace_default())

    # from a plan to a server that answers

    async def start(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride] - the hub awaits it, whatever it is
        """Start the server; for a launch, return only once it answers, so that the hub's first look finds it."""
        self._steps, self._session, self._cluster_said = Steps(), None, ""
        self._may_exist = self._is_finished = False
        self._began.set()
        if self.plan is None:
            return await super().start()
        self._session, self._leftovers.log = self.plan.launch, self.log
        try:
            address = await self._started_or_refused(self.plan)
            self._is_finished = True
            return address
        except BaseException:
            # Also where the hub gives up or somebody stops the server meanwhile: nothing stays of it.
            if self._making is not None:
                self._making.abandon()
            await self._discard()
            raise
        finally:
            self._current = self._answering = self._making = None

    async def _started_or_refused(self, plan: LaunchPlan) -> str:
        seconds = own_timeout(self.start_timeout)
        loop = asyncio.get_running_loop()
        image, resources = plan.container, plan.resources
        self._current = start = Start(
            plan.launch,
            Started(plan.command[0], image.entrypoint if image else (), self.port, resources.memory_limit),
            Telling(self._steps.tell, plan.location, self._known_images),
            deadline=loop.time() + seconds,
            answer_seconds=self.http_timeout if self.replay_answer_timeout is None else self.replay_answer_timeout,
            room_seconds=self.replay_room_timeout,
        )
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self._make_and_follow(start)
        except web.HTTPError:
            raise
        except NoServer as error:
            self.log.error("Launch %s was not started: %s; the pod was %s", plan.launch, error, start.state)
            raise self.refusal(422, str(error)) from error
        except Exception as error:
            # Whatever an image does to us here is no fault of the hub's, which would count it towards its own end.
            if limit.expired():
                told = NotStarted(start.too_late(seconds), f"it took more than {seconds:g} seconds; {start.state}")
            else:
                told = reasons.why_not_started(error, plan.launch, self._cluster_said)
            self.log.error("Launch %s was not started: %s", plan.launch, told.detail, exc_info=told.is_unexpected)
            raise self.refusal(422, told.sentence) from error

    async def _make_and_follow(self, start: Start) -> str:
        """Let KubeSpawner make the pod and what goes with it, while what becomes of the pod is followed."""
        self._steps.tell(5, "Asking the cluster for a place")
        if self.plan is not None:
            await self._prepare_features(
                self.plan, images.home_of(self.plan.container), images.top_level_with_content(self.plan)
            )
        self._answering = answering = asyncio.get_running_loop().create_future()
        making = asyncio.ensure_future(super().start())
        following = asyncio.create_task(self._until_it_answers(start))
        try:
            await asyncio.wait({making, following}, return_when=asyncio.FIRST_COMPLETED)
            if making.done():
                making.result()
            self._let_the_watch_know(await following)
            answering.set_result(True)
            address: str = await making
            self._keep_features_fresh()
            return address
        finally:
            for task in (making, following):
                task.cancel()
            await asyncio.gather(making, following, return_exceptions=True)

    def is_pod_running(self, pod: Mapping[str, Any]) -> Any:
        """KubeSpawner asks this at the end of its start, again and again after waits of up to 5 s.

        Of a session it is told once, in time: what it is given to wait for is done when the server answers.
        """
        return super().is_pod_running(pod) if self._answering is None else self._answering

    async def load_user_options(self) -> None:
        """KubeSpawner applies the profile here, after `apply_user_options`; so the plan is applied after that."""
        await super().load_user_options()
        if self.plan is not None:
            await self._apply(self.plan)

    async def _apply(self, plan: LaunchPlan) -> None:
        """The plan over the admin's settings and profiles, until the next spawn."""
        if not _BY_DIGEST.fullmatch(plan.location):
            raise self._refusal_without_digest(plan)
        if plan.container is not None:
            self._refuse_root(plan.container)
        if plan.content is not None:
            self._refuse_content(plan.content, images.top_level_of(plan.container))
            if not images.home_of(plan.container):
                raise self.refusal(422, NO_HOME)
        self.override(
            image=plan.location,
            cmd=list(plan.command),
            args=[],
            **pods.resource_traits(plan.resources),
            # Folders and pages of the admin's image need not be in this one.
            working_dir=None,
            notebook_dir="",
            default_url="",
            # What a stranger's image does is no reason for the hub to end itself.
            consecutive_failure_limit=0,
        )
        if self.storage_pvc_ensure and not pods.mounts_claim(await self.get_pod_manifest(), self.pvc_name, self._plain):
            self.override(storage_pvc_ensure=False)

    def get_env(self) -> dict[str, str]:
        """With the plan's variables. What strangers may have written stays as it is: no template, no ``$(NAME)``."""
        env: dict[str, str] = super().get_env()
        if self.plan is None:
            return env
        plans = session_environment(self.plan) | {
            name: value for name, value in env.items() if name.startswith(_OF_THE_LAUNCH)
        }
        plans |= self.feature_environment()
        return OUTSIDE_THE_HOME | env | {name: pods.literal(value) for name, value in plans.items()}

    async def get_pod_manifest(self) -> V1Pod:
        """The admin's pod, and for a launch what its session's pod is made of it."""
        pod: V1Pod = await super().get_pod_manifest()
        if self.plan is not None:
            extra = self.extra_pod_config
            settings = pods.SessionSettings(
                kept_volumes=self.replay_session_volumes,
                restart_policy=extra.get("restartPolicy") or extra.get("restart_policy"),
                hubs_certificates=self.internal_ssl,
            )
            pods.make_session(pod, self.plan, settings, self._plain)
            folders = folders_of(self._files, self.plan.launch, self._home)
            add_features(pod, self._features.pod_parts if self._features else (), folders, self._plain)
            add_content(pod, self.plan, self._plain)
            pod.metadata.labels |= self.session_labels(self.plan.launch)
        return pod

    def _plain(self, model: Any) -> Any:
        return self.api.api_client.sanitize_for_serialization(model)

    async def _make_create_pod_request(self, pod: V1Pod, request_timeout: float) -> bool:
        """KubeSpawner asks this until it is true: the pod is there. Here the hooks have had their turn."""
        if self.plan is None or self._current is None:
            made: bool = await super()._make_create_pod_request(pod, request_timeout)
            return made
        pods.refuse_another(self._plain(pod), self.plan, self.pod_name)
        refuse_another_content(self._plain(pod), self.plan)
        self._may_exist = True
        if self._making is None:
            self._making = Making(self.api, self._session_pod(self.plan.launch), self._leftovers.add)
        try:
            uid = await self._making.made(pod, request_timeout)
            if uid:
                # The pod waits for them: it is told of as made once they are there.
                await self._secrets(self.plan.launch).make(self._files, uid)
            self._current.uid = uid
        except ClusterSilent as error:
            self.log.warning("Pod %s could not be made yet: %s", self.pod_name, error)
            self._cluster_said = str(error)
        return bool(self._current.uid)

    # what features give, brought into the pod

    async def deliver(self, files: Sequence[SessionFile]) -> None:
        """Into the session's pod. Raises `ClusterSilent`, `ApiException`."""
        if self._session is not None:
            await self._secrets(self._session).renew(files)

    async def read(self, files: Sequence[SessionFile]) -> Mapping[tuple[str, str], bytes]:
        """Raises as `deliver`."""
        return await self._secrets(self._session).read(files) if self._session is not None else {}

    def feature_reports(self) -> list[FeatureReport]:
        """With what the cluster says of sidecars."""
        reports = super().feature_reports()
        pod, sidecars = self._watched_pod(), self._features.sidecars if self._features else {}
        if pod is None:
            return reports
        troubles = {name: sidecar_trouble(pod, containers) for name, containers in sidecars.items()}
        return [
            one.model_copy(update={"state": "absent", "sentence": sentence, "next_try": None})
            if (sentence := troubles.get(one.name))
            else one
            for one in reports
        ]

    def _secrets(self, launch: str) -> SessionSecrets:
        return SessionSecrets(self.api, self._session_pod(launch), self._home, self.session_labels(launch))

    @property
    def _home(self) -> str:
        return self._context.home if self._context else ""

    # what the hub asks of a session that starts, runs and ends

    async def poll(self) -> int | str | None:  # pyright: ignore[reportIncompatibleMethodOverride] - says more than a number
        """None while the session runs, or while the cluster does not say: its silence is no word on what it runs."""
        if self._session is None:
            return await super().poll()
        if self._current is not None:
            return None
        if not (self._may_exist and self._is_finished):
            return 1
        try:
            state = await self._session_state(self._session)
            self._cluster_was_silent = False
        except Exception as error:  # noqa: BLE001 - whatever is wrong here, the session may run
            if not self._cluster_was_silent:
                self.log.warning("The cluster does not tell of %s, which is taken to run: %r", self.pod_name, error)
            self._cluster_was_silent = True
            return None
        if state is None:
            self.log.warning("Pod %s is gone", self.pod_name)
            self.tell_end(self._session, vanished("pod"))
            return 1
        if not state.has_ended:
            # KubeSpawner looks whether the pod has a new address; of one that the watch lacks it knows nothing.
            return None if self._watched_pod() is None else await super().poll()
        self.log.warning("The session of pod %s has ended: %s", self.pod_name, state)
        self.tell_end(self._session, reasons.why_it_died(state, self.resources and self.resources.memory_limit))
        return reasons.status_of(state)

    async def usage(self) -> Usage | None:
        pod = self._watched_pod()
        if self._session is None or pod is None:
            return None
        self._figures.log = self.log
        try:
            return await within_time(self._figures.of(self.api, pod))
        except (ClusterSilent, ApiException) as error:
            self.log.info("The cluster does not tell what %s uses: %r", self.pod_name, error)
            return None

    async def _session_state(self, launch: str) -> PodState | None:
        """The session's pod; none where the API itself says that there is none. Raises whatever watches and API do."""
        await self._start_watching_pods()
        pod = self._watched_pod()
        state = pod_state(pod) if pod is not None else await self._read_state()
        return state if state is not None and state.launch == launch else None

    async def stop(self, now: bool = False) -> None:
        """End the session and remove its pod with all that is its own; raises nothing where the cluster does not answer."""
        if self._session is None:
            await super().stop(now)
        elif self._current is None:
            await self._discard(0 if now else self.delete_grace_period)
        # Otherwise it is KubeSpawner's start that gives up: that start removes the pod when it has ended, with its reason.

    async def _discard(self, grace_seconds: int = 0) -> None:
        if self._session is not None and self._may_exist:
            self._may_exist = False
            await self._leftovers.remove(self.api, self._session_pod(self._session), grace_seconds=grace_seconds)

    def _session_pod(self, launch: str) -> SessionPod:
        return SessionPod(self.namespace, self.pod_name, launch)

    def load_state(self, state: dict[str, Any]) -> None:
        """Find a running session again, or the pod of one whose start a hub did not live to finish."""
        super().load_state(state)
        launch = state.get("replay_launch")
        if launch is not None:
            self._is_finished = True
        elif self.orm_spawner.server is not None:
            # A server on record whose start nobody saw end: what it was to be is in its options.
            launch = launch_in(self.orm_spawner.user_options or {})
        if launch is not None:
            self._session, self._may_exist = launch, True
