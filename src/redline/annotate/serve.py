"""The commands: start the app over a database, filled first with what is given; say how far the work is;
write out what people have made."""

import getpass
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table
from rich.text import Text as Line
from sqlalchemy import Engine, select

from redline.annotate import export as exporting
from redline.annotate import people, progress
from redline.annotate.export import Which
from redline.annotate.intake import Count, add_comparison, add_drafts, add_pairs, add_responses, set_up
from redline.annotate.practice import KNOWN, add_practice
from redline.annotate.schema import connect, item, project, shown
from redline.annotate.shown import duration, moment
from redline.console import print_json, say, track
from redline.data.check import Rejects
from redline.data.files import read_jsonl
from redline.data.fits import fits_model
from redline.data.read import read
from redline.data.records import Edit, Response, ToEdit
from redline.data.settings import Source
from redline.data.show import visible
from redline.errors import UserError
from redline.listening import listen


@dataclass
class Options:
    """What ``redline annotate`` was asked for; see its help."""

    db: str
    pairs: Source | None = None
    drafts: Source | None = None
    blind: tuple[Source, Source] | None = None
    thumbs: Source | None = None
    practice: Path | None = None
    for_model: str | None = None  # that learns from the edits; pairs that it cannot take are left out
    max_prompt_tokens: int | None = None
    guideline: Path | None = None
    annotators: list[str] = field(default_factory=list)
    agreement: float | None = None
    raters: int | None = None
    reasons: list[str] | None = None
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

    sources = [bool(options.pairs or options.drafts), bool(options.blind), bool(options.thumbs)]
    if sum(sources) > 1:
        raise UserError("Give only one of these: PAIRS (or --import) to edit, --blind to compare, --thumbs.")
    names = _names(options)
    url = None if options.url is None else _url(options.url)
    engine = connect(options.db)
    guideline = _guideline(options.guideline)
    lease = None if options.lease_minutes is None else options.lease_minutes * 60
    set_up(
        engine,
        _kind_of(options, engine),
        guideline,
        options.max_ratio,
        options.agreement,
        lease,
        options.raters,
        options.reasons,
    )
    _fill(engine, options)
    with engine.connect() as db:
        if db.execute(select(item.c.id).limit(1)).first() is None:
            raise UserError(
                f"--db {shown(options.db)}: there is nothing in it to work on. Give PAIRS, --import, "
                "--blind or --thumbs."
            )
    listening = listen(options.host, options.port)
    port = listening.getsockname()[1]
    base = url or f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{port}"
    app = build(engine, url, hosts=frozenset({str(urlsplit(base).hostname), "localhost", "127.0.0.1", "::1"}))
    _print_links(engine, base, names)
    # The paths of links are secrets: no access log.
    config = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listening])


def _kind_of(options: Options, engine: Engine) -> str:
    """The kind of project that is asked for, or that the database has."""
    if options.blind:
        return "compare"
    if options.thumbs:
        return "feedback"
    if options.pairs or options.drafts:
        return "edit"
    return _kind(engine) or "edit"


def export(
    db: str, out: Path, which: Which, who: str | None, with_history: bool, as_json: bool = False
) -> None:
    """Write out edits, comparisons or thumbs; ``as_json`` prints the counts."""
    done = exporting.export(connect_existing(db), out, which, who, with_history)
    text = f"{out}: {done.records:,} records"
    if done.left_out:
        parts = ", ".join(f"{number:,} {reason}" for reason, number in done.left_out.most_common())
        text += f"; left out: {parts}"
    say(text)
    if as_json:
        print_json({"out": str(out), "records": done.records, "left_out": dict(done.left_out)})


def status(db: str, as_json: bool) -> None:
    """Print how far the work of a project is, as a table or as JSON."""
    engine = connect_existing(db)
    figures = progress.status(engine)
    if as_json:
        print_json(figures)
        return
    out = Console(soft_wrap=True, highlight=False, markup=False)
    out.print(
        f"{figures['done']:,} of {figures['total']:,} done, {figures['held']:,} in somebody's hands; "
        f"{figures['items_done']:,} of {figures['items']:,} items done, {figures['items_several']:,} by two "
        f"or more people; {figures['returned']:,} sent back, {figures['gold']:,} decided"
    )
    names = ("name", "done", "skipped", "refused", "sent back", "assigned", "practice", "each", "last")
    table = Table(*names, box=None, pad_edge=False)
    for rate in progress.rates(engine):
        cells = (rate.done, rate.skipped, rate.refused, rate.returned, rate.assigned, rate.practised)
        last = moment(rate.last) if rate.last else "–"
        table.add_row(Line(visible(rate.name)), *map(str, cells), duration(rate.seconds), last)
    out.print(table)


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


def list_of(text: str) -> list[str]:
    """The parts of a text with commas, without empty ones and repetitions."""
    parts = [part.strip() for part in text.split(",")]
    return list(dict.fromkeys(part for part in parts if part))


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
            refuse = fits_model(options.for_model, options.max_prompt_tokens)
            pairs = read(options.pairs, ToEdit, rejects, refuse=refuse)
            _say(options.pairs.name, add_pairs(engine, track(pairs, "pairs"), rejects), rejects)
    if options.drafts:
        with _rejects(engine, "drafts") as rejects:
            edits = read(options.drafts, Edit, rejects, keep_unchanged=True)
            _say(options.drafts.name, add_drafts(engine, track(edits, "drafts"), rejects), rejects)
    if options.blind:
        a, b = options.blind
        with _rejects(engine, "comparison") as rejects:
            count = add_comparison(
                engine,
                track(read(a, Response, rejects), "responses"),
                read(b, Response, rejects),
                rejects,
            )
            _say(f"{a.name} and {b.name}", count, rejects)
    if options.thumbs:
        with _rejects(engine, "thumbs") as rejects:
            responses = read(options.thumbs, Response, rejects)
            _say(options.thumbs.name, add_responses(engine, track(responses, "responses"), rejects), rejects)
    if options.practice:
        kind = _kind(engine) or "edit"
        with _rejects(engine, "practice") as rejects:
            known = read_jsonl(options.practice, KNOWN[kind])
            _say(f"practice: {options.practice}", add_practice(engine, kind, known, rejects), rejects)


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
    say(text)
    for noticed in rejects.notes:
        say(f"{source}: {noticed}")


def _print_links(engine: Engine, base: str, names: list[str]) -> None:
    """One new link for the admin and for each person named; links given before go on working."""
    say("Links are secrets: whoever has one can work under its name.")
    for name in [ADMIN, *names]:
        token = people.new_link(engine, people.ensure(engine, name, admin=name == ADMIN))
        told = f"{base}/open/{token}" if token else "taken back; the admin page gives a new one"
        print(f"{name}: {told}", flush=True)
    say("Ctrl-C stops the server; the same command starts it again.")
