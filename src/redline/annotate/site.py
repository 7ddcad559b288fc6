"""What the handlers of all pages share."""

import time
from dataclasses import dataclass, field

from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from redline.annotate import people, work
from redline.annotate.people import Person
from redline.types import Json, JsonObject

KEEP_LINK = 3600.0  # seconds that a new link can be seen by the lead who made it


@dataclass(frozen=True)
class MadeLink:
    """A link that the lead has made, and when; it is nowhere but in this process's memory."""

    name: str
    address: str
    at: float


@dataclass
class Site:
    """What the handlers share."""

    engine: Engine
    templates: Jinja2Templates
    project: work.Project
    url: str | None  # the address people use, where a proxy stands in front: scheme and host
    made: dict[str, list[MadeLink]] = field(default_factory=dict)  # by the fingerprint of the lead's cookie

    @property
    def cookie(self) -> str:
        # cookies do not tell ports apart: two projects on one host must not collide
        return f"redline_{self.project.uid}"

    def page(self, request: Request, template: str, status: int = 200, **values: Json) -> Response:
        """A page from its template."""
        return self.templates.TemplateResponse(
            request,
            template,
            {"project": self.project, "nonce": request.state.nonce, **values},
            status_code=status,
        )

    def visit(self, person: Person) -> JsonObject:
        """What the scripts of a person's every page need to send something."""
        return {"uid": self.project.uid, "who": person.id, "name": person.name, "csrf": person.csrf}

    def keep_link(self, person: Person, name: str, address: str) -> None:
        """Remember a new link for its maker, so that a reload shows it again."""
        links = [link for link in self.made_links(person) if link.name != name]
        self.made[people.fingerprint(person.cookie)] = [*links, MadeLink(name, address, time.time())]

    def made_links(self, person: Person) -> list[MadeLink]:
        """The links that this lead made within the last hour and has not put away."""
        links = self.made.get(people.fingerprint(person.cookie), [])
        return [link for link in links if link.at > time.time() - KEEP_LINK]

    def forget_links(self, person: Person) -> None:
        """Put the new links away."""
        self.made.pop(people.fingerprint(person.cookie), None)
