"""The database: its tables, and the engine for SQLite or PostgreSQL.

A *project* edits, compares or collects thumbs. An *item* is one record; it has one *slot*, or two to five
where agreement is measured. A slot is given to one *person* at a time, and *work* is what that person has
made of the item. *History* keeps every submission and every decision about it. *Gold* is the lead's decision
on an item. *Practice* items have a known answer; each person does them first. People come in by *links* and
stay by *visits*. Times are seconds since 1970 (UTC).
"""

import re
import time
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Double,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
    select,
    text,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from redline.annotate.migrations import MIGRATIONS
from redline.errors import UserError

Id = BigInteger().with_variant(Integer, "sqlite")
tables = MetaData()

version = Table("schema_version", tables, Column("version", Integer, nullable=False))

project = Table(
    "project",
    tables,
    Column("id", Integer, primary_key=True),  # always 1
    Column("uid", Text, nullable=False),  # random; tells two projects' cookies and local drafts apart
    Column("kind", Text, nullable=False),  # edit, compare or feedback
    Column("guideline", Text, nullable=False),
    Column("max_ratio", Double, nullable=False),  # of words an edit may change
    Column("agreement", Double, nullable=False),  # share of items that several people do
    Column("lease", Double, nullable=False),  # seconds an item is held for a person who is away
    Column("created", Double, nullable=False),
    Column("reasons", Text, nullable=False, server_default="[]"),  # of changes: a JSON list of strings
    Column("raters", Integer, nullable=False, server_default="2"),  # people who do an agreement item
)
item = Table(
    "item",
    tables,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("key", Text, nullable=False, unique=True),  # the record's own id
    Column("digest", Text, nullable=False),  # of body, to know the same record when it is imported again
    Column("body", Text, nullable=False),  # the record as JSON, without its id
    Column("draft", Text),  # the response's text as an LLM edited it
    Column("draft_editor", Text),
)
person = Table(
    "person",
    tables,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("name", Text, nullable=False, unique=True),
    Column("admin", SmallInteger, nullable=False),
    Column("revoked", Double),  # when the link was taken back
    Column("created", Double, nullable=False),
    Column("guided", Double),  # when this person first closed the guidelines
)
link = Table(
    "link",
    tables,
    Column("hash", Text, primary_key=True),  # SHA-256 of the token; the token itself is nowhere
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("created", Double, nullable=False),
)
visit = Table(
    "visit",
    tables,
    Column("hash", Text, primary_key=True),  # SHA-256 of the cookie
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("expires", Double, nullable=False),
)
OPEN, HELD, DONE = 0, 1, 2
slot = Table(
    "slot",
    tables,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("item_id", ForeignKey("item.id"), nullable=False, index=True),
    Column("state", SmallInteger, nullable=False),
    Column("person_id", ForeignKey("person.id")),
    Column("expires", Double),  # of the lease
    Column("place", Integer, nullable=False, server_default="1"),  # 1 to 5 within the item; 0: practice
    Column("assigned", ForeignKey("person.id")),  # whom the lead gave it to; nobody else gets it
    Column("why", Text),  # what the lead told this person when giving it
    Index("slot_free", "state", "assigned", "id"),
)
work = Table(
    "work",
    tables,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("item_id", ForeignKey("item.id"), nullable=False),
    Column("person_id", ForeignKey("person.id"), nullable=False),
    Column("slot_id", ForeignKey("slot.id"), nullable=False, index=True),
    Column("state", Text, nullable=False),  # open, done, skipped
    Column("swapped", SmallInteger, nullable=False),  # of a comparison: b is shown on the left
    Column("started", Double, nullable=False),
    Column("draft", Text),
    Column("draft_note", Text),
    Column("draft_at", Double),  # by the browser's clock; tells which draft a page started from
    Column("verdict", Text),  # edited, fine, unfixable; or a, b, tie
    Column("edited", Text),  # the response's text as it was submitted
    Column("note", Text),
    Column("ratio", Double),
    Column("seconds", Double),  # at work, as the page counted them
    Column("submitted", Double),
    Column("refused", Double),  # when the lead refused it
    Column("revision", Integer, nullable=False, server_default="0"),  # grows with each change of state
    Column("reasons", Text),  # of the single changes; see texts.Reason
    Column("returned", Double),  # when the lead sent it back to its author, until it is submitted again
    Column("returned_why", Text),
    UniqueConstraint("item_id", "person_id"),
    Index("work_person", "person_id", "state", "submitted"),
    Index("work_submitted", "submitted"),
    Index("work_returned", "returned"),
)
history = Table(
    "history",
    tables,
    Column("id", Id, primary_key=True, autoincrement=True),
    Column("item_id", ForeignKey("item.id"), nullable=False),
    Column("work_id", ForeignKey("work.id")),
    Column("person_id", ForeignKey("person.id")),  # who did it; unknown for what an older Redline noted
    Column("at", Double, nullable=False),
    Column("act", Text, nullable=False),  # see submissions.Act; also gold, gold undone
    Column("revision", Integer, nullable=False),  # of the work, afterwards
    Column("token", Text),  # the page's own name of a submission: the same one is never taken twice
    Column("verdict", Text),
    Column("edited", Text),
    Column("note", Text),  # the person's note, or the lead's reason
    Column("ratio", Double),
    Column("seconds", Double),
    Column("reasons", Text),
    Index("history_item", "item_id", "id"),
    Index("history_work", "work_id", "id"),
)
gold = Table(
    "gold",
    tables,
    Column("item_id", ForeignKey("item.id"), primary_key=True, autoincrement=False),
    Column("person_id", ForeignKey("person.id"), nullable=False),  # the lead who decided
    Column("work_id", ForeignKey("work.id")),  # the submission that was chosen; None: the lead's own
    Column("verdict", Text, nullable=False),
    Column("edited", Text),
    Column("ratio", Double),
    Column("note", Text),
    Column("at", Double, nullable=False),
)
practice = Table(
    "practice",
    tables,
    Column("item_id", ForeignKey("item.id"), primary_key=True, autoincrement=False),
    Column("verdict", Text, nullable=False),  # the known answer
    Column("edited", Text),
    Column("explanation", Text),
)


