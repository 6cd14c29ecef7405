"""The plots of a report as SVG: bars, lines, points, and the interval of an effect.

Colours are classes of the page's style, so that a plot is light or dark as the page is; whatever is
told by a colour is told by a shape or a word, too. Every text is escaped by markupsafe.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from markupsafe import Markup

from mlflow_exec.evaluation.report_words import Effect, cut, number, readable

_WIDTH = 560
_CHAR = 7.2  # of the page's 12 px, as wide as most bold letters are
_MOST_SERIES = 6
_MOST_BARS = 40
_MOST_NAME = 30  # characters
_TIME = re.compile(r"(?<=\d{4}-\d\d-\d\d) \d\d:\d\d:\d\d")
_MOST_POINTS = 400
_MOST, _LEAST = 1e300, 1e-290  # beyond them differences are infinite, or no more than rounding


class _Scale(NamedTuple):
    """From values to pixels."""

    low: float
    high: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.begin + share * (self.end - self.begin), 1)


def plot_svg(plot: dict[str, Any], identity: str) -> Markup:
    """Return a plot, or nothing where it has no numbers.

    Args:
        plot: As JSON has it.
        identity: Unique in the page.
    """
    series = dict(list(plot["series"].items())[:_MOST_SERIES])
    values = [v for ys in series.values() for v in ys if v is not None]
    places = [x for x in [*plot["x"], plot["reference"]] if isinstance(x, (int, float))]
    if not values or max(map(abs, [*values, *places])) > _MOST:
        return Markup("")
    if plot["kind"] != "bars" and all(x is None for x in plot["x"]):
        return Markup("")
    draw = _bars if plot["kind"] == "bars" else _curves
    height, parts = draw(plot, series, values)
    return _picture(_WIDTH, height, identity, _told(plot, series), parts)


def legend(plot: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what a plot's marks mean: the class of the mark, and words."""
    marks = []
    names = list(plot["series"])[:_MOST_SERIES]
    bars = plot["kind"] == "bars"
    if len(names) > 1:
        marks = [(f"{'bar' if bars else 'curve'} s{n}", cut(name)) for n, name in enumerate(names)]
    elif plot["highlighted"]:
        marks = [("bar s0", "other rows") if bars else ("dot s0", cut(names[0]))]
    if plot["highlighted"]:
        mark = "dot hot" if not bars else "bar hot" if len(names) == 1 else "ring"
        marks.insert(0, (mark, "of this finding"))
    if plot["reference"] is not None:
        marks.append(("rule", f"for comparison: {number(plot['reference'])}"))
    return marks


def effect_svg(effect: Effect, identity: str) -> Markup:
    """Return the interval of an effect on a line, with no effect (0) where it is one."""
    around = [effect.low, effect.high, *([0.0] if effect.is_difference or effect.unit else [])]
    if effect.value is not None:
        around.append(effect.value)
    scale = _Scale(*_widened(min(around), max(around), 0.12), 8, 332)
    left, right = scale(effect.low), scale(effect.high)
    parts = [_tag("line", x1=8, x2=332, y1=18, y2=18, class_="axis")]
    if 0.0 in around:
        zero = scale(0.0)
        words = "no difference" if effect.is_difference else "0"
        anchor = "start" if zero < 110 else "end" if zero > 230 else "middle"
        parts.append(_tag("line", x1=zero, x2=zero, y1=6, y2=30, class_="axis"))
        parts.append(_text(zero, 44, words, anchor, "soft"))
    parts.append(_tag("rect", x=left, y=13, width=max(right - left, 2), height=10, rx=3,
                      class_="interval"))  # fmt: skip
    if effect.value is not None:
        parts.append(_tag("circle", cx=scale(effect.value), cy=18, r=5.5, class_="point hot"))
    told = f"Interval from {effect.shown(effect.low)} to {effect.shown(effect.high)} {effect.unit}"
    return _picture(340, 50, identity, ("The effect and its interval", told), parts)


def _bars(
    plot: dict[str, Any], series: dict[str, list[float | None]], values: list[float]
) -> tuple[float, list[Markup]]:
    """Lying bars: their names have room, and a narrow page shows them all."""
    shown = _shown_bars(plot)
    names = _names([_label(plot["x"][n]) for n in shown])
    reference = plot["reference"]
    known = [0.0, *values, *([] if reference is None else [reference])]
    begin = min(max(len(name) for name in names) * _CHAR, 216) + 14
    scale = _Scale(*_widened(min(known), max(known), 0.0), begin, _WIDTH - 64)
    step = max(9 * len(series), min(26, 420 / len(shown))) + 2
    bottom = 26 + step * len(shown)
    parts = [_text(0, 13, readable(plot["x_title"], 70), class_="title")]
    parts += _columns(scale, 22, bottom, cut(plot["y_title"], 48))
    labels = []
    thick = (step - 4) / len(series)
    every = max(1, math.ceil(13 / step))
    for row, n in enumerate(shown):
        top, hot = 24 + row * step, n in plot["highlighted"]
        if row % every == 0 or hot:
            parts.append(_text(begin - 8, top + step / 2 + 2, names[row], "end",
                               "strong" if hot else ""))  # fmt: skip
        for k, ys in enumerate(series.values()):
            class_ = "bar hot" if hot and len(series) == 1 else f"bar s{k}"
            bar, label = _bar(scale, ys[n], top + k * thick, thick - 1, class_)
            parts.append(bar)
            labels += [label] if row % every == 0 else []
        if hot and len(series) > 1:
            parts.append(_tag("rect", x=begin, y=_short(top - 1), width=_short(_WIDTH - begin),
                              height=_short(step - 2), class_="ring"))  # fmt: skip
    if reference is not None:
        at = scale(reference)
        parts.append(_tag("line", x1=at, x2=at, y1=20, y2=_short(bottom), class_="rule"))
    return bottom + 38, parts + labels


