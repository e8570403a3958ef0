"""The first page: every dataset and every model that a reader may see."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kp_data.hub.explorer.browse import page_number
from kp_data.hub.explorer.dataset import LISTED, Listed, Listing
from kp_data.hub.explorer.explorer import explorer_of, in_thread, reader_of
from kp_data.hub.explorer.render import as_page, page, url


@dataclass(frozen=True, slots=True)
class Shelf:
    """The repositories of one type, a page at a time.

    Attributes:
        kind: `datasets` or `models`.
        parameter: of the address, which says the page.
        listing: those of this page.
        at: the page, from 1.
    """

    kind: str
    parameter: str
    listing: Listing
    at: int

    @property
    def num_pages(self) -> int:
        """How many pages there are."""
        return max(1, -(-self.listing.num // LISTED))

    @property
    def words(self) -> str:
        """How many there are.

        >>> Shelf("models", "models", Listing((), 1), 1).words
        '1 model'
        """
        return f"{self.listing.num:,} {self.kind[:-1] if self.listing.num == 1 else self.kind}"

    def address(self, listed: Listed) -> str:
        """The page of one of them."""
        return url(*(["datasets"] if self.kind == "datasets" else []), *listed.name.split("/"))


async def index(request: Request) -> Response:
    """Every dataset and every model this reader may see, or those that were searched for."""
    explorer, search = explorer_of(request), request.query_params.get("search", "")[:200]
    sources = [("datasets", "page", explorer.catalogue.find)]
    if explorer.models is not None:
        sources.append(("models", "models", explorer.models.find))
    shelves = []
    for kind, parameter, find in sources:
        at = page_number(request.query_params, parameter)
        work = functools.partial(find, search=search, offset=(at - 1) * LISTED, length=LISTED)
        shelves.append(Shelf(kind, parameter, await in_thread(work, reader_of(request)), at))

    def turned(shelf: Shelf, to: int) -> str:
        """The address of another page of one shelf; the others stay as they are."""
        pages = {each.parameter: to if each is shelf else each.at for each in shelves}
        return url(search=search, **{name: number if number > 1 else None for name, number in pages.items()})

    # Who is signed in may see more than others.
    return page(request, "index.html.j2", private=True, shelves=shelves, search=search, turned=turned)


ROUTES: Final = [Route("/", as_page(index), methods=["GET"])]
