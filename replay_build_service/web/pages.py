"""The pages: home, the link with its consent, the launch."""

from collections.abc import Sequence
from typing import Any, cast
from urllib.parse import quote

from tornado import web

from replay_build_service.domain import Launch, LaunchId, LaunchState, Server, ServerStatus
from replay_build_service.errors import NotFound, ReplayError, TermsNotAgreed
from replay_build_service.link_schemas import LinkPreview
from replay_build_service.links import RepoSpec, safe_urlpath
from replay_build_service.pasting import MOST_TEXT, Pasted, content_of, urlpath_of
from replay_build_service.permissions import Notice
from replay_build_service.policy_values import Community
from replay_build_service.schemas import MOST_FEATURES, LaunchModel, Refusal
from replay_build_service.web.base import PageHandler, status_of
from replay_build_service.web.session_pages import SessionNow, ended_by_itself, standing_now
from replay_build_service.web.share import link_to, share_links
from replay_build_service.wishes import Consent, Wish


class HomePage(PageHandler):
    """The person's session and their last launches, and the field that takes whatever they paste."""

    async def get(self) -> None:
        await self.show()

    async def post(self) -> None:
        """What somebody pasted: on to the link's own page, unless there is something to be said of it first."""
        self.site.launch_limit.take(self.person.name)
        text = self.get_body_argument("text", "")
        try:
            found = await self.site.pasted.find(self.person, text)
        except ReplayError as error:
            await self.show(status_of(error), pasted=text, problem=error.sentence)
            return
        if found.notes:
            await self.show(found=found)
            return
        self.redirect(found.link, status=303)

    async def show(
        self, status: int = 200, *, pasted: str = "", problem: str = "", found: Pasted | None = None
    ) -> None:
        """The page; ``problem`` is why what was pasted cannot be used, ``found`` the link that it means."""
        holder, server, session = await standing_now(self.site, self.person)
        recent = await self.site.launches.recent(self.person)
        notices = await self.site.launches.permissions.notices(self.person)
        managed = self.site.managing.managed_by(self.person, is_admin=self.is_admin)
        community = community_of(notices)
        self.set_content_security_policy(logo=community and community.logo)
        context = home_context(
            holder, server, recent, managed, is_admin=self.is_admin, notices=notices, session=session
        )
        self.render_page("home.html", status, **context | pasted_context(pasted, problem, found))


def pasted_context(pasted: str = "", problem: str = "", found: Pasted | None = None) -> dict[str, Any]:
    """What ``home.html`` shows at its field."""
    return {"pasted": pasted[:MOST_TEXT], "most_text": MOST_TEXT, "problem": problem, "found": found}


def home_context(
    holder: Launch | None,
    server: Server,
    recent: Sequence[Launch],
    managed: Sequence[str] = (),
    *,
    is_admin: bool = False,
    notices: Sequence[Notice] = (),
    session: SessionNow | None = None,
) -> dict[str, Any]:
    """All that ``home.html`` shows; ``managed`` are the VOs whose pages the person may open."""
    return {
        "holder": holder,
        "server": server,
        "session": session,
        "last_end": ended_by_itself(holder, recent),
        "recent": _distinct(recent),
        "managed": managed,
        "is_admin": is_admin,
        **_said_by(notices),
        **pasted_context(),
    }


def community_of(notices: Sequence[Notice]) -> Community | None:
    """Whose instance a page is shown as: the first VO's that is one's own."""
    return notices[0].community if notices else None


def _said_by(notices: Sequence[Notice]) -> dict[str, Any]:
    return {"notices_of_vos": notices, "community": community_of(notices)}


def _distinct(launches: Sequence[Launch]) -> list[Launch]:
    seen: dict[str, Launch] = {}
    for launch in launches:
        seen.setdefault(link_to(launch.resolved, launch.content, launch.urlpath), launch)
    return list(seen.values())


