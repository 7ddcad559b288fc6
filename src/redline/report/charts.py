"""Charts as inline SVG, written by hand: they take their colours from the page's style and need no script."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup, escape

WIDTH, HEIGHT = 340, 190  # of a chart, in units that are about a pixel wherever it is shown
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 34
MOST_POINTS = 240  # of a curve; a longer one is drawn by the means of equal parts
MOST_DOTS = 60  # measurements of a curve that are drawn as dots, too
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """A curve: ``style`` is main, second, third or guide (dashed); ``sizes`` draws dots of these areas
    instead."""

    name: str
    points: Sequence[Point]
    style: str = "main"
    sizes: Sequence[float] | None = None


def number(value: object, digits: int = 3, signed: bool = False) -> str:
    """A number to some significant digits, with thousands separated and a true minus sign; a dash when there
    is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "–"
    sign = "+" if signed and value else ""
    if value == 0 or isinstance(value, int):
        text = f"{value:{sign},.0f}"
    elif abs(value) < 1e-4 or abs(value) >= 1e7:
        mantissa, _, power = f"{value:{sign}.1e}".partition("e")
        text = f"{mantissa} × 10{str(int(power)).translate(SUPERSCRIPTS)}"
    else:
        places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:{sign},.{places}f}"
    return text.replace("-", "−")


def percent(share: object, places: int = 1) -> str:
    """A share from 0 to 1 as per cent."""
    if not isinstance(share, int | float) or not math.isfinite(share):
        return "–"
    return f"{100 * share:.{places}f}\u00a0%"


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """About ``count`` round numbers (1, 2 or 5 times a power of ten apart) from at most ``low`` to at least
    ``high``."""
    rough = (high - low) / count or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, max(last, first + 1) + 1)]


def line_chart(
    title: str,
    unit: str,
    series: Sequence[Series],
    x_label: str = "update",
    y_range: tuple[float, float] | None = None,
    x_range: tuple[float, float] | None = None,
    mark: float | None = None,
) -> Markup:
    """A figure with curves over a common x; empty when no curve has a point. ``mark`` draws a vertical line
    at an x.

    Values that are not finite are left out. A single curve's last value stands beside the title.
    """
    drawn = []
    points: list[Point] = []
    for curve in series:
        curve = replace(curve, points=thin(finite(curve.points)))
        if curve.points:
            drawn.append(curve)
            points += curve.points
    if not drawn:
        return Markup("")
    x_low, x_high = x_range or _x_range([x for x, _ in points])
    if x_high <= x_low:
        x_high = x_low + 1
    y_ticks = ticks(*(y_range or _padded([y for _, y in points])))
    frame = Frame((x_low, x_high), (y_ticks[0], y_ticks[-1]))
    x_ticks = ticks(x_low, x_high)
    if all(x == int(x) for x, _ in points):  # updates and rounds: there is no half of one
        x_ticks = [tick for tick in x_ticks if tick == int(tick)]
    parts = [frame.axes(y_ticks, x_ticks, x_label)]
    if mark is not None:
        parts.append(
            f'<line class="mark" x1="{frame.at_x(mark):.1f}" x2="{frame.at_x(mark):.1f}" y1="{TOP}" '
            f'y2="{HEIGHT - BOTTOM}"/>'
        )
    keys = Markup("")
    for curve in drawn:
        parts.append(_dots(curve, frame) if curve.sizes else _curve(curve, frame, x_label))
        if curve.name:
            keys += Markup('<span class="key {}">{}</span>').format(curve.style, curve.name)
    curves = [curve for curve in drawn if curve.style != "guide"]
    last = ""
    if len(curves) == 1 and not curves[0].sizes:
        last = f"last {number(curves[0].points[-1][1])}"
    return _figure(title, unit, last, keys, parts)


