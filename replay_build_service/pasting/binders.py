"""Links that launch something elsewhere: those of a Binder or a Replay, and nbgitpuller's."""

from __future__ import annotations

from urllib.parse import quote, unquote

from replay_build_service.errors import BadLink
from replay_build_service.links import RepoSpec
from replay_build_service.pasting.address import Address
from replay_build_service.pasting.archives import record
from replay_build_service.pasting.forges import at_ref
from replay_build_service.pasting.pasted import Pasted, at, content_of, opened, urlpath_of
from replay_build_service.syntax import RefRule, syntax_of

_NO_REF = "The link names no branch, tag or commit, so the newest commit of the main branch is meant."
_PULLS = "When it opens, the link also fetches another repository with nbgitpuller, if the environment has that. Replay does not pin that one."


def binder(address: Address) -> Pasted | None:
    """``…/v2/PROVIDER/SPEC?urlpath=``, below any base path of any host; mybinder.org's older ``/repo/OWNER/NAME/PATH``."""
    before, found, spec = address.path.partition("/v2/")
    if found and "/repos/" not in before and syntax_of(spec.partition("/")[0]) is not None:
        return of_spec(spec, address.query)
    if address.host.endswith("mybinder.org") and address.parts[:1] == ("repo",) and len(address.parts) >= 3:
        _, owner, name, *path = address.parts
        return at("gh", f"{owner}/{name}", "HEAD", path)
    return None


def of_spec(text: str, query: str = "") -> Pasted:
    """What follows ``/v2/``. Raises `BadLink`."""
    text, urlpath, content = text.strip("/"), urlpath_of(query), content_of(query)
    notes = (_PULLS,) if urlpath.lstrip("/").startswith("git-pull") else ()
    provider, _, rest = text.partition("/")
    syntax = syntax_of(provider)
    if syntax is not None and syntax.ref is RefRule.NEEDED and len(rest.split("/")) == syntax.segments:
        text, notes = f"{text}/HEAD", (*notes, _NO_REF)
    try:
        return Pasted(RepoSpec.parse(text), urlpath, notes, content)
    except BadLink:
        # A Binder takes a DOI with “doi:” or as an address, too.
        found = record(unquote(rest)) if syntax is not None and syntax.ref is RefRule.PIN else None
        if found is None:
            raise
        return Pasted(found.spec, urlpath, notes, content)


def pulls(address: Address) -> bool:
    """Whether this is a link of nbgitpuller."""
    return bool({"git-pull", "git-sync"} & set(address.parts)) and bool(address.asked("repo"))


def pulled(address: Address, repository: Pasted) -> Pasted:
    """nbgitpuller's link, of whose ``repo=`` the repository was read (https://nbgitpuller.readthedocs.io/en/latest/topic/url-options.html)."""
    branch, urlpath = address.asked("branch"), _path_within(address)
    taken = ["its repository", f"its branch {branch}" if branch else "the newest commit of its main branch"]
    if urlpath:
        taken.append("what it opens")
    note = (
        f"This is a link of nbgitpuller. Replay takes over {', '.join(taken[:-1])} and {taken[-1]}, but not what is installed at "
        f"{address.host}: the environment is made from what the repository itself asks for."
    )
    found = at_ref(repository, branch)
    return Pasted(found.spec, urlpath or found.urlpath, (*found.notes, note))


def _path_within(address: Address) -> str:
    """What such a link opens. Its paths begin with the folder that it makes for the repository, which a session of ours lacks."""
    name = address.asked("repo").rstrip("/").rpartition("/")[2].removesuffix(".git")
    folder = address.asked("targetpath", "targetPath").strip("/") or name
    path = address.asked("urlpath", "urlPath").partition("?")[0].strip("/")
    if not path:
        within = address.asked("subPath", "subpath").strip("/")
        return opened((within,)) if within else ""
    before, found, after = f"/{path}/".partition(f"/{folder}/")
    if found and not after:
        return ""  # the repository's own folder, which a session shows anyhow
    return quote("/".join(part for part in (before.strip("/"), after.strip("/")) if part), safe="/%~!$&'()*+,;=:@")