class _ConsentHandler(PageHandler):
    def show_consent(
        self, consent: Consent, urlpath: str, *, status: int = 200, problem: str = "", chosen: str = ""
    ) -> None:
        context = consent_context(
            consent, urlpath, self.origin, self.site.notices, problem=problem, chosen=chosen or consent.chosen
        )
        community = cast("Community | None", context["community"])
        self.set_content_security_policy(logo=community and community.logo)
        self.render_page("consent.html", status, **context)


class LinkPage(_ConsentHandler):
    """A link, opened by somebody who is logged in: what will run, and one button. Starts nothing."""

    def decode_argument(self, value: bytes, name: str | None = None) -> str:
        """Bytes in the path that are no text are told as such by whoever reads the link, not as a mere 400."""
        return value.decode("utf8", "replace") if name is None else super().decode_argument(value, name)

    async def get(self, text: str) -> None:
        # The path as it came, since what follows /v2/ may hold encoded slashes.
        raw = self.request.path.split("/v2/", 1)[1]
        content = content_of(self.request.query)
        await self.take(self.site.look_limit, raw, content)
        urlpath = safe_urlpath(urlpath_of(self.request.query))
        consent = await self.site.launches.consent(self.person, raw, content)
        if on_its_way := _on_its_way(consent):
            self.redirect(f"{self.site.base_url}launches/{on_its_way.id}")
            return
        self.show_consent(consent, urlpath)

    def nearest_links(self, refusal: Refusal) -> list[tuple[str, str]]:
        raw = self.request.path.split("/v2/", 1)[1]
        preview = LinkPreview.of(raw)
        if preview.problem:
            return []
        spec = RepoSpec.parse(raw)
        query = f"?{self.request.query}" if self.request.query else ""
        return [(ref, f"/v2/{spec.with_ref(ref)}{query}") for ref in refusal.nearest]

    def link_elsewhere(self, error: object) -> tuple[str, str] | None:
        if not isinstance(error, NotFound) or not error.elsewhere:
            return None
        query = f"?{self.request.query}" if self.request.query else ""
        return error.elsewhere, f"/v2/{error.elsewhere}{query}"


def _on_its_way(consent: Consent) -> Launch | None:
    is_moving = consent.holder is not None and consent.holder.state in {LaunchState.BUILDING, LaunchState.STARTING}
    return consent.holder if consent.same_image and is_moving else None


def _running_url(consent: Consent, urlpath: str) -> str | None:
    if consent.server.status is not ServerStatus.READY:
        return None
    return consent.server.url + (urlpath.lstrip("/") if consent.same_image else "")


def consent_context(
    consent: Consent, urlpath: str, origin: str, notices: tuple[str, ...], *, problem: str = "", chosen: str = ""
) -> dict[str, Any]:
    """All that ``consent.html`` shows; ``problem`` is why the person sees it again, ``chosen`` the VO that is ticked."""
    said = [Notice(offer.policy.vo, offer.banner, offer.policy.community) for offer in consent.offers]
    said.sort(key=lambda notice: notice.vo != chosen)
    return {
        **_said_by(said),
        "problem": problem,
        "chosen": chosen,
        "usable": any(not offer.refusal for offer in consent.offers),
        "consent": consent,
        "spec": consent.resolved.spec,
        "resolved": consent.resolved,
        "content": consent.content,
        "urlpath": urlpath,
        "link": link_to(consent.resolved, consent.content, urlpath),
        "running_url": _running_url(consent, urlpath),
        "share": share_links(origin, consent.resolved, urlpath, consent.content),
        "notices": notices,
    }