def histogram(title: str, x_label: str, counts: Sequence[int], width: float, what: str) -> Markup:
    """Bars of ``counts`` of ``what`` in bins of ``width`` from 0, of ``x_label``; empty bins at the end are
    left out."""
    shown = list(counts)
    while shown and not shown[-1]:
        shown.pop()
    if not shown:
        return Markup("")
    y_ticks = ticks(0, max(shown))
    frame = Frame((0, len(shown) * width), (0, y_ticks[-1]))
    parts = [frame.axes(y_ticks, ticks(0, frame.x[1]), x_label)]
    for place, count in enumerate(shown):
        left = frame.at_x(place * width) + 1
        right = frame.at_x((place + 1) * width) - 1
        top = frame.at_y(count)
        parts.append(
            f'<rect class="bar" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{HEIGHT - BOTTOM - top:.1f}">'
            f"<title>{number(place * width)} to {number((place + 1) * width)}: {count:,} "
            f"{escape(what)}</title></rect>"
        )
    return _figure(title, f"number of {what}", "", Markup(""), parts)


def interval(value: float, low: float, high: float) -> Markup:
    """A win rate and its interval on the line from 0 to 100 %, with the half marked."""
    width, left, right, y = 400, 22, 378, 30  # room for "100%" in wide fonts

    def at(share: float) -> float:
        return left + (right - left) * share

    labels = ""
    for share in (0, 0.25, 0.5, 0.75, 1):
        labels += (
            f'<line class="grid" x1="{at(share):.1f}" x2="{at(share):.1f}" y1="{y - 5}" y2="{y + 5}"/>'
            f'<text class="tick" x="{at(share):.1f}" y="{y + 24}" text-anchor="middle">{share:.0%}</text>'
        )
    return Markup(  # noqa: S704 (numbers only)
        f'<svg class="interval" viewBox="0 0 {width} 62" role="img" aria-label="win rate {percent(value)}, '
        "95 % interval "
        f'{percent(low)} to {percent(high)}"><line class="axis" x1="{left}" x2="{right}" y1="{y}" '
        f'y2="{y}"/>{labels}'
        f'<line class="half" x1="{at(0.5)}" x2="{at(0.5)}" y1="8" y2="{y + 10}"/>'
        f'<rect class="band" x="{at(low):.1f}" y="{y - 7}" width="{max(at(high) - at(low), 1):.1f}" '
        'height="14" rx="7"/>'
        f'<circle class="point" cx="{at(value):.1f}" cy="{y}" r="6"/></svg>'
    )


def share_bar(parts: Sequence[tuple[str, str, float]], unit: str = "") -> Markup:
    """A bar split among ``(class, name, amount)`` with its legend; empty when all amounts are 0."""
    total = sum(amount for *_, amount in parts)
    x = 0.0
    boxes, keys = [], []
    if not total:
        return Markup("")
    for kind, name, amount in parts:
        width = 600 * amount / total
        boxes.append(
            Markup(
                '<rect class="{}" x="{:.2f}" y="0" width="{:.2f}" height="14"><title>{}: {}{}</title></rect>'
            ).format(kind, x, max(width - 1.5, 0.5) if amount else 0, name, number(amount), unit)
        )
        keys.append(
            Markup('<span class="key {}">{} <b>{}{}</b> <small>{}</small></span>').format(
                kind, name, number(amount), unit, percent(amount / total, 0)
            )
        )
        x += width
    return Markup(
        '<div class="shares"><svg viewBox="0 0 600 14" preserveAspectRatio="none" '
        'aria-hidden="true">{}</svg><p>{}</p></div>'
    ).format(Markup("").join(boxes), Markup(" ").join(keys))


@dataclass(frozen=True)
class Frame:
    """The plot's area and the ranges ``(low, high)`` of its axes."""

    x: tuple[float, float]
    y: tuple[float, float]

    def at_x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - self.x[0]) / (self.x[1] - self.x[0])

    def at_y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - self.y[0]) / (self.y[1] - self.y[0])

    def axes(self, y_ticks: Sequence[float], x_ticks: Sequence[float], x_label: str) -> str:
        """Grid, tick labels, and the name of the x axis at its end."""
        digits = max(1, *(len(f"{tick:g}".lstrip("-0.").replace(".", "")) for tick in y_ticks))
        out = []
        for tick in y_ticks:
            kind = "zero" if tick == 0 else "grid"
            y = self.at_y(tick)
            out.append(
                f'<line class="{kind}" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text class="tick" x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">'
                f"{_tick_label(float(tick), digits)}</text>"
            )
        for tick in x_ticks:
            if self.x[0] <= tick <= self.x[1]:
                out.append(
                    f'<text class="tick" x="{self.at_x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" '
                    f'text-anchor="middle">{tick:,g}</text>'
                )
        out.append(
            f'<text class="tick label" x="{WIDTH - RIGHT}" y="{HEIGHT - 3}" '
            f'text-anchor="end">{escape(x_label)}</text>'
        )
        return "".join(out)


