"""Draws throughput and p99 against callers as SVG, for docs/."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _HEIGHT = 860, 380
_TOP, _BOTTOM, _LEFT = 64, 56, 64
_PANEL = 320
_GAP = 110
_COLOURS = {"SendMessage": "#0b63ce", "echo": "#8a8f98"}


def draw(points: Sequence[Mapping[str, Any]], note: str) -> str:
    """Two panels, callers from left to right by powers of two: calls per second, and p99 in milliseconds."""
    callers = [point["callers"] for point in points]
    rates = {
        "SendMessage": [point["per_second"] for point in points],
        "echo": [point["echo_per_second"] for point in points],
    }
    delays = {
        "SendMessage": [point["milliseconds"]["p99"] for point in points],
        "echo": [point["echo_milliseconds"]["p99"] for point in points],
    }
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif"'
        ' font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#ffffff"/>',
        *_panel(_LEFT, "calls per second", callers, rates, _linear(rates)),
        *_panel(_LEFT + _PANEL + _GAP, "p99, milliseconds", callers, delays, _logarithmic(delays)),
        _text(_LEFT, _HEIGHT - 8, note, colour="#5b616b"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Scale:
    """Where a value is, from 0 (bottom) to 1 (top), and the values that get a line."""

    def __init__(self, place: Callable[[float], float], ticks: Sequence[float]) -> None:
        self.place = place
        self.ticks = ticks


def _linear(series: Mapping[str, Sequence[float]]) -> _Scale:
    highest = max(max(values) for values in series.values()) or 1
    step = 10 ** math.floor(math.log10(highest))
    step = next(part for part in (step / 5, step / 2, step, 2 * step) if highest / part <= 6)
    top = math.ceil(highest / step) * step
    return _Scale(lambda value: value / top, [number * step for number in range(round(top / step) + 1)])


def _logarithmic(series: Mapping[str, Sequence[float]]) -> _Scale:
    values = [max(value, 0.01) for found in series.values() for value in found]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)

    def place(value: float) -> float:
        return (math.log10(max(value, 0.01)) - low) / (high - low)

    return _Scale(place, [10.0**power for power in range(low, high + 1)])


def _panel(
    left: float, title: str, callers: Sequence[int], series: Mapping[str, Sequence[float]], scale: _Scale
) -> list[str]:
    bottom, tall = _HEIGHT - _BOTTOM, _HEIGHT - _TOP - _BOTTOM
    xs = [left + _PANEL * number / max(len(callers) - 1, 1) for number in range(len(callers))]
    parts = [_text(left, _TOP - 36, title, weight="bold")]
    for tick in scale.ticks:
        y = bottom - tall * scale.place(tick)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{left + _PANEL}" y2="{y:.1f}" stroke="#e3e6ea"/>')
        parts.append(_text(left - 8, y + 4, f"{tick:,.10g}", anchor="end", colour="#5b616b"))
    for x, count in zip(xs, callers, strict=True):
        parts.append(_text(x, bottom + 18, str(count), anchor="middle", colour="#5b616b"))
    parts.append(_text(left + _PANEL / 2, bottom + 34, "callers", anchor="middle", colour="#5b616b"))
    for number, (name, values) in enumerate(series.items()):
        colour = _COLOURS[name]
        ys = [bottom - tall * scale.place(value) for value in values]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in zip(xs, ys, strict=True)]
        parts.append(_text(left + 110 * number, _TOP - 16, f"● {name}", colour=colour))
    return parts


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", colour: str = "#1d2127", weight: str = "normal"
) -> str:
    attributes = f'text-anchor="{anchor}" fill="{colour}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {attributes}>{escape(words)}</text>'
