"""The admin's pages: progress, rates, disagreement, recent edits; links given and taken back."""

import json
from typing import Any

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from redline.annotate import agreement, people, progress, texts
from redline.annotate.people import Person
from redline.annotate.schema import person as person_table
from redline.annotate.security import Forbidden
from redline.annotate.site import Site
from redline.errors import UserError


def overview(
    site: Site, request: Request, person: Person, link: str | None = None, link_for: str | None = None
) -> Response:
    """The admin page. ``link``: a new link, shown this once."""
    recent = []
    for row in progress.newest(site.engine):
        body = json.loads(row.body)
        entry: dict[str, Any] = {"row": row, "old": None, "new": None}
        if site.project.kind == "edit":
            entry |= {"old": texts.editable(body["rejected"]), "new": row.edited}
        recent.append(entry)
    return site.page(
        request,
        "admin.html",
        person=person,
        totals=progress.totals(site.engine),
        rates=progress.rates(site.engine),
        disagreement=agreement.disagreement(site.engine),
        recent=recent,
        link=link,
        link_for=link_for,
    )


def add_person(site: Site, request: Request, person: Person, data: dict[str, Any]) -> Response:
    """A new annotator, and the link."""
    name = str(data.get("name", ""))
    if any(row.name == name.strip() for row in people.everyone(site.engine)):
        raise Forbidden(f"There is somebody called {name!r} already.", 422)
    if why := texts.objection(name):
        raise Forbidden(f"The name {why}.", 422)
    try:
        return _link(site, request, person, people.ensure(site.engine, name), name.strip())
    except UserError as error:
        raise Forbidden(str(error), 422) from error


def new_link(site: Site, request: Request, person: Person, data: dict[str, Any]) -> Response:
    """One more link for an annotator, also for one whose link was taken back."""
    return _link(site, request, person, *_annotator(site, request))


def revoke(site: Site, request: Request, person: Person, data: dict[str, Any]) -> Response:
    """Take an annotator's links back."""
    people.take_back(site.engine, _annotator(site, request)[0])
    return RedirectResponse("/admin", 303)


def refuse(site: Site, request: Request, person: Person, data: dict[str, Any]) -> Response:
    """Refuse an edit, or take that back."""
    progress.refuse(site.engine, request.path_params["id"], data.get("refused") == "1")
    return RedirectResponse("/admin#recent", 303)


def _link(site: Site, request: Request, person: Person, person_id: int, name: str) -> Response:
    token = people.new_link(site.engine, person_id, restore=True)
    return overview(
        site, request, person, f"{site.url or str(request.base_url).rstrip('/')}/open/{token}", name
    )


def _annotator(site: Site, request: Request) -> tuple[int, str]:
    with site.engine.connect() as db:
        found = db.execute(
            select(person_table.c.id, person_table.c.name).where(
                person_table.c.id == request.path_params["id"], person_table.c.admin == 0
            )
        ).first()
    if found is None:
        raise Forbidden("There is no such person.", 404)
    return found.id, found.name
