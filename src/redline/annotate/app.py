"""The routes. Each handler is a plain function run in a thread; ``_page`` and ``_post`` around it decide who
may come in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from sqlalchemy import Engine
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from redline.annotate import admin, people, texts, work
from redline.annotate.markdown import render
from redline.annotate.people import Person
from redline.annotate.security import Forbidden, Guard, body_of, check_origin, check_token, json_of
from redline.annotate.site import Site

HERE = Path(__file__).parent


class _Number(IntegerConvertor):
    regex = "[0-9]{1,15}"  # more digits are no row's number


register_url_convertor("number", _Number())


def build(engine: Engine, url: str | None = None, hosts: frozenset[str] = frozenset()) -> Starlette:
    """The app over a database that is set up.

    ``url``: the address people use, else each request's own; ``hosts``: the names it may be reached by;
    empty: any.
    """
    templates = Jinja2Templates(HERE / "templates")
    templates.env.filters |= {"markdown": render, "moment": _moment, "share": _share, "duration": _duration}
    site = Site(engine, templates, work.project_of(engine), url)
    app = Starlette(
        routes=[
            Route("/open/{token}", _enter),
            Route("/", _page(home)),
            Route("/work/{id:number}", _page(again)),
            Route("/mine", _page(mine)),
            Route("/api/draft", _post(draft), methods=["POST"]),
            Route("/api/submit", _post(submit), methods=["POST"]),
            Route("/api/skip", _post(skip), methods=["POST"]),
            Route("/api/skipped", _post(skipped), methods=["POST"]),
            Route("/admin", _page(admin.overview, admin=True)),
            Route("/admin/person", _post(admin.add_person, admin=True), methods=["POST"]),
            Route("/admin/link/{id:number}", _post(admin.new_link, admin=True), methods=["POST"]),
            Route("/admin/revoke/{id:number}", _post(admin.revoke, admin=True), methods=["POST"]),
            Route("/admin/refuse/{id:number}", _post(admin.refuse, admin=True), methods=["POST"]),
            Mount("/static", StaticFiles(directory=HERE / "static")),
        ],
        middleware=[Middleware(Guard, hosts=hosts)],
        exception_handlers={Forbidden: _forbidden, 404: _missing},
    )
    app.state.site = site
    return app


Handler = Callable[..., Response]


def _page(handler: Handler, admin: bool = False) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        def answer() -> Response:
            return handler(request.app.state.site, request, _visitor(request, admin))

        return await run_in_threadpool(answer)

    return endpoint


def _post(handler: Handler, admin: bool = False) -> Callable[[Request], Any]:
    async def endpoint(request: Request) -> Response:
        check_origin(request, request.app.state.site.url)
        body = await body_of(request)

        def answer() -> Response:
            person = _visitor(request, admin)
            if request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
                data: dict[str, Any] = dict(
                    parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
                )
            else:
                data = json_of(request, body)
            check_token(person, request.headers.get("x-csrf-token") or data.get("csrf"))
            return handler(request.app.state.site, request, person, data)

        return await run_in_threadpool(answer)

    return endpoint


def _visitor(request: Request, admin: bool) -> Person:
    site: Site = request.app.state.site
    person = people.visitor(site.engine, request.cookies.get(site.cookie))
    if person is None:
        raise Forbidden(
            "Open the link that you were given. If it does not work, it was taken back: ask for a new one.",
            401,
        )
    if admin and not person.admin:
        raise Forbidden("This page is the admin's.")
    return person


async def _enter(request: Request) -> Response:
    site: Site = request.app.state.site
    cookie = await run_in_threadpool(people.enter, site.engine, request.path_params["token"])
    if cookie is None:
        raise Forbidden("This link does not work, or not any more. Ask for a new one.", 401)
    # A page, not a redirect: coming from a mail or a chat, a browser would not send a strict cookie after a
    # redirect.
    response = site.page(request, "enter.html")
    response.headers["Referrer-Policy"] = "no-referrer"
    response.set_cookie(
        site.cookie,
        cookie,
        max_age=people.STAY,
        httponly=True,
        samesite="strict",
        secure=(site.url or str(request.url)).startswith("https:"),
    )
    return response


def _forbidden(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Forbidden) else 403
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": str(error)}, status)
    site: Site = request.app.state.site
    return site.page(request, "message.html", status, message=str(error))


def _missing(request: Request, error: Exception) -> Response:
    site: Site = request.app.state.site
    return site.page(request, "message.html", 404, message="There is no such page.")


def home(site: Site, request: Request, person: Person) -> Response:
    """The item that this person works on now."""
    if person.admin:
        return RedirectResponse("/admin", 303)
    found = work.next_work(site.engine, person.id, site.project.lease)
    if found is None:
        return site.page(request, "finished.html", person=person, counts=work.counts(site.engine, person.id))
    return _work_page(site, request, person, found)


def again(site: Site, request: Request, person: Person) -> Response:
    """A piece of one's own work, to correct it."""
    found = work.own_work(site.engine, request.path_params["id"], person.id)
    if found is None:
        raise Forbidden("This item is not yours.", 404)
    return _work_page(site, request, person, found)


