"""Links and badges to copy: of “this branch” (the ref as asked) and of “exactly this commit”."""

from dataclasses import dataclass

from replay_build_service.domain import ResolvedRef
from replay_build_service.links import link_path


@dataclass(frozen=True, slots=True)
class Share:
    """One link in the forms that people paste."""

    label: str
    url: str
    markdown: str
    restructuredtext: str
    html: str


def link_to(resolved: ResolvedRef, content: ResolvedRef | None = None, urlpath: str = "") -> str:
    """The path of the link as somebody asked for it: ``/v2/…``."""
    return link_path(resolved.spec.text, content.spec.text if content else "", urlpath)


def share_links(
    origin: str, resolved: ResolvedRef, urlpath: str, content: ResolvedRef | None = None
) -> tuple[Share, Share]:
    """“This branch” and “exactly this commit”, in this order; of the content, too."""
    badge = f"{origin}/badge_logo.svg"

    def share(label: str, ref: str, of_content: str = "") -> Share:
        also = content.spec.with_ref(of_content) if content else ""
        url = f"{origin}{link_path(resolved.spec.with_ref(ref), also, urlpath)}"
        return Share(
            label=label,
            url=url,
            markdown=f"[![Replay]({badge})]({url})",
            restructuredtext=f".. image:: {badge}\n   :target: {url}\n   :alt: Replay",
            html=f'<a href="{url.replace("&", "&amp;")}"><img src="{badge}" alt="Replay"></a>',
        )

    if content is not None:
        return (
            share("these two as they are asked for here", resolved.spec.ref, content.spec.ref),
            share("exactly these versions", resolved.version, content.version),
        )
    if not resolved.is_commit:
        return share("this record", resolved.spec.ref), share("exactly this version", resolved.version)
    return share("this branch", resolved.spec.ref), share("exactly this commit", resolved.version)
