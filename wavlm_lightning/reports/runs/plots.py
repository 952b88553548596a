"""What reports of many runs draw on one axes: lines of several runs, learning rates, and a radar of one upstream."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from wavlm_lightning.reports.curves import Series
from wavlm_lightning.reports.theme import GRID, INK, MUTED, PAPER, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LONGEST_NAME = 24


def draw_lines(
    axes: "Axes",
    title: str,
    unit: str,
    lines: Sequence[tuple[str, Series]],
    order: Sequence[str],
    better: str = "",
    log: bool = False,
) -> None:
    """Several runs over their steps; runs of one name become their mean.

    Seven names can be told apart by colour. Where there are more, all are grey but those that end best and worst.

    Args:
        axes: what to draw on.
        title: of the panel.
        unit: of the values.
        lines: (name, series) pairs.
        order: all names of the report, so that one has the same colour everywhere.
        better: "lower" or "higher"; says what best is.
        log: draw values on a logarithmic scale.
    """
    merged = means(lines)
    colours = line_colours(merged, order, better)
    # The grey ones first, so that the named ones lie on top.
    for name in sorted(merged, key=lambda name: name in colours):
        series = merged[name]
        axes.plot(
            series.steps, series.values, color=colours.get(name, SERIES[2]), markersize=4,
            marker="o" if len(series.steps) == 1 else "",  # a single point draws no line
            linewidth=1.8 if name in colours else 1.2, alpha=0.9 if name in colours else 0.55,
            label=short(name) if name in colours else "_",
        )  # fmt: skip
    axes.set_title(title)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.set_xlim(0, max(1, max(series.steps[-1] for series in merged.values())))
    if log:
        axes.set_yscale("log")
        for axis in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            axis(lambda value, _: f"{value:g}")
    _finish(axes)


def means(lines: Sequence[tuple[str, Series]]) -> dict[str, Series]:
    """Name -> the mean of its series over the steps that all of them have.

    Of series without a step in common, the first alone is kept.
    """
    groups: dict[str, list[Series]] = {}
    for name, series in lines:
        groups.setdefault(name, []).append(series)
    merged = {}
    for name, some in groups.items():
        points = [dict(zip(series.steps, series.values, strict=True)) for series in some]
        steps = [step for step in some[0].steps if all(step in other for other in points)]
        if steps:
            merged[name] = Series(steps, [fmean(other[step] for other in points) for step in steps])
        else:
            merged[name] = some[0]
    return merged


def line_colours(lines: Mapping[str, Series], order: Sequence[str], better: str = "") -> dict[str, str]:
    """Name -> colour of the lines that get one: all of up to seven, else the best and the worst by their last value."""
    if len(order) <= len(SERIES):
        return dict(zip(order, SERIES, strict=False))
    if not better:
        return {}
    ranked = sorted(lines, key=lambda name: lines[name].last, reverse=better == "higher")
    return {ranked[0]: SERIES[0], ranked[-1]: SERIES[5]}


def draw_rates(
    axes: "Axes",
    title: str,
    unit: str,
    lines: Mapping[str, Mapping[float, float]],
    chosen: Mapping[str, float],
    order: Sequence[str],
) -> None:
    """Test figures over learning rates, the chosen rate of each upstream as a large dot.

    Args:
        axes: what to draw on.
        title: of the panel.
        unit: of the figures.
        lines: upstream -> learning rate -> mean test figure.
        chosen: upstream -> the rate that validated best.
        order: all upstreams of the report, so that one has the same colour everywhere.
    """
    rates = sorted({rate for line in lines.values() for rate in line})
    many = len(order) > len(SERIES)
    for name, line in lines.items():
        colour = SERIES[2] if many else SERIES[order.index(name)]
        xs = sorted(line)
        axes.plot(
            xs, [line[x] for x in xs], color=colour, marker="o", markersize=3.5, label="_" if many else short(name)
        )
        if chosen.get(name) in line:
            axes.plot([chosen[name]], [line[chosen[name]]], "o", color=colour, markersize=9, markeredgecolor=PAPER)
    axes.set_xscale("log")
    axes.set_xticks(_apart(rates), [f"{rate:g}" for rate in _apart(rates)])
    axes.minorticks_off()
    axes.set_title(title)
    axes.set_xlabel("learning rate of the head")
    axes.set_ylabel(unit)
    _finish(axes)


def draw_radar(
    axes: "Axes", title: str, names: Sequence[str], own: Sequence[float], others: Sequence[Sequence[float]]
) -> None:
    """One upstream's figures on spokes, 0 at the centre and 1 at the rim, with the others' outlines in grey.

    Args:
        axes: what to draw on; round shapes are drawn on plain axes, so that panels of all kinds share a grid.
        title: of the panel.
        names: of the spokes, clockwise from the top; at least three.
        own: a value a spoke; what lies outside 0..1 is drawn at the edge.
        others: the same of other upstreams.
    """
    angles = [math.pi / 2 - 2 * math.pi * index / len(names) for index in range(len(names))]

    def outline(values: Sequence[float]) -> tuple[list[float], list[float]]:
        cut = [min(max(value, 0.0), 1.0) for value in values]
        points = [(r * math.cos(angle), r * math.sin(angle)) for r, angle in zip(cut, angles, strict=True)]
        points.append(points[0])
        return [x for x, _ in points], [y for _, y in points]

    for ring in (0.25, 0.5, 0.75, 1.0):
        axes.plot(*outline([ring] * len(names)), color=GRID, linewidth=1.2 if ring == 1 else 0.8)
    for angle, name in zip(angles, names, strict=True):
        axes.plot([0, math.cos(angle)], [0, math.sin(angle)], color=GRID, linewidth=0.8)
        side = "center" if abs(math.cos(angle)) < 0.3 else ("left" if math.cos(angle) > 0 else "right")
        axes.text(
            1.1 * math.cos(angle), 1.1 * math.sin(angle), name, ha=side, va="center", color=INK, fontsize=9.5
        )  # fmt: skip
    for values in others:
        axes.plot(*outline(values), color=SERIES[2], linewidth=1, alpha=0.55)
    axes.fill(*outline(own), color=SERIES[0], alpha=0.18)
    axes.plot(*outline(own), color=SERIES[0], linewidth=2)
    axes.set_title(short(title))
    axes.set_aspect("equal")
    axes.set_xlim(-1.55, 1.55)
    axes.set_ylim(-1.25, 1.25)
    axes.set_axis_off()


def short(name: str) -> str:
    """A name that fits a legend; the middle of a longer one is left out."""
    if len(name) <= LONGEST_NAME:
        return name
    half = (LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Name -> its short form, or the name itself where short forms would fall together."""
    brief = {name: short(name) for name in names}
    return brief if len(set(brief.values())) == len(brief) else {name: name for name in names}


def _apart(rates: Sequence[float]) -> list[float]:
    """Those rates whose labels do not touch: at least a factor of two apart."""
    kept: list[float] = []
    for rate in rates:
        if not kept or rate >= 2 * kept[-1]:
            kept.append(rate)
    return kept


def _finish(axes: "Axes") -> None:
    axes.tick_params(length=0)
    axes.margins(y=0.08)
    axes.spines["left"].set_color(GRID)
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        # Below the axes: inside them it hides one curve or another.
        axes.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, handlelength=1.4, columnspacing=1.2,
            labelcolor=MUTED,
        )  # fmt: skip