def _work_page(site: Site, request: Request, person: Person, found: work.Work) -> Response:
    data = {
        "work": found.id,
        "uid": site.project.uid,
        "csrf": person.csrf,
        "kind": site.project.kind,
        "state": found.state,
        "note": found.note,
        "draftAt": found.draft_at,
        "verdict": found.verdict,
        "seconds": 0,
    }
    values: dict[str, Any] = {
        "person": person,
        "work": found,
        "counts": work.counts(site.engine, person.id),
        "verdict": _VERDICT_TEXT.get(found.verdict or ""),
    }
    if site.project.kind == "compare":
        sides = ("b", "a") if found.swapped else ("a", "b")
        shown = [
            (
                side,
                [
                    *texts.messages("", found.body[side])[1:],
                    {"role": "", "text": texts.editable(found.body[side]) or ""},
                ],
            )
            for side in sides
        ]
        return site.page(
            request,
            "compare.html",
            data=data,
            messages=texts.messages(found.body["prompt"]),
            sides=shown,
            **values,
        )
    data |= {
        "original": texts.browser_text(found.original),
        "start": found.start,
        "draft": found.draft,
        "edited": None if found.edited is None else texts.browser_text(found.edited),
        "maxRatio": site.project.max_ratio,
    }
    chosen = texts.editable(found.body["chosen"]) if found.body.get("chosen") else None
    return site.page(
        request,
        "edit.html",
        data=data,
        chosen=chosen,
        messages=texts.messages(found.body["prompt"], found.body["rejected"]),
        **values,
    )


def mine(site: Site, request: Request, person: Person) -> Response:
    """What this person did last."""
    return site.page(
        request,
        "mine.html",
        person=person,
        counts=work.counts(site.engine, person.id),
        recent=work.recent(site.engine, person.id),
        verdicts=_VERDICT_TEXT,
    )


def draft(site: Site, request: Request, person: Person, data: dict[str, Any]) -> Response:
    """Keep a draft, or renew the lease."""
    text = data.get("text")
    try:
        found = work.save_draft(
            site.engine,
            _int(data, "work"),
            person.id,
            text if isinstance(text, str) else None,
            _str(data, "note"),
            _float(data, "at"),
            _list(data, "since"),
            site.project.lease,
        )
    except work.Refused as refused:
        return JSONResponse({"error": str(refused)}, 422)
    return JSONResponse({"held": found != "lost", "newer": found == "newer"})


def submit(site: Site, request: Request, person: Person, data: dict[str, Any]) -> Response:
    """Take a verdict, and the edit that belongs to it. Answered after it is committed."""
    text = data.get("text")
    try:
        work.submit(
            site.engine,
            _int(data, "work"),
            person.id,
            _str(data, "verdict"),
            text if isinstance(text, str) else None,
            _str(data, "note"),
            _float(data, "seconds"),
        )
    except work.Refused as refused:
        return JSONResponse({"error": str(refused)}, 409 if refused.taken else 422)
    return JSONResponse({"done": True})


def skip(site: Site, request: Request, person: Person, data: dict[str, Any]) -> Response:
    """Leave the item to somebody else."""
    try:
        work.skip(site.engine, _int(data, "work"), person.id, _str(data, "note"))
    except work.Refused as refused:
        return JSONResponse({"error": str(refused)}, 422)
    return JSONResponse({"done": True})


def skipped(site: Site, request: Request, person: Person, data: dict[str, Any]) -> Response:
    """Offer the skipped items again."""
    work.take_up_skipped(site.engine, person.id)
    return RedirectResponse("/", 303)


def _int(data: dict[str, Any], name: str) -> int:
    value = data.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise Forbidden(f"Refused: `{name}` is missing.", 400)
    return value


def _float(data: dict[str, Any], name: str) -> float:
    value = data.get(name, 0)
    if not isinstance(value, int | float) or not 0 <= value < 1e15:  # also refuses NaN
        raise Forbidden(f"Refused: `{name}` is not a number that can be.", 400)
    return float(value)


def _list(data: dict[str, Any], name: str) -> list[Any]:
    value = data.get(name)
    if not isinstance(value, list):
        raise Forbidden(f"Refused: `{name}` is no list.", 400)
    return value


def _str(data: dict[str, Any], name: str) -> str:
    value = data.get(name) or ""
    if not isinstance(value, str):
        raise Forbidden(f"Refused: `{name}` is not text.", 400)
    return value


_VERDICT_TEXT = {
    "edited": "edited",
    "fine": "already fine",
    "unfixable": "cannot be fixed by editing",
    "a": "one preferred",
    "b": "one preferred",
    "tie": "a tie",
}


def _moment(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _duration(seconds: float | None) -> str:
    if not seconds:
        return "–"
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
