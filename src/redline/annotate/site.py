"""What the handlers of all pages share."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.templating import Jinja2Templates

from redline.annotate import work


@dataclass
class Site:
    """What the handlers share."""

    engine: Engine
    templates: Jinja2Templates
    project: work.Project
    url: str | None  # the address people use, where a proxy stands in front: scheme and host

    @property
    def cookie(self) -> str:
        # cookies do not tell ports apart: two projects on one host must not collide
        return f"redline_{self.project.uid}"

    def page(self, request: Request, name: str, status: int = 200, **values: Any) -> Response:
        return self.templates.TemplateResponse(
            request, name, {"project": self.project, **values}, status_code=status
        )
