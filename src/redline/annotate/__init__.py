"""The web app in which people edit responses, or compare them blind.

A request's way: ``app`` (routes) -> ``security`` (who, from where) -> ``work`` (hand-out, drafts,
submissions) -> ``schema`` (tables). ``intake`` fills the database, ``export`` empties it, ``progress`` and
``agreement`` say how it goes. Pages: templates/ and static/.
"""

from importlib.util import find_spec

from redline.errors import UserError

NEEDED = {
    "starlette": "starlette",
    "uvicorn": "uvicorn",
    "sqlalchemy": "sqlalchemy",
    "markdown_it": "markdown-it-py",
    "krippendorff": "krippendorff",
}  # the extra [web]: modules, and the packages they come in
if missing := [package for module, package in NEEDED.items() if not find_spec(module)]:
    raise UserError(
        f"annotate and export need packages that are not installed. Run: pip install {' '.join(missing)}"
    )
