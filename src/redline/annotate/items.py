"""The lead's pages about items: the list with its filters, one item with all work on it, decisions."""

import re
from typing import Any
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from redline.annotate import api, lead, people, texts, work
from redline.annotate.lead import Filter
from redline.annotate.pages import editor_data
from redline.annotate.people import Person
from redline.annotate.security import Forbidden
from redline.annotate.site import Site
from redline.annotate.submissions import LONGEST_NOTE, Refused
from redline.types import Json, JsonObject

NUMBER = re.compile("[0-9]{1,15}")  # more digits are no row's number


def listing(site: Site, request: Request, person: Person) -> Response:
    """The items that a filter finds, page by page."""
    wanted = _filter(request.query_params)
    page = _page_number(request.query_params.get("page", "1"))
    listed, total = lead.find(site.engine, wanted, page)
    last = max(1, -(-total // lead.PAGE))
    query = _query(wanted)
    return site.page(
        request,
        "items.html",
        person=person,
        wanted=wanted,
        listed=[(entry, texts.messages(entry.prompt)[-1]["text"]) for entry in listed],
        total=total,
        page=page,
        last=last,
        query=query,
        address=f"/admin/items?{query}&" if query else "/admin/items?",
        states=lead.STATES,
        people=people.everyone(site.engine),
    )


def _filter(values: Json) -> Filter:
    """The filter in an address or a form."""
    return Filter(
        person=values.get("person", "")[:200],
        state=values.get("state", "") if values.get("state") in lead.STATES else "",
        reason=values.get("reason", "")[:200],
        text=values.get("text", "").replace("\0", "")[:500],
        disagreement=values.get("disagreement") == "1",
    )


def _query(wanted: Filter) -> str:
    fields = {"person": wanted.person, "state": wanted.state, "reason": wanted.reason, "text": wanted.text}
    fields["disagreement"] = "1" if wanted.disagreement else ""
    return urlencode({name: value for name, value in fields.items() if value})


def _page_number(text: str) -> int:
    return max(1, int(text)) if text.isascii() and text.isdigit() and len(text) < 8 else 1


def item(site: Site, request: Request, person: Person) -> Response:
    """One item: prompt, original, all work side by side, what happened, and what the lead can do."""
    item_id = request.path_params["id"]
    found = lead.look_at(site.engine, item_id)
    if found is None:
        raise Forbidden("There is no such item.", 404)
    kind = site.project.kind
    original = None
    if kind == "edit":
        original = texts.editable(found.body["rejected"]) or ""
    elif kind == "feedback":
        original = texts.editable(found.body["response"]) or ""
    sides = []
    if kind == "compare":
        sides = [(name.upper(), texts.editable(found.body[name]) or "") for name in ("a", "b")]
    last_skip = {line.work_id: line for line in found.history if line.act == "skipped"}
    return site.page(
        request,
        "item.html",
        person=person,
        item=found,
        original=original,
        sides=sides,
        messages=texts.messages(found.body["prompt"], found.body.get("rejected", "")),
        chosen=texts.editable(found.body["chosen"]) if found.body.get("chosen") else None,
        last_skip=last_skip,
        reasons={row.id: _reasons(row.reasons) for row in found.works},
        people=[row for row in people.everyone(site.engine) if row.revoked is None],
        around=lead.neighbours(site.engine, item_id),
        verdicts=work.VERDICTS[kind],
    )


def _reasons(stored: str | None) -> list[JsonObject]:
    return texts.stored_reasons(stored)


def editor(site: Site, request: Request, person: Person) -> Response:
    """The editing page for the lead's own answer to an item."""
    item_id = request.path_params["id"]
    found = lead.look_at(site.engine, item_id)
    if found is None or site.project.kind != "edit":
        raise Forbidden("There is no such item.", 404)
    original = texts.editable(found.body["rejected"]) or ""
    start = original
    base = next((row for row in found.works if str(row.id) == request.query_params.get("from")), None)
    if base is not None and base.edited is not None:
        start = base.edited
    data = site.visit(person) | editor_data(site, original)
    data |= {
        "work": item_id,
        "kind": "edit",
        "state": "deciding",
        "revision": 0,
        "returned": False,
        "note": "",
        "draftAt": 0,
        "verdict": None,
        "guided": True,
        "start": texts.browser_text(start),
        "draft": None,
        "edited": None,
        "given": [],
        "decide": f"/admin/decide/{item_id}",
    }
    return site.page(
        request,
        "edit.html",
        person=person,
        data=data,
        deciding=True,
        work=None,
        item=found,
        counts=None,
        chosen=texts.editable(found.body["chosen"]) if found.body.get("chosen") else None,
        messages=texts.messages(found.body["prompt"], found.body["rejected"]),
    )


def refuse(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Refuse a submission, or take that back."""
    return _done(
        data, lambda: lead.refuse(site.engine, _number(request), data.get("refused") == "1", person.id)
    )


def send_back(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Send a submission back to its author or to another person, with the reason."""
    why = str(data.get("why", "")).strip()
    to = str(data.get("to", ""))
    recipient = int(to) if NUMBER.fullmatch(to) else None
    if to and recipient is None:
        raise Forbidden("There is no such person.", 422)
    if len(why) > LONGEST_NOTE or texts.objection(why):
        raise Forbidden(f"The reason has to be text of at most {LONGEST_NOTE:,} characters.", 422)
    return _done(data, lambda: lead.send_back(site.engine, _number(request), why, person.id, recipient))


def choose(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Make a submission the item's gold."""
    return _done(data, lambda: lead.choose(site.engine, _number(request), person.id))


def decide(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Make the lead's own answer the item's gold: from the editor (JSON), or from a form."""
    item_id = _number(request)
    verdict, note = str(data.get("verdict", "")), api.string(data, "note")
    text = data.get("text")
    if why := texts.objection(text) or texts.objection(note):
        return JSONResponse({"error": f"The text {why}."}, 422)
    if len(note) > LONGEST_NOTE:
        return JSONResponse({"error": f"The note is longer than {LONGEST_NOTE:,} characters."}, 422)
    try:
        lead.decide(site.engine, item_id, person.id, verdict, text if isinstance(text, str) else None, note)
    except Refused as refused:
        if "csrf" in data:
            raise Forbidden(str(refused), 422) from refused
        return api.refusal(refused)
    if "csrf" in data:
        return RedirectResponse(f"/admin/item/{item_id}", 303)
    return JSONResponse({"revision": 0, "next": f"/admin/item/{item_id}"})


def undecide(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Take the decision on an item back."""
    return _done(data, lambda: lead.undo_gold(site.engine, _number(request), person.id))


def assign(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Give a share of the filter's free items to a person, or back to everybody."""
    percent = str(data.get("percent", "100"))
    to = str(data.get("to", ""))
    if not NUMBER.fullmatch(percent) or not 1 <= int(percent) <= 100:
        raise Forbidden("The share is a whole number of percent from 1 to 100.", 422)
    if to and not any(str(row.id) == to and row.revoked is None for row in people.everyone(site.engine)):
        raise Forbidden("There is no such person.", 422)
    wanted = _filter(data)
    count = lead.assign(site.engine, wanted, int(percent) / 100, int(to) if to else None)
    query = _query(wanted)
    return RedirectResponse(f"/admin/items?{query}&assigned={count}", 303)


def _done(data: JsonObject, act: Any) -> Response:
    """Carry out what a form asks for, and go back to the page that it is on."""
    try:
        act()
    except Refused as refused:
        raise Forbidden(str(refused), 422) from refused
    back = str(data.get("back", ""))
    return RedirectResponse(back if back.startswith("/admin") else "/admin", 303)


def _number(request: Request) -> int:
    return int(request.path_params["id"])