def _names(labels: list[str]) -> list[str]:
    """Return the names of bars so short that they have room: of times the days, if that will do."""
    if max(map(len, labels)) > _MOST_NAME:
        days = [_TIME.sub("", label) for label in labels]
        labels = days if len(set(days)) == len(labels) else labels
    return [cut(label, _MOST_NAME) for label in labels]


def _shown_bars(plot: dict[str, Any]) -> list[int]:
    """Return the positions to draw: of too many those of the finding, and the first."""
    positions = range(len(plot["x"]))
    if len(positions) <= _MOST_BARS:
        return list(positions)
    hot = [n for n in plot["highlighted"] if n in positions][:_MOST_BARS]
    others = [n for n in positions if n not in set(hot)]
    return sorted([*hot, *others[: _MOST_BARS - len(hot)]])


def _bar(
    scale: _Scale, value: float | None, top: float, thick: float, class_: str
) -> tuple[Markup, Markup]:
    """Return a bar and its value in words."""
    zero, middle = scale(0.0), top + thick / 2 + 4
    if value is None:
        return Markup(""), _text(zero + 5, middle, "no rows", class_="value soft")
    end = scale(value)
    bar = _tag("rect", x=min(zero, end), y=_short(top), width=_short(max(abs(end - zero), 1)),
               height=_short(thick), rx=2, class_=class_)  # fmt: skip
    if thick < 7:
        return bar, Markup("")
    return bar, _text(max(zero, end) + 5, middle, number(float(f"{value:.3g}")), class_="value")


def _curves(
    plot: dict[str, Any], series: dict[str, list[float | None]], values: list[float]
) -> tuple[float, list[Markup]]:
    """Lines or points over numbers; texts on the x axis stand at equal distances."""
    labels = None
    if not all(isinstance(x, (int, float)) for x in plot["x"] if x is not None):
        labels = [cut(_label(x), 12) for x in plot["x"]]
    xs = [float(n) if labels else x for n, x in enumerate(plot["x"])]
    known = [x for x in xs if x is not None]
    reference = plot["reference"]
    ys = [*values, *([] if reference is None else [reference])]
    low, high = _widened(min(ys), max(ys), 0.06)
    upright = _Scale(low, high, 260, 30)
    ticks = _ticks(low, high)
    begin = max(len(number(t)) for t in ticks) * _CHAR + 12
    across = _Scale(*_widened(min(known), max(known), 0.02), begin + 6, _WIDTH - 14)
    parts = [_text(0, 13, cut(plot["y_title"], 70), class_="title")]
    for tick in ticks:
        y = upright(tick)
        parts.append(_tag("line", x1=_short(begin), x2=_WIDTH - 8, y1=y, y2=y, class_="grid"))
        parts.append(_text(begin - 6, y + 4, number(tick), "end"))
    parts += _feet(across, 262, labels, cut(plot["x_title"], 70))
    if reference is not None:
        y = upright(reference)
        parts.append(_tag("line", x1=_short(begin), x2=_WIDTH - 8, y1=y, y2=y, class_="rule"))
    for k, of_series in enumerate(series.values()):
        points = [None if x is None or y is None else (across(x), upright(y))
                  for x, y in zip(xs, of_series, strict=False)]  # fmt: skip
        draw = _line if plot["kind"] == "line" else _points
        parts += draw(points, k, plot["highlighted"])
    return 306, parts


_Points = list[tuple[float, float] | None]


def _line(points: _Points, k: int, highlighted: list[int]) -> list[Markup]:
    """A line with gaps where values are missing, and the points themselves where they are few."""
    path, is_on = "", False
    for point in points:
        if point is not None:
            path += f"{'L' if is_on else 'M'}{point[0]:g} {point[1]:g}"
        is_on = point is not None
    parts = [_tag("path", d=path, class_=f"curve s{k}")]
    if len(points) <= 30:
        parts.append(_tag("path", d=_dots(points, range(len(points))), class_=f"dots s{k}"))
    return parts + _hot(points, highlighted)


