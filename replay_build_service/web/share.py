"""Links and badges to copy: of “this branch” (the ref as asked) and of “exactly this commit”."""

from dataclasses import dataclass
from urllib.parse import urlencode

from replay_build_service.domain import ResolvedRef


@dataclass(frozen=True, slots=True)
class Share:
    """One link in the forms that people paste."""

    label: str
    url: str
    markdown: str
    restructuredtext: str
    html: str


def share_links(origin: str, resolved: ResolvedRef, urlpath: str) -> tuple[Share, Share]:
    """“This branch” and “exactly this commit”, in this order."""
    query = f"?{urlencode({'urlpath': urlpath})}" if urlpath else ""
    badge = f"{origin}/badge_logo.svg"

    def share(label: str, ref: str) -> Share:
        url = f"{origin}/v2/{resolved.spec.with_ref(ref)}{query}"
        return Share(
            label=label,
            url=url,
            markdown=f"[![Replay]({badge})]({url})",
            restructuredtext=f".. image:: {badge}\n   :target: {url}\n   :alt: Replay",
            html=f'<a href="{url.replace("&", "&amp;")}"><img src="{badge}" alt="Replay"></a>',
        )

    if not resolved.is_commit:
        return share("this record", resolved.spec.ref), share("exactly this version", resolved.version)
    return share("this branch", resolved.spec.ref), share("exactly this commit", resolved.version)