class LaunchForm(_ConsentHandler):
    """The consent page's button: the one way in which a browser starts something."""

    async def post(self) -> None:
        repo = self.get_body_argument("repo")
        content = self.get_body_argument("content", None) or None
        await self.take(self.site.launch_limit, repo, content)
        vo = self.get_body_argument("vo", None) or None
        wish = Wish(
            repo=repo,
            vo=vo,
            urlpath=self.get_body_argument("urlpath", ""),
            version=self.get_body_argument("version"),
            features=tuple(self.get_body_arguments(f"feature:{vo}")[:MOST_FEATURES]),
            terms=self.get_body_argument(f"terms:{vo}", None),
            content=content,
            content_version=self.get_body_argument("content_version") if content else None,
        )
        try:
            launch = await self.site.launches.create(self.person, wish)
        except TermsNotAgreed as error:
            # A browser insists on the tick where there is one VO only; here it is asked for again.
            consent = await self.site.launches.consent(self.person, wish.repo, wish.content)
            problem = f"Nothing was started: tick that you agree to the terms of use of {error.vo} first."
            self.show_consent(consent, safe_urlpath(wish.urlpath), status=403, problem=problem, chosen=error.vo)
            return
        if launch.state is LaunchState.CHOOSING and self.get_body_argument("replace", ""):
            instead_of = self.get_body_argument("instead_of", "") or None
            launch = await self.site.launches.replace(
                self.person, launch.id, LaunchId(instead_of) if instead_of else None
            )
        self.redirect(f"{self.site.base_url}launches/{launch.id}", status=303)


class LaunchPage(PageHandler):
    """One launch: its phases and its log while it is on its way, the choice where another server runs, the way on at the end."""

    async def get(self, launch_id: str) -> None:
        launch = await self.site.launches.get(self.person, LaunchId(launch_id))
        holder, server, session = await standing_now(self.site, self.person)
        launch = await self.site.launches.get(self.person, launch.id)
        usual_seconds = await self.site.store.usual_build_seconds()
        # xterm.js puts its own style elements into the page.
        notice = await self.site.launches.permissions.notice(launch.vo)
        community = notice and notice.community
        self.set_content_security_policy(style="'self' 'unsafe-inline'", logo=community and community.logo)
        context = launch_context(
            launch, holder, server, usual_seconds, self.origin, self.site.base_url, [notice] if notice else (), session
        )
        self.render_page("launch.html", **context)


def launch_context(
    launch: Launch,
    holder: Launch | None,
    server: Server,
    usual_seconds: float | None,
    origin: str,
    base_url: str,
    notices: Sequence[Notice] = (),
    session: SessionNow | None = None,
) -> dict[str, Any]:
    """All that ``launch.html`` shows."""
    return {
        **_said_by(notices),
        "launch": launch,
        "session": session if session is not None and session.launch.id == launch.id else None,
        "model": LaunchModel.of(launch, base_url),
        "holder": holder,
        "server": server,
        "server_url": server.url + launch.urlpath if server.launch_id == launch.id else server.url,
        "resolved": launch.resolved,
        "link": link_to(launch.resolved, launch.content, launch.urlpath),
        "usual_seconds": usual_seconds,
        "share": share_links(origin, launch.resolved, launch.urlpath, launch.content),
    }


class LaunchChoice(PageHandler):
    """What a person may do with their launch: let it replace what runs, or give it up."""

    async def post(self, launch_id: str) -> None:
        action = self.get_body_argument("action")
        match action:
            case "replace":
                self.site.launch_limit.take(self.person.name)
                instead_of = self.get_body_argument("instead_of", "") or None
                await self.site.launches.replace(
                    self.person, LaunchId(launch_id), LaunchId(instead_of) if instead_of else None
                )
            case "give-up":
                self.site.launch_limit.take(self.person.name)
                await self.site.launches.give_up(self.person, LaunchId(launch_id))
            case _:
                raise web.HTTPError(400, "There is no such choice.")
        self.redirect(f"{self.site.base_url}launches/{quote(launch_id, safe='')}", status=303)


class StopForm(PageHandler):
    """Home's stop button."""

    async def post(self) -> None:
        self.site.launch_limit.take(self.person.name)
        await self.site.launches.stop_server(self.person)
        self.redirect(self.site.base_url, status=303)


class NoSuchPage(PageHandler):
    async def prepare(self) -> None:
        self.current_user = self._hub_auth_user_cache = None
        raise web.HTTPError(404, "There is no such page. Go to Replay's home, or open the link again.")

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        if self.request.path.startswith(f"{self.site.base_url}api/"):
            self.write_json(self.explained(kwargs), self.get_status())
        else:
            super().write_error(status_code, **kwargs)