def _points(points: _Points, k: int, highlighted: list[int]) -> list[Markup]:
    """One path for all points: a line of no length with round ends is a dot."""
    every = max(1, math.ceil(len(points) / _MOST_POINTS))
    dots = _dots(points, range(0, len(points), every))
    return [_tag("path", d=dots, class_=f"dots cloud s{k}"), *_hot(points, highlighted)]


def _dots(points: _Points, positions: Iterable[int]) -> str:
    there = [points[n] for n in positions]
    return "".join(f"M{point[0]:g} {point[1]:g}h0" for point in there if point is not None)


def _hot(points: _Points, highlighted: list[int]) -> list[Markup]:
    there = [points[n] for n in highlighted[:_MOST_POINTS] if n < len(points)]
    return [
        _tag("circle", cx=p[0], cy=p[1], r=5.5, class_="point hot") for p in there if p is not None
    ]


def _columns(scale: _Scale, top: float, bottom: float, title: str) -> list[Markup]:
    """Upright lines at round values, the values below, and what they are."""
    parts = []
    for tick in _ticks(scale.low, scale.high):
        at = scale(tick)
        kind = "grid" if tick else "axis"
        parts.append(_tag("line", x1=at, x2=at, y1=top, y2=_short(bottom), class_=kind))
        parts.append(_text(at, bottom + 14, number(tick), "middle"))
    return [*parts, _text((scale.begin + scale.end) / 2, bottom + 31, title, "middle", "title")]


def _feet(scale: _Scale, y: float, labels: list[str] | None, title: str) -> list[Markup]:
    """The x axis with its values."""
    parts = [_tag("line", x1=scale.begin - 6, x2=_WIDTH - 8, y1=y, y2=y, class_="axis")]
    if labels is None:
        marks = [(tick, number(tick)) for tick in _ticks(scale.low, scale.high, 7)]
    else:
        every = math.ceil(len(labels) / 6)
        marks = [(float(n), labels[n]) for n in range(0, len(labels), every)]
    for at, words in marks:
        parts.append(_text(scale(at), y + 16, words, "middle"))
    return [*parts, _text((scale.begin + scale.end) / 2, y + 34, title, "middle", "title")]


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round values between two others, about so many."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= raw * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{n * step:.12g}") for n in range(first, last + 1)]


def _widened(low: float, high: float, share: float) -> tuple[float, float]:
    """Return a range with some room at its ends, which is never empty."""
    if high - low <= max(1e-12 * abs(low), 1e-12 * abs(high), _LEAST):
        room = abs(low) / 2 or 1.0
        return low - room * (low != 0), high + room
    return low - share * (high - low), high + share * (high - low)


def _told(plot: dict[str, Any], series: dict[str, list[float | None]]) -> tuple[str, str]:
    """Return a plot's title, and in words what is to be seen in it."""
    title = f"{cut(plot['y_title'])} by {readable(plot['x_title'], 70)}"
    words = []
    for name, ys in series.items():
        known = [(y, n) for n, y in enumerate(ys) if y is not None]
        if known:
            (low, at_low), (high, at_high) = min(known), max(known)
            words.append(f"{cut(name)}: lowest {number(low)} at {_at(plot, at_low)}, "
                         f"highest {number(high)} at {_at(plot, at_high)}")  # fmt: skip
    if plot["highlighted"]:
        hot = ", ".join(_at(plot, n) for n in plot["highlighted"][:5] if n < len(plot["x"]))
        words.append(f"of this finding: {hot}")
    if plot["reference"] is not None:
        words.append(f"for comparison: {number(plot['reference'])}")
    return title, "; ".join(words)


def _at(plot: dict[str, Any], position: int) -> str:
    return cut(_label(plot["x"][position]), 30)


def _label(x: str | float | None) -> str:
    return x if isinstance(x, str) else number(x)


def _picture(
    width: float, height: float, identity: str, told: tuple[str, str], parts: list[Markup]
) -> Markup:
    named = [_tag(name, words, id=f"{identity}-{name}")
             for name, words in zip(("title", "desc"), told, strict=True)]  # fmt: skip
    return _tag(
        "svg", Markup("").join([*named, *parts]), viewBox=f"0 0 {width:g} {height:g}",
        width=f"{width:g}", height=f"{height:g}", role="img",
        aria_labelledby=f"{identity}-title {identity}-desc",
    )  # fmt: skip


def _text(x: float, y: float, words: str, anchor: str = "start", class_: str = "") -> Markup:
    return _tag("text", words, x=_short(x), y=_short(y), text_anchor=anchor, class_=class_)


def _tag(name: str, content: str | Markup = "", /, **attributes: Any) -> Markup:
    given = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), value)
        for key, value in attributes.items()
        if value != ""
    )
    return Markup("<{0}{1}>{2}</{0}>").format(name, given, content)


def _short(value: float) -> float:
    return round(value, 1)
