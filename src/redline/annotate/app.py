"""The routes. Each handler is a plain function run in a thread; ``_page`` and ``_post`` around it decide who
may come in."""

import json
from collections.abc import Callable
from functools import cache
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

from redline.annotate import admin, api, items, pages, people, shown, work
from redline.annotate.people import Person
from redline.annotate.security import Forbidden, Guard, body_of, check_origin, check_token, json_of
from redline.annotate.site import Site
from redline.data import units
from redline.types import JsonObject

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
    templates.env.filters |= shown.FILTERS
    site = Site(engine, templates, work.project_of(engine), url)
    app = Starlette(
        routes=[
            Route("/open/{token}", _link_page, methods=["GET"]),
            Route("/open/{token}", _enter, methods=["POST"]),
            Route("/api/who", _who),
            Route("/", _page(pages.home)),
            Route("/work/{id:number}", _page(pages.again)),
            Route("/mine", _page(pages.mine)),
            Route("/practice/{id:number}", _page(pages.practised)),
            Route("/api/draft", _post(api.draft), methods=["POST"]),
            Route("/api/submit", _post(api.submit), methods=["POST"]),
            Route("/api/skip", _post(api.skip), methods=["POST"]),
            Route("/api/undo", _post(api.undo), methods=["POST"]),
            Route("/api/skipped", _post(api.skipped), methods=["POST"]),
            Route("/api/guided", _post(api.guided), methods=["POST"]),
            Route("/api/preview", _post(api.preview), methods=["POST"]),
            Route("/admin", _page(admin.overview, admin=True)),
            Route("/admin/items", _page(items.listing, admin=True)),
            Route("/admin/item/{id:number}", _page(items.item, admin=True)),
            Route("/admin/item/{id:number}/decide", _page(items.editor, admin=True)),
            Route("/admin/revoke/{id:number}", _page(admin.ask_revoke, admin=True), methods=["GET"]),
            Route("/admin/person", _post(admin.add_person, admin=True), methods=["POST"]),
            Route("/admin/link/{id:number}", _post(admin.new_link, admin=True), methods=["POST"]),
            Route("/admin/links", _post(admin.forget_links, admin=True), methods=["POST"]),
            Route("/admin/revoke/{id:number}", _post(admin.revoke, admin=True), methods=["POST"]),
            Route("/admin/refuse/{id:number}", _post(items.refuse, admin=True), methods=["POST"]),
            Route("/admin/return/{id:number}", _post(items.send_back, admin=True), methods=["POST"]),
            Route("/admin/gold/{id:number}", _post(items.choose, admin=True), methods=["POST"]),
            Route("/admin/decide/{id:number}", _post(items.decide, admin=True), methods=["POST"]),
            Route("/admin/undecide/{id:number}", _post(items.undecide, admin=True), methods=["POST"]),
            Route("/admin/assign", _post(items.assign, admin=True), methods=["POST"]),
            Route("/unit-rules.mjs", _unit_rules),
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
                data: JsonObject = dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))
            else:
                data = json_of(request, body)
            check_token(person, request.headers.get("x-csrf-token") or data.get("csrf"))
            return handler(request.app.state.site, request, person, data)

        return await run_in_threadpool(answer)

    return endpoint


def _known(request: Request) -> Person | None:
    site: Site = request.app.state.site
    return people.visitor(site.engine, request.cookies.get(site.cookie))


def _visitor(request: Request, admin: bool) -> Person:
    person = _known(request)
    if person is None:
        raise Forbidden(
            "Open the link that you were given. If it does not work, it was taken back: ask for a new one.",
            401,
        )
    if admin and not person.admin:
        raise Forbidden("This page is the lead's.")
    return person


DEAD_LINK = "This link does not work, or not any more. Ask for a new one."


async def _link_page(request: Request) -> Response:
    """Says whose link it is. Its script goes on at once, unless this browser is somebody else's so far: the
    strict cookie does not come along with a click in a mail or a chat, so the page asks for it itself."""
    site: Site = request.app.state.site
    holder = await run_in_threadpool(people.holder, site.engine, request.path_params["token"])
    if holder is None:
        raise Forbidden(DEAD_LINK, 401)
    return site.page(request, "enter.html", name=holder.name, holder=holder.id)


async def _enter(request: Request) -> Response:
    site: Site = request.app.state.site
    check_origin(request, site.url)
    cookie = await run_in_threadpool(people.enter, site.engine, request.path_params["token"])
    if cookie is None:
        raise Forbidden(DEAD_LINK, 401)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        site.cookie,
        cookie,
        max_age=people.STAY,
        httponly=True,
        samesite="strict",
        secure=(site.url or str(request.url)).startswith("https:"),
    )
    return response


@cache
def _rules() -> str:
    """The rule of ``data.units`` as a module of JavaScript."""
    values = {"PATTERN": units.PATTERN, "EXTEND": units.EXTEND}
    lines = [f"export const {name} = {json.dumps(value)};" for name, value in values.items()]
    thai = units.thai_model().read_text(encoding="utf-8")
    return "\n".join([*lines, f"export const THAI = {thai.strip()};", ""])


async def _unit_rules(request: Request) -> Response:
    return Response(_rules(), media_type="text/javascript", headers={"Cache-Control": "no-cache"})


async def _who(request: Request) -> Response:
    """Whose visit this browser has, for the page of a link."""
    person = await run_in_threadpool(_known, request)
    if person is None:
        return JSONResponse({"who": None})
    return JSONResponse({"who": person.id, "name": person.name})


def _forbidden(request: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Forbidden) else 403
    if request.url.path.startswith("/api/"):
        return JSONResponse({"error": str(error)}, status)
    site: Site = request.app.state.site
    return site.page(request, "message.html", status, message=str(error))


def _missing(request: Request, error: Exception) -> Response:
    site: Site = request.app.state.site
    return site.page(request, "message.html", 404, message="There is no such page.")
