"""The lead's first page: progress, people and their links, agreement, the last submissions."""

import json

from sqlalchemy import select
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from redline.annotate import agreement, people, practice, progress, texts
from redline.annotate.people import Person
from redline.annotate.schema import person as person_table
from redline.annotate.security import Forbidden
from redline.annotate.site import Site
from redline.errors import UserError
from redline.types import JsonObject


def overview(site: Site, request: Request, person: Person) -> Response:
    """The lead's first page."""
    recent = []
    for row in progress.newest(site.engine):
        entry: JsonObject = {"row": row, "old": None, "new": None}
        if site.project.kind == "edit":
            entry |= {"old": texts.editable(json.loads(row.body)["rejected"]), "new": row.edited}
        recent.append(entry)
    return site.page(
        request,
        "admin.html",
        person=person,
        totals=progress.totals(site.engine),
        rates=progress.rates(site.engine),
        disagreement=agreement.disagreement(site.engine),
        practised=practice.results(site.engine),
        recent=recent,
        made=site.made_links(person),
    )


def add_person(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
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


def new_link(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """One more link for an annotator, also for one whose link was taken back."""
    return _link(site, request, person, *_annotator(site, request))


def forget_links(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Show the new links no longer."""
    site.forget_links(person)
    return RedirectResponse("/admin", 303)


def ask_revoke(site: Site, request: Request, person: Person) -> Response:
    """Ask before a link is taken back."""
    number, name = _annotator(site, request)
    return site.page(request, "revoke.html", person=person, number=number, name=name)


def revoke(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Take an annotator's links back."""
    people.take_back(site.engine, _annotator(site, request)[0])
    return RedirectResponse("/admin#people", 303)


def _link(site: Site, request: Request, person: Person, person_id: int, name: str) -> Response:
    token = people.new_link(site.engine, person_id, restore=True)
    base = site.url or str(request.base_url).rstrip("/")
    site.keep_link(person, name, f"{base}/open/{token}")
    return RedirectResponse("/admin", 303)


def _annotator(site: Site, request: Request) -> tuple[int, str]:
    with site.engine.connect() as db:
        row = db.execute(
            select(person_table.c.id, person_table.c.name).where(
                person_table.c.id == request.path_params["id"], person_table.c.admin == 0
            )
        ).first()
    if row is None:
        raise Forbidden("There is no such person.", 404)
    return row.id, row.name
