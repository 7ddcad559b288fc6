"""What an annotator's pages send: drafts, submissions, skips, undo."""

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from redline.annotate import handout, practice, submissions, texts, work
from redline.annotate.markdown import render
from redline.annotate.people import Person
from redline.annotate.security import Forbidden
from redline.annotate.site import Site
from redline.annotate.submissions import Refused, Submission
from redline.types import JsonObject


def draft(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Keep a draft, or renew the lease."""
    text = data.get("text")
    try:
        kept = submissions.save_draft(
            site.engine,
            integer(data, "work"),
            person.id,
            text if isinstance(text, str) else None,
            string(data, "note"),
            number(data, "at"),
            list_of(data, "since"),
            site.project.lease,
        )
    except Refused as refused:
        return refusal(refused)
    return JSONResponse({"held": kept != "lost", "newer": kept == "newer"})


def submit(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Take a verdict, and the edit that belongs to it. Answered after it is committed."""
    number_of_work = integer(data, "work")
    try:
        revision = submissions.submit(site.engine, number_of_work, person.id, submission_of(data))
    except Refused as refused:
        return refusal(refused)
    done = work.own_work(site.engine, number_of_work, person.id)
    if done is not None and done.practice:
        practice.tell(site.engine, done, person.id)
        return JSONResponse({"revision": revision, "next": f"/practice/{number_of_work}"})
    return JSONResponse({"revision": revision, "next": "/"})


def submission_of(data: JsonObject) -> Submission:
    """The submission in a request's JSON."""
    text = data.get("text")
    return Submission(
        verdict=string(data, "verdict"),
        text=text if isinstance(text, str) else None,
        note=string(data, "note"),
        seconds=number(data, "seconds"),
        revision=integer(data, "revision"),
        token=string(data, "token"),
        reasons=list_of(data, "reasons") if data.get("reasons") is not None else [],
    )


def skip(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Leave the item to somebody else."""
    try:
        revision = submissions.skip(
            site.engine, integer(data, "work"), person.id, string(data, "note"), integer(data, "revision")
        )
    except Refused as refused:
        return refusal(refused)
    return JSONResponse({"revision": revision, "next": "/"})


def undo(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Take the last submission or skip back."""
    try:
        revision = submissions.undo(
            site.engine, integer(data, "work"), person.id, integer(data, "revision"), site.project.lease
        )
    except Refused as refused:
        return refusal(refused)
    return JSONResponse({"revision": revision, "next": f"/work/{integer(data, 'work')}"})


def skipped(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """Offer the skipped items again."""
    handout.take_up_skipped(site.engine, person.id)
    return RedirectResponse("/", 303)


def guided(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """The guidelines were closed for the first time."""
    handout.read_guidelines(site.engine, person.id)
    return JSONResponse({})


def preview(site: Site, request: Request, person: Person, data: JsonObject) -> Response:
    """The text as safe HTML, as prompts are shown."""
    text = string(data, "text")
    if why := texts.objection(text):
        return JSONResponse({"error": f"The text {why}."}, 422)
    return JSONResponse({"html": str(render(text))})


def refusal(refused: Refused) -> JSONResponse:
    """The answer to a request that is not carried out. Status 409: the state of the item is another one."""
    body: JsonObject = {"error": str(refused)}
    if refused.current is not None:
        body["current"] = refused.current
    conflict = refused.taken or refused.current is not None
    return JSONResponse(body, 409 if conflict else 422)


def integer(data: JsonObject, name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise Forbidden(f"Refused: `{name}` is missing.", 400)
    return value


def number(data: JsonObject, name: str) -> float:
    value = data.get(name, 0)
    if not isinstance(value, int | float) or not 0 <= value < 1e15:  # also refuses NaN
        raise Forbidden(f"Refused: `{name}` is not a number that can be.", 400)
    return float(value)


def list_of(data: JsonObject, name: str) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list):
        raise Forbidden(f"Refused: `{name}` is no list.", 400)
    return value


def string(data: JsonObject, name: str) -> str:
    value = data.get(name) or ""
    if not isinstance(value, str):
        raise Forbidden(f"Refused: `{name}` is not text.", 400)
    return value
