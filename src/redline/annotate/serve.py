"""The two commands: start the app over a database, filled first with what is given; write out what people
have made."""

import getpass
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Engine, select

from redline.annotate import export as exporting
from redline.annotate import people
from redline.annotate.intake import Count, add_comparison, add_drafts, add_pairs, set_up
from redline.annotate.schema import connect, item, project, shown
from redline.console import console, track
from redline.data.check import Rejects
from redline.data.read import read
from redline.data.records import Edit, Response, ToEdit
from redline.data.settings import Source
from redline.errors import UserError


@dataclass
class Options:
    """What ``redline annotate`` was asked for; see its help."""

    db: str
    pairs: Source | None = None
    drafts: str | None = None
    blind: tuple[str, str] | None = None
    guideline: Path | None = None
    annotators: list[str] = field(default_factory=list)
    agreement: float | None = None
    max_ratio: float | None = None
    lease_minutes: float | None = None
    host: str = "127.0.0.1"
    port: int = 8000
    url: str | None = None  # by which people reach it through a proxy


ADMIN = "admin"


def annotate(options: Options) -> None:
    """Fill the database, print the links, serve until stopped."""
    import uvicorn

    from redline.annotate.app import build

    if options.blind and (options.pairs or options.drafts):
        raise UserError("--blind compares two files of responses; leave PAIRS and --import away.")
    names = _names(options)
    url = None if options.url is None else _url(options.url)
    engine = connect(options.db)
    guideline = _guideline(options.guideline)
    lease = None if options.lease_minutes is None else options.lease_minutes * 60
    kind = (
        "compare" if options.blind else "edit" if options.pairs or options.drafts else _kind(engine) or "edit"
    )
    set_up(engine, kind, guideline, options.max_ratio, options.agreement, lease)
    _fill(engine, options)
    with engine.connect() as db:
        if db.execute(select(item.c.id).limit(1)).first() is None:
            raise UserError(
                f"--db {shown(options.db)}: there is nothing in it to work on. Give PAIRS, --import or "
                "--blind."
            )
    listening = _listen(options.host, options.port)
    port = listening.getsockname()[1]
    base = url or f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{port}"
    app = build(engine, url, hosts=frozenset({str(urlsplit(base).hostname), "localhost", "127.0.0.1", "::1"}))
    _print_links(engine, base, names)
    # The paths of links are secrets: no access log.
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listening])


def export(db: str, out: Path, accepted: bool, who: str | None) -> None:
    """Write out edits, or comparisons."""
    count = exporting.export(connect_existing(db), out, "accepted" if accepted else "all", who)
    console.print(f"{out}: {count:,} records", highlight=False, markup=False, soft_wrap=True)


def connect_existing(db: str) -> Engine:
    """The engine of a database that holds a project. Raises UserError for one that does not."""
    if db.startswith("sqlite:///") and not Path(db.removeprefix("sqlite:///")).is_file():
        raise UserError(f"--db {db}: there is no such file. `redline annotate` makes it.")
    engine = connect(db)
    if _kind(engine) is None:
        raise UserError(
            f"--db {shown(db)}: there is nothing in it yet. Fill it with `redline annotate PAIRS --db "
            f"{shown(db)}`."
        )
    return engine


def _kind(engine: Engine) -> str | None:
    with engine.connect() as db:
        return db.execute(select(project.c.kind)).scalar()


def _names(options: Options) -> list[str]:
    names = [name.strip() for name in options.annotators if name.strip()]
    if not names:
        try:
            names = [getpass.getuser()]
        except (KeyError, OSError):  # a user without a name, as in some containers
            names = ["annotator"]
    if ADMIN in names:
        raise UserError(f"--annotators: {ADMIN!r} is the admin page's own name. Choose another.")
    return names


def _url(url: str) -> str:
    """The address that people use, as browsers write it. Raises UserError when it is none, or has a path."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # reading the port checks it
    except ValueError:
        host = None
    if (
        not host
        or parts.scheme not in ("http", "https")
        or "@" in url
        or parts.path.strip("/")
        or parts.query
        or parts.fragment
    ):
        raise UserError(
            f"--url {url}: http:// or https:// and a host are expected, without a path: "
            "https://annotate.example.org"
        )
    usual = {"http": ":80", "https": ":443"}[parts.scheme]
    return f"{parts.scheme}://{parts.netloc.lower().removesuffix(usual)}"


def _guideline(path: Path | None) -> str | None:
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--guideline {path}: cannot be read ({error}).") from error


def _fill(engine: Engine, options: Options) -> None:
    if options.pairs:
        with _rejects(engine, "pairs") as rejects:
            pairs = read(options.pairs, ToEdit, rejects)
            _say(options.pairs.path, add_pairs(engine, track(pairs, "pairs"), rejects), rejects)
    if options.drafts:
        with _rejects(engine, "drafts") as rejects:
            edits = read(Source(path=options.drafts), Edit, rejects, keep_unchanged=True)
            _say(options.drafts, add_drafts(engine, track(edits, "drafts"), rejects), rejects)
    if options.blind:
        a, b = options.blind
        with _rejects(engine, "comparison") as rejects:
            count = add_comparison(
                engine,
                track(read(Source(path=a), Response, rejects), "responses"),
                read(Source(path=b), Response, rejects),
                rejects,
            )
            _say(f"{a} and {b}", count, rejects)


@contextmanager
def _rejects(engine: Engine, what: str) -> Iterator[Rejects]:
    """The rejects file: beside an SQLite database, else in this folder."""
    beside = Path(engine.url.database or "redline") if engine.dialect.name == "sqlite" else Path("redline")
    with Rejects(beside.with_suffix(f".{what}.rejects.jsonl")) as rejects:
        yield rejects


def _say(source: str, count: Count, rejects: Rejects) -> None:
    text = f"{source}: {count.added:,} added"
    if count.known:
        text += f", {count.known:,} there already"
    if count.drafts:
        text += f", {count.drafts:,} drafts"
    if rejects.total:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in rejects.counts.most_common(5))
        text += f", {rejects.total:,} left out ({reasons}); see {rejects.path}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With TCP named, asyncio switches Nagle's delay off; without, each answer would take 40 ms longer.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)  # who opens a link as soon as it is printed waits, and is not turned away
    except (OSError, OverflowError) as error:
        listening.close()
        raise UserError(
            f"--host {host} --port {port}: cannot be listened on ({error}). Choose another port."
        ) from error
    return listening


def _print_links(engine: Engine, base: str, names: list[str]) -> None:
    """One new link for the admin and for each person named; links given before go on working."""
    console.print(
        "Links are secrets: whoever has one can work under its name.", highlight=False, markup=False
    )
    for name in [ADMIN, *names]:
        token = people.new_link(engine, people.ensure(engine, name, admin=name == ADMIN))
        told = f"{base}/open/{token}" if token else "taken back; the admin page gives a new one"
        print(f"{name}: {told}", flush=True)
    console.print("Ctrl-C stops the server; the same command starts it again.", highlight=False, markup=False)
