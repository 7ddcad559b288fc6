"""The page of a run: one HTML file that opens from disk, with no script and nothing from any other host."""

import base64
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from redline import __version__
from redline.data.files import whole_file
from redline.data.show import visible
from redline.report import result
from redline.report.cards import write_cards
from redline.report.folder import RunFolder
from redline.report.section_data import data
from redline.report.section_policy import policy
from redline.report.section_reward import reward
from redline.report.section_run import setup
from redline.report.when import dates_and_machines
from redline.types import Json

HERE = Path(__file__).parent


def write_report(run: Path) -> Path:
    """Write RUN/report.html and return its path; also the model cards (see ``cards``).

    Stages that were not run leave their section out, with a line that says so.
    Raises UserError when ``run`` is not the folder of a run, or when a file in it is broken.
    """
    folder = RunFolder(run)
    page = folder.files.report
    html = build_page(folder)
    with whole_file(page) as out:
        out.write(html)
    write_cards(folder.path)
    return page


def build_page(run: RunFolder) -> str:
    """The page as text.

    Whatever models or people wrote is escaped, control characters are shown as signs; the page's policy
    forbids scripts, and any style but its own.
    """
    return render(
        "page.html",
        name=run.name,
        folder=run.path.resolve().name,
        when=dates_and_machines([run.files]),
        setup=setup(run),
        data=data(run),
        reward=reward(run),
        policy=policy(run),
        result=result.result(run),
        comparison=result.comparison(run),
    )


def render(template: str, **values: Json) -> str:
    """A page from one of the templates here, with the style, its digest for the page's policy, and the
    version.

    Texts are escaped, and their control characters shown as signs.
    """
    style = (HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        loader=jinja2.FileSystemLoader(HERE),
    )
    return environment.get_template(template).render(
        version=__version__,
        style=Markup(style),  # noqa: S704 (our own file)
        style_hash=digest,
        **values,
    )


def _shown(value: Json) -> Any:
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value