def finite(points: Sequence[Point]) -> list[Point]:
    """The points whose two values are finite numbers."""
    finite_points = []
    for x, y in points:
        if isinstance(y, int | float) and math.isfinite(x) and math.isfinite(y):
            finite_points.append((x, y))
    return finite_points


def thin(points: Sequence[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most ``most`` points: the means of equal parts, the last point kept as it is."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / (most - 1))
    means = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        mean_x = sum(x for x, _ in part) / len(part)
        mean_y = sum(y for _, y in part) / len(part)
        means.append((mean_x, mean_y))
    return [*means[:-1], points[-1]]


def _x_range(values: Sequence[float]) -> tuple[float, float]:
    """The range of an x axis: it begins at 0, unless all values lie far from there."""
    low, high = min(values), max(values)
    if low <= 0.3 * high:
        low = min(0.0, low)
    return low, high


def _padded(values: Sequence[float]) -> tuple[float, float]:
    """A range to draw: values that do not move get some room around them."""
    low, high = min(values), max(values)
    if -0.05 * (high - low) < low < 0:  # noise around 0, such as a KL's, needs no room of its own
        low = 0.0
    if high - low > 1e-9 * max(1.0, abs(high)):
        return low, high
    return low - (abs(low) * 0.5 or 0.5), high + (abs(high) * 0.5 or 0.5)


def _curve(curve: Series, frame: Frame, x_label: str) -> str:
    """A curve, a dot at each of its measurements where there are few, and places to point at for their
    numbers."""
    low, high = frame.y
    places = [(frame.at_x(x), frame.at_y(min(max(y, low), high))) for x, y in curve.points]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    drawn = [f'<path class="curve {curve.style}" d="{path}"/>']
    if curve.style == "guide":
        return drawn[0]
    if len(places) <= MOST_DOTS:
        for x, y in places:
            drawn.append(f'<circle class="value {curve.style}" cx="{x:.1f}" cy="{y:.1f}" r="2.2"/>')
    step = max(1, math.ceil(len(places) / MOST_DOTS))
    for (x, y), (place, value) in list(zip(places, curve.points, strict=True))[::-step]:
        drawn.append(
            f'<circle class="hit {curve.style}" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>'
            f"{escape(x_label)} {number(place)}: {number(float(value), 4)}</title></circle>"
        )
    return "".join(drawn)


def _dots(curve: Series, frame: Frame) -> str:
    """A dot for each point, whose area is its size."""
    sizes = curve.sizes or []
    largest = max(sizes) or 1
    drawn = ""
    for (x, y), size in zip(curve.points, sizes, strict=True):
        radius = 2.5 + 5.5 * math.sqrt(size / largest)
        drawn += (
            f'<circle class="dot {curve.style}" cx="{frame.at_x(x):.1f}" cy="{frame.at_y(y):.1f}" '
            f'r="{radius:.1f}"><title>predicted {number(float(x))}, observed {number(float(y))}, '
            f"{size:,} tokens</title></circle>"
        )
    return drawn


def _figure(title: str, unit: str, last: str, keys: Markup, parts: Sequence[str]) -> Markup:
    return Markup(
        '<figure class="chart"><figcaption><b>{}</b> <span class="unit">{}</span><span '
        'class="last">{}</span></figcaption>{}'
        '<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg></figure>'
    ).format(
        title,
        unit,
        last,
        Markup('<p class="keys">{}</p>').format(keys) if keys else "",
        WIDTH,
        HEIGHT,
        f"{title} ({unit}) {last}",
        Markup("".join(parts)),  # noqa: S704 (every text in parts is escaped where it is put in)
    )


def _tick_label(tick: float, digits: int) -> str:
    """A tick's number: plain where that is short, else with ``digits`` digits and an exponent."""
    if 1e-4 <= abs(tick) < 1e7:
        return f"{tick:,g}".replace("-", "−")
    return number(tick, digits)
