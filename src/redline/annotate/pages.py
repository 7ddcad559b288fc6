"""An annotator's pages: the item in hand, one's own last work, the known answer of a practice item."""

from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from redline.annotate import handout, practice, texts, work
from redline.annotate.people import Person
from redline.annotate.security import Forbidden
from redline.annotate.site import Site
from redline.types import JsonObject


def home(site: Site, request: Request, person: Person) -> Response:
    """The item that this person works on now."""
    if person.admin:
        return RedirectResponse("/admin", 303)
    current = handout.next_work(site.engine, person.id, site.project.lease)
    if current is None:
        return site.page(
            request,
            "finished.html",
            person=person,
            data=site.visit(person),
            counts=work.counts(site.engine, person.id),
        )
    return work_page(site, request, person, current)


def again(site: Site, request: Request, person: Person) -> Response:
    """A piece of one's own work, to correct it or to take it back."""
    return work_page(site, request, person, _own(site, request, person))


def _own(site: Site, request: Request, person: Person) -> work.Work:
    own = work.own_work(site.engine, request.path_params["id"], person.id)
    if own is None:
        raise Forbidden("This item is not yours.", 404)
    return own


def mine(site: Site, request: Request, person: Person) -> Response:
    """What this person did last."""
    return site.page(
        request,
        "mine.html",
        person=person,
        data=site.visit(person),
        counts=work.counts(site.engine, person.id),
        recent=work.recent(site.engine, person.id),
    )


def practised(site: Site, request: Request, person: Person) -> Response:
    """How one's answer to a practice item compares with the known one."""
    own = _own(site, request, person)
    if not own.practice or own.state != "done":
        return RedirectResponse(f"/work/{own.id}", 303)
    values: JsonObject = {
        "person": person,
        "data": site.visit(person),
        "counts": work.counts(site.engine, person.id),
        "work": own,
        "lesson": practice.lesson(site.engine, own),
        "messages": texts.messages(own.body["prompt"], own.body.get("rejected", "")),
    }
    if site.project.kind == "compare":
        values["sides"] = _sides(own)
    elif site.project.kind == "feedback":
        values["response"] = _messages_of(own.body["response"])
    else:
        values["original"] = own.original
    return site.page(request, "practice.html", **values)


def work_page(site: Site, request: Request, person: Person, current: work.Work) -> Response:
    """The page to edit, to compare or to give a thumb."""
    data = site.visit(person) | {
        "work": current.id,
        "kind": site.project.kind,
        "state": current.state,
        "revision": current.revision,
        "returned": current.returned,
        "note": current.note,
        "draftAt": current.draft_at,
        "verdict": current.verdict,
        "guided": person.guided,
    }
    values: JsonObject = {
        "person": person,
        "work": current,
        "counts": work.counts(site.engine, person.id),
        "data": data,
    }
    body = current.body
    if site.project.kind == "compare":
        values["sides"] = _sides(current)
        return site.page(request, "compare.html", messages=texts.messages(body["prompt"]), **values)
    if site.project.kind == "feedback":
        values["response"] = _messages_of(body["response"])
        return site.page(request, "thumbs.html", messages=texts.messages(body["prompt"]), **values)
    values["data"] |= editor_data(site, current.original) | {
        "start": texts.browser_text(current.start),
        "draft": current.draft,
        "edited": None if current.edited is None else texts.browser_text(current.edited),
        "given": [texts.for_page(reason) for reason in current.reasons],
    }
    return site.page(
        request,
        "edit.html",
        chosen=texts.editable(body["chosen"]) if body.get("chosen") else None,
        messages=texts.messages(body["prompt"], body["rejected"]),
        deciding=False,
        **values,
    )


def editor_data(site: Site, original: str) -> JsonObject:
    """What the editor's script needs to know of the text and the project."""
    return {
        "original": texts.browser_text(original),
        "maxRatio": site.project.max_ratio,
        "reasons": list(site.project.reasons),
    }


def _sides(current: work.Work) -> list[tuple[str, list[dict[str, str]]]]:
    """The two responses of a comparison, left and right as this person sees them."""
    order = ("b", "a") if current.swapped else ("a", "b")
    return [(side, _messages_of(current.body[side])) for side in order]


def _messages_of(response: Any) -> list[dict[str, str]]:
    """A response's messages, the last one without a role."""
    return [*texts.messages("", response)[1:], {"role": "", "text": texts.editable(response) or ""}]
