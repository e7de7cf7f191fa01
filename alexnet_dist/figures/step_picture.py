"""One step as a picture: a lane for each tower, layers as bars, messages as arrows from lane to lane, waiting in red."""

from html import escape
from pathlib import Path
from typing import Any

from alexnet_dist.figures.page import write_whole
from alexnet_dist.figures.style import BLUE, GREEN, ORANGE, RED, SCHEMES
from alexnet_dist.text import duration
from alexnet_dist.training.timeline import SEND, UPDATE, WAITING

_WIDTH, _LEFT, _RIGHT = 1000.0, 64.0, 12.0
_TOP, _LANE, _BETWEEN, _AXIS = 46.0, 46.0, 74.0, 34.0
_LETTER = 6.2  # of a bar's label, which is left out where it does not fit
_WAYS = {"forward": BLUE, "backward": ORANGE}
_LEGEND = {**_WAYS, UPDATE: GREEN, "waiting for a message": RED}

Span = tuple[str, float, float]


def draw_step(timeline: dict[str, Any], path: Path) -> bool:
    """Write the picture of what `training.timeline` has seen as SVG. False, and no file, where one process holds all towers."""
    towers: list[list[Span]] = [[(name, begin, end) for name, begin, end in spans] for spans in timeline["towers"]]
    if len(towers) < 2:
        return False
    scale = (_WIDTH - _LEFT - _RIGHT) / timeline["seconds"]

    def x(seconds: float) -> float:
        return _LEFT + seconds * scale

    tops = [_TOP + tower * (_LANE + _BETWEEN) for tower in range(len(towers))]
    height = tops[-1] + _LANE + _AXIS
    parts = [*_legend(), *_axis(timeline["seconds"], tops[-1] + _LANE, x)]
    for tower, (spans, top) in enumerate(zip(towers, tops, strict=True)):
        parts.append(_text(0, top + _LANE / 2 + 4, f"tower {tower}"))
        parts.append(_bar("", x(0), top, x(timeline["seconds"]) - x(0), "currentColor", opacity=0.07))
        labels = []
        for name, begin, end in spans:
            width = x(end) - x(begin)
            said = f"tower {tower}: {name}, {duration(end - begin)}"
            if name == WAITING:
                parts.append(_bar(said, x(begin), top, width, RED))
            elif name != SEND:
                layer, _, way = name.partition(" ")
                parts.append(_bar(said, x(begin), top, width, GREEN if name == UPDATE else _WAYS[way], opacity=0.85))
                if width >= _LETTER * len(layer) + 4:
                    labels.append(_text(x(begin) + width / 2, top + _LANE / 2 + 4, layer, "middle", "#fff"))
        parts += labels
    for tower, spans in enumerate(towers):
        for other, theirs in enumerate(towers):
            if abs(other - tower) == 1:
                parts += [_arrow(message, tower, other, tops, x) for message in _messages(spans, theirs)]
    head = (
        f'<svg class="step" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH:g} {height:g}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="currentColor">'
    )
    marker = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="5" markerHeight="5" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="currentColor"/></marker></defs>'
    )
    style = f"<style>{SCHEMES}.step path:hover{{stroke-width:3}}.step rect:hover{{stroke:currentColor}}</style>"
    write_whole(path, f"{head}{style}{marker}{''.join(parts)}</svg>\n".encode())
    return True


def _messages(spans: list[Span], theirs: list[Span]) -> list[tuple[str, float, float]]:
    """Of each message of one tower to another: within which part it began, when, and when the other needed it and had it.

    All processes begin the same messages in the same order, and wait for each once.
    """
    sent = [(_around(spans, begin), begin) for name, begin, _ in spans if name == SEND]
    arrived = [end for name, _, end in theirs if name == WAITING]
    return [(part, begin, max(begin, end)) for (part, begin), end in zip(sent, arrived, strict=False)]


def _around(spans: list[Span], when: float) -> str:
    inside = [name for name, begin, end in spans if begin <= when <= end and name not in (SEND, WAITING)]
    return inside[-1] if inside else ""


def _bar(said: str, x: float, top: float, width: float, colour: str, opacity: float = 1.0) -> str:
    title = f"<title>{escape(said)}</title>" if said else ""
    return (
        f'<rect x="{x:.2f}" y="{top:g}" width="{max(width, 0.3):.2f}" height="{_LANE:g}" fill="{colour}" '
        f'fill-opacity="{opacity:g}">{title}</rect>'
    )


def _arrow(message: tuple[str, float, float], tower: int, other: int, tops: list[float], x: Any) -> str:
    part, begin, end = message
    down = other > tower
    start = tops[tower] + (_LANE if down else 0)
    tip = tops[other] + (-1 if down else _LANE + 1)
    said = f"{part}: tower {tower} to tower {other}, there at the latest after {duration(end - begin)}"
    return (
        f'<path d="M{x(begin):.2f} {start:g}L{x(end):.2f} {tip:g}" stroke="currentColor" stroke-opacity="0.6" fill="none" '
        f'marker-end="url(#tip)"><title>{escape(said)}</title></path>'
    )


def _legend() -> list[str]:
    drawn, at = [], _LEFT
    for meaning, colour in _LEGEND.items():
        drawn.append(f'<rect x="{at:g}" y="12" width="12" height="12" fill="{colour}"/>')
        drawn.append(_text(at + 17, 22, meaning))
        at += 40 + _LETTER * len(meaning)
    return [*drawn, _text(at, 22, "arrows: messages")]


def _axis(seconds: float, top: float, x: Any) -> list[str]:
    """About eight ticks of 1, 2 or 5 times a power of ten."""
    step = next(s for s in (b * 10.0**e for e in range(-7, 6) for b in (1, 2, 5)) if seconds / s <= 8)
    drawn = []
    for tick in range(int(seconds / step) + 1):
        drawn.append(f'<path d="M{x(tick * step):.2f} {top:g}v5" stroke="currentColor" stroke-opacity="0.5"/>')
        drawn.append(_text(x(tick * step), top + 18, f"{1000 * tick * step:g}", "middle"))
    return [*drawn, _text(0, top + 18, "ms")]


def _text(x: float, y: float, label: str, anchor: str = "start", colour: str = "currentColor") -> str:
    return f'<text x="{x:.2f}" y="{y:g}" text-anchor="{anchor}" fill="{colour}" pointer-events="none">{escape(label)}</text>'
