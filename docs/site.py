"""What `make docs` does to the pages on their way into the site."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """README is the first page. A link to a file outside of docs/ becomes plain text."""
    if page.file.src_uri == "index.md":
        markdown = (ROOT / "README.md").read_text(encoding="utf-8").replace("](docs/", "](")
        return re.sub(r"\[([^\]]*)\]\((?!https?:)[A-Z]+(\.md)?\)", r"\1", markdown)
    return re.sub(r"\[([^\]]*)\]\(\.\./[^)]*\)", r"\1", markdown)
