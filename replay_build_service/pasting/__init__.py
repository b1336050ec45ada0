"""What people paste, read: an address from a browser, a DOI, a badge, a command. Pure: text goes in, and nobody is asked.

`read` says what a text means, or raises `BadLink` with a sentence that says what can be pasted. Where the address is of a branch
whose name may have slashes, as in ``…/tree/feature/x/notebooks``, the text alone does not tell where the path begins: `Pasted.undecided` has
the parts, and `decide` tells once somebody has the repository's refs. Standard library, `links` and `errors` alone.

Each room here knows one kind of address: `forges` those of git servers, `viewers` those of pages that show notebooks of other
sites, `binders` links of Binder, Replay and nbgitpuller, `archives` those of records. `texts` finds the address in what
was pasted, and `web` knows which room reads it.
"""

from replay_build_service.pasting.pasted import Pasted, content_of, decide, urlpath_of
from replay_build_service.pasting.texts import MOST_TEXT, read

__all__ = ["MOST_TEXT", "Pasted", "content_of", "decide", "read", "urlpath_of"]
