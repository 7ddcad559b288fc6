"""People, their links, and their visits. Tokens are 256 random bits; the database knows only their
SHA-256."""

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy import Engine, Row, delete, func, select, update

from redline.annotate.schema import HELD, OPEN, clock, link, person, slot, visit, writing
from redline.errors import UserError

STAY = 30 * 86400  # seconds a visit lasts
LONGEST_NAME = 60


@dataclass(frozen=True)
class Person:
    """Who is at the other end of a request, and the secret of that visit."""

    id: int
    name: str
    admin: bool
    cookie: str
    guided: bool  # has closed the guidelines once

    @property
    def csrf(self) -> str:
        """The token that each of this visit's POSTs must carry."""
        return hmac.new(self.cookie.encode(), b"csrf", "sha256").hexdigest()


def fingerprint(token: str) -> str:
    """What the database keeps of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def ensure(engine: Engine, name: str, admin: bool = False) -> int:
    """The id of the person called ``name``, who is added when new. Raises UserError when the name cannot be
    one."""
    name = name.strip()
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise UserError(f"{name[:80]!r} cannot be a person's name: 1 to {LONGEST_NAME} printable characters.")
    with writing(engine).begin() as db:
        found = db.execute(select(person.c.id, person.c.admin).where(person.c.name == name)).first()
        if found:
            if bool(found.admin) != admin:
                raise UserError(
                    f"{name!r} is the {'admin' if found.admin else 'name of an annotator'}. Choose another "
                    "name."
                )
            return int(found.id)
        values = {"name": name, "admin": int(admin), "created": clock()}
        return int(db.execute(person.insert().values(values).returning(person.c.id)).scalar_one())


def new_link(engine: Engine, person_id: int, restore: bool = False) -> str | None:
    """A new link's token, or None for a person whose links were taken back (unless ``restore``)."""
    token = secrets.token_urlsafe(32)
    with writing(engine).begin() as db:
        if restore:
            db.execute(update(person).where(person.c.id == person_id).values(revoked=None))
        elif db.execute(select(person.c.revoked).where(person.c.id == person_id)).scalar() is not None:
            return None
        db.execute(link.insert().values(hash=fingerprint(token), person_id=person_id, created=clock()))
    return token


def take_back(engine: Engine, person_id: int) -> None:
    """End a person's links and visits, and return what the person holds or was to do. What was submitted
    stays."""
    with writing(engine).begin() as db:
        db.execute(
            update(person).where(person.c.id == person_id, person.c.admin == 0).values(revoked=clock())
        )
        for table in (link, visit):
            db.execute(
                delete(table).where(
                    table.c.person_id.in_(
                        select(person.c.id).where(person.c.id == person_id, person.c.revoked.is_not(None))
                    )
                )
            )
        db.execute(
            update(slot)
            .where(slot.c.person_id == person_id, slot.c.state == HELD)
            .values(state=OPEN, person_id=None, expires=None)
        )
        db.execute(
            update(slot)
            .where(slot.c.assigned == person_id, slot.c.state == OPEN, slot.c.place > 0)
            .values(assigned=None)
        )


def holder(engine: Engine, token: str) -> Row | None:
    """Whose link this is (``id``, ``name``), or None when there is no such link. Makes no visit."""
    with engine.connect() as db:
        return db.execute(
            select(person.c.id, person.c.name)
            .join(link, link.c.person_id == person.c.id)
            .where(link.c.hash == fingerprint(token))
        ).first()


def enter(engine: Engine, token: str) -> str | None:
    """Open a link: the new visit's cookie, or None when there is no such link."""
    cookie = secrets.token_urlsafe(32)
    with writing(engine).begin() as db:
        found = db.execute(select(link.c.person_id).where(link.c.hash == fingerprint(token))).scalar()
        if found is None:
            return None
        db.execute(delete(visit).where(visit.c.expires < clock()))
        db.execute(visit.insert().values(hash=fingerprint(cookie), person_id=found, expires=clock() + STAY))
    return cookie


def visitor(engine: Engine, cookie: str | None) -> Person | None:
    """Whose cookie this is, or None."""
    if not cookie:
        return None
    with engine.connect() as db:
        found = db.execute(
            select(person.c.id, person.c.name, person.c.admin, person.c.guided)
            .join(visit, visit.c.person_id == person.c.id)
            .where(visit.c.hash == fingerprint(cookie), visit.c.expires > clock(), person.c.revoked.is_(None))
        ).first()
    if found is None:
        return None
    return Person(found.id, found.name, bool(found.admin), cookie, found.guided is not None)


def everyone(engine: Engine) -> list[Row]:
    """The annotators, by name: ``id``, ``name``, ``revoked``, ``links``."""
    with engine.connect() as db:
        links = select(func.count()).where(link.c.person_id == person.c.id).scalar_subquery()
        return list(
            db.execute(
                select(person.c.id, person.c.name, person.c.revoked, links.label("links"))
                .where(person.c.admin == 0)
                .order_by(person.c.name)
            )
        )