def shown(url: str) -> str:
    """A database's URL as messages may show it: without its user and password."""
    return url if url.startswith("sqlite") else re.sub(r"^([\w+]+:/*)?.*@", r"\1", url).partition("?")[0]


def connect(url: str) -> Engine:
    """An engine for ``url`` (``sqlite:///edits.db``, ``postgresql://user@host/name``), its schema moved on to
    this version.

    On SQLite: WAL mode, a full sync at each commit. Raises UserError when it cannot be opened or is newer
    than we are.
    """
    try:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise UserError(f"--db {shown(url)}: only sqlite:/// and postgresql:// are understood.")
        if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise UserError(f"--db {url}: a file is needed, for example sqlite:///edits.db")
        engine = create_engine(parsed, pool_size=10, max_overflow=30, pool_pre_ping=True)
        if engine.dialect.name == "sqlite":
            _prepare_sqlite(engine)
        migrate(engine)
    except (ArgumentError, ValueError) as error:  # ValueError: of a port that is no number
        raise UserError(
            f"--db {shown(url)}: not a database URL. Write sqlite:///edits.db or postgresql://user@host/name"
        ) from error
    except (ModuleNotFoundError, NoSuchModuleError) as error:
        raise UserError(f"--db {shown(url)}: its driver is missing. pip install 'psycopg[binary]'") from error
    except DBAPIError as error:
        reason = str(error.orig).strip().splitlines()[0]
        raise UserError(f"--db {shown(url)}: cannot be opened ({reason}).") from error
    return engine


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def settings(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so, below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=20000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A reader that turns writer half-way can fail at once ("database is locked"): writers take the lock
        # at their start.
        connection.exec_driver_sql(
            "BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN"
        )


def writing(engine: Engine) -> Engine:
    """The same engine for transactions that write: ``with writing(engine).begin() as db``."""
    return engine.execution_options(writes=True)


def migrate(engine: Engine, to: int = len(MIGRATIONS)) -> None:
    """Run the migrations that the database lacks, up to number ``to``, in one transaction."""
    types = {"id": "INTEGER PRIMARY KEY", "ref": "INTEGER", "real": "DOUBLE PRECISION"}
    if engine.dialect.name == "postgresql":
        types |= {"id": "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY", "ref": "BIGINT"}
    with writing(engine).begin() as db:
        if engine.dialect.name == "postgresql":
            db.execute(
                text("SELECT pg_advisory_xact_lock(7236459)")
            )  # two servers started at once take turns
        db.execute(text("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER NOT NULL)"))
        now = db.execute(select(version.c.version)).scalar()
        if now is None:
            now = 0
            db.execute(version.insert().values(version=0))
        if now > len(MIGRATIONS):
            raise UserError(
                f"--db: made by a newer Redline (schema {now}, this one knows {len(MIGRATIONS)}). Upgrade "
                "Redline."
            )
        for number in range(now, to):
            for statement in MIGRATIONS[number]:
                db.execute(text(statement.format(**types)))
        db.execute(version.update().values(version=max(now, to)))


def clock() -> float:
    """Seconds since 1970."""
    return time.time()
