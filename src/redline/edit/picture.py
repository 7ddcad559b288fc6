"""The statistics of edits as a picture: an SVG file that stands alone and follows the viewer's light or dark
mode."""

from html import escape

from redline.edit.stats import BIN, KINDS, Group, Statistics

WIDTH, LEFT, PLOT = 720, 56, 180  # pixels: the picture, its left margin, the histogram's height
STYLE = """<style>
svg { font: 13px system-ui, sans-serif; background: #ffffff } text { fill: #1c1c1e } line { stroke: #8a8a8e }
.small { font-size: 11px } .head { font-weight: 600 } .edits { fill: #4a6fa5 } .kept { fill: #b9bec6 }
.substituted { fill: #8e5ea2 } .deleted { fill: #b3392f } .inserted { fill: #2f7d4f }
@media (prefers-color-scheme: dark) {
  svg { background: #1c1c1e } text { fill: #f2f2f7 } .edits { fill: #7aa2dc } .kept { fill: #62666d }
}
</style>"""


def picture(figures: Statistics, title: str) -> str:
    """The histogram of edit ratios, and under it what happened to the words of each editor's edits."""
    groups = list(figures.by_editor.items())[:12]
    height = PLOT + 130 + 34 * len(groups)
    head = f"{title}: {figures.all.edits} edits, median edit ratio {figures.all.median:.2f}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 '
            f'{WIDTH} {height}" role="img">',
            f"<title>{escape(head)}</title>",
            STYLE,
            _text(LEFT, 24, head, "head"),
            *_histogram(figures.all.histogram()),
            *_legend(PLOT + 96),
            *(line for row, (editor, group) in enumerate(groups) for line in _words(editor, group, row)),
            "</svg>\n",
        ]
    )


def _histogram(counts: list[int]) -> list[str]:
    bottom, width, most = PLOT + 40, (WIDTH - LEFT - 24) / len(counts), max([*counts, 1])
    out = [f'<line x1="{LEFT}" y1="{bottom}" x2="{WIDTH - 24}" y2="{bottom}"/>']
    out.append(_text(WIDTH - 24, bottom + 34, "edit ratio", "small", "end"))
    for place, count in enumerate(counts):
        x, tall = LEFT + place * width, (PLOT - 20) * count / most
        out.append(
            f'<rect class="edits" x="{x + 1:.1f}" y="{bottom - tall:.1f}" width="{width - 2:.1f}" '
            f'height="{tall:.1f}">'
            f"<title>{place * BIN:.2f} to {(place + 1) * BIN:.2f}: {count} edits</title></rect>"
        )
        if count:
            out.append(_text(x + width / 2, bottom - tall - 4, str(count), "small", "middle"))
        if place % 2 == 0:
            out.append(_text(x, bottom + 16, f"{place * BIN:.1f}", "small", "middle"))
    return [*out, _text(WIDTH - 24, bottom + 16, "1.0", "small", "middle")]


def _legend(y: float) -> list[str]:
    out, x = [_text(LEFT, y, "Words", "head")], LEFT + 70
    for kind in KINDS:
        out += [f'<rect class="{kind}" x="{x}" y="{y - 10}" width="11" height="11"/>', _text(x + 16, y, kind)]
        x += 110
    return out


def _words(editor: str, group: Group, row: int) -> list[str]:
    y, total, x = PLOT + 112 + 34 * row, max(1, group.words.total()), float(LEFT)
    out = [_text(LEFT, y + 11, f"{editor[:60]} ({group.edits} edits)", "small")]
    for kind in KINDS:
        width = (WIDTH - LEFT - 24) * group.words[kind] / total
        out.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{y + 15}" width="{width:.1f}" height="12">'
            f"<title>{group.words[kind]:,} words {kind}</title></rect>"
        )
        x += width
    return out


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'
