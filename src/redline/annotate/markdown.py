"""Markdown to HTML that is safe to show: no HTML of the author's, no pictures, no links but http, https and
mailto."""

from functools import cache
from urllib.parse import urlsplit

from markdown_it import MarkdownIt
from markupsafe import Markup, escape

LONGEST = (
    20_000  # characters; what is longer is shown as plain text, because rendering would hold the page up
)


@cache
def _renderer() -> MarkdownIt:
    renderer = MarkdownIt("commonmark", {"html": False, "breaks": True, "maxNesting": 30}).enable(
        ["table", "strikethrough"]
    )
    renderer.disable(["image", "html_inline", "html_block"])  # a picture would load from another host
    renderer.validateLink = _harmless  # type: ignore[method-assign]
    renderer.add_render_rule("link_open", _link)
    return renderer


def _harmless(url: str) -> bool:
    try:
        return urlsplit(url.strip()).scheme.lower() in ("http", "https", "mailto")
    except ValueError:
        return False


def _link(self, tokens, index, options, env) -> str:  # type: ignore[no-untyped-def]
    tokens[index].attrSet("rel", "noopener noreferrer nofollow")
    tokens[index].attrSet("target", "_blank")
    return self.renderToken(tokens, index, options, env)


def render(text: str) -> Markup:
    """HTML of ``text``; everything in it that is not plain Markdown is shown as it is written."""
    if len(text) > LONGEST:
        return Markup("<pre>") + escape(text) + Markup("</pre>")
    return Markup(_renderer().render(text))  # noqa: S704 (the renderer escapes)
