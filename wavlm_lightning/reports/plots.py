"""Drawings of a report: each function fills one matplotlib axes with bars, curves, layer weights, rates or a radar."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any

from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import Curves, Series
from wavlm_lightning.reports.tables import metric_title
from wavlm_lightning.reports.theme import GRID, INK, MUTED, PAPER, SERIES

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

TRAIN, VALID = SERIES[1], SERIES[0]
LONGEST_NAME = 24  # letters of an upstream's name that fit a legend or an axis


def draw_loss(axes: "Axes", curves: Curves) -> None:
    """Draw training and validation loss in nats over steps."""
    _draw_curves(axes, "Loss", "nats", curves, [("train/loss", TRAIN, "train"), ("valid/loss", VALID, "held out")])


def draw_accuracy(axes: "Axes", curves: Curves) -> None:
    """Draw masked and unmasked accuracy in percent; a dashed line shows what the commonest label alone scores."""
    lines = [
        ("train/masked_accuracy", TRAIN, "masked, train"),
        ("valid/unmasked_accuracy", SERIES[3], "unmasked, held out"),
        ("valid/masked_accuracy", VALID, "masked, held out"),
    ]
    level = ("valid/majority_accuracy", "commonest label", " %")
    _draw_curves(axes, "Label accuracy", "%", curves, lines, level, factor=100)


def draw_perplexity(axes: "Axes", curves: Curves) -> None:
    """Draw how many labels the predictions use (perplexity of their mean), and the perplexity of the targets."""
    lines = [("train/perplexity", TRAIN, "train"), ("valid/perplexity", VALID, "held out")]
    level = ("valid/target_perplexity", "targets", "")
    _draw_curves(axes, "Codebook perplexity", "labels in use", curves, lines, level)


def draw_results(
    axes: "Axes",
    cards: Sequence[ResultCard],
    upstreams: Sequence[str],
    deviations: Mapping[str, float] | None = None,
    intervals: Mapping[str, tuple[float, float]] | None = None,
    texts: Mapping[str, str] | None = None,
    strong: str | None = None,
) -> None:
    """Draw one task: a bar for each upstream, from top to bottom in the order of `upstreams`.

    There is at most one card per upstream; an upstream without a card keeps an empty line. Whiskers are the 95 % `intervals`
    (ends in the unit of the metric), or without them the `deviations` over seeds. `texts` are figures as tables write
    them, with the decimals of their interval; that of `strong` is bold.
    """
    by_label = {card.upstream["label"]: card for card in cards}
    ends = {label: end for label, (_, end) in (intervals or {}).items()}
    ends |= {label: by_label[label].value + some for label, some in (deviations or {}).items() if label not in ends}
    # Percentages keep the whole scale: bars cut at the largest value exaggerate.
    whole = 100.0 if any(card.main["unit"] == "%" for card in cards) else 0.0
    top = max([card.value for card in cards] + [*ends.values(), whole], default=1) or 1.0
    longest = 0
    for row, label in enumerate(upstreams):
        card = by_label.get(label)
        if card is None:
            axes.text(
                top * 0.02, row, "not measured", va="center", color=MUTED, fontsize=9,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
            continue
        # With more rows than colours all bars are alike: repeated colours would suggest groups.
        colour = SERIES[row] if len(upstreams) <= len(SERIES) else SERIES[0]
        axes.barh(row, card.value, height=0.62, color=colour)
        text = bar_figure(card)
        if label in (deviations or {}):
            text += f" ± {(deviations or {})[label]:.{bar_decimals(card)}f}"
        text = (texts or {}).get(label, text)
        if label in (intervals or {}):
            low, high = (intervals or {})[label]
            errors = [[max(0.0, card.value - low)], [max(0.0, high - card.value)]]
            axes.errorbar(card.value, row, xerr=errors, color=INK, linewidth=1.2, capsize=2.5)
        elif (deviation := (deviations or {}).get(label)) is not None:
            axes.errorbar(card.value, row, xerr=deviation, color=INK, linewidth=1.2, capsize=2.5)
        # On a patch of paper colour, so that the line of chance does not cross the figures.
        axes.text(
            max(card.value, ends.get(label, 0.0)) + top * 0.02, row, text, va="center", color=INK,
            fontweight="bold" if label == strong else "normal",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
        longest = max(longest, len(text))
    axes.set_yticks(range(len(upstreams)), list(upstreams), color=INK)
    axes.set_ylim(len(upstreams) - 0.2, -0.55)
    axes.set_xlim(min([0.0, *(1.14 * card.value for card in cards)]), top * (1.06 + 0.026 * max(longest, 3)))
    # The space for figures to the right of the bars has no ticks: it is not part of the scale.
    _sparse(axes.xaxis)
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= top])
    axes.tick_params(length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_visible(False)
    if not cards:
        return
    main = cards[0].main
    axes.set_title(cards[0].task)
    unit = f" {main['unit']}" if main["unit"] else ""
    axes.set_xlabel(f"{metric_title(cards[0].headline)}{unit}, {main['better']} is better")
    chance = next((card.main["chance"] for card in cards if "chance" in card.main), None)
    if chance is not None:
        axes.axvline(chance, color=INK, linewidth=1, linestyle=(0, (2, 2)))


def draw_layers(
    axes: "Axes", rows: Mapping[str, Sequence[float]], title: str = "", darkest: float | None = None
) -> None:
    """Draw layer weights in percent as a heat map: one row per task, one column per layer, 0 the transformer's input.

    Shorter rows end early. `darkest` is the weight (0..1) of the darkest colour, by default the largest of these rows.
    """
    from matplotlib.colors import LinearSegmentedColormap

    rows = {name: weights for name, weights in rows.items() if weights}
    if not rows:
        return
    layers = max(map(len, rows.values()))
    nan = float("nan")  # an empty cell
    grid = [[100 * weight for weight in weights] + [nan] * (layers - len(weights)) for weights in rows.values()]
    top = 100 * (darkest or max(map(max, rows.values())))
    colours = LinearSegmentedColormap.from_list("paper to blue", ["#eef3f7", "#8fbcd8", "#0a72b0", "#08385c"])
    # pcolormesh draws polygons; an image would make the SVG large and blurred.
    axes.pcolormesh(grid, cmap=colours, vmin=0, vmax=top, edgecolors="white", linewidth=2)
    if layers <= 13:
        for row, values in enumerate(grid):
            for column, value in enumerate(values):
                if value == value:  # not NaN
                    ink = "#fefefe" if value > 0.55 * top else "#17202a"
                    axes.text(column + 0.5, row + 0.5, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=9)
    ticks = range(0, layers, 1 if layers <= 13 else 4)
    axes.set_xticks([layer + 0.5 for layer in ticks], [str(layer) for layer in ticks])
    axes.set_yticks([row + 0.5 for row in range(len(rows))], list(rows), color=INK)
    axes.set_ylim(len(rows), 0)
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_title(title)
    axes.set_xlabel("layer (weights in %)")


def draw_layer_scores(axes: "Axes", lines: Mapping[str, Mapping[int, float]], chosen: int, title: str = "") -> None:
    """Draw scores over the layers of an encoder, a line each (layer -> score), and mark the chosen layer."""
    for (name, line), colour in zip(lines.items(), SERIES, strict=False):
        axes.plot(list(line), list(line.values()), color=colour, marker="o", markersize=4, label=name)
        if chosen in line:
            axes.annotate(
                f"{line[chosen]:.3g}", (chosen, line[chosen]), xytext=(0, 7), textcoords="offset points", ha="center",
                color=INK, fontsize=9, bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
            )  # fmt: skip
    axes.axvline(chosen, color=INK, linewidth=1, linestyle=(0, (2, 2)), label=f"chosen: layer {chosen}")
    layers = sorted({layer for line in lines.values() for layer in line})
    axes.set_xticks(layers if len(layers) <= 13 else layers[:: -(-len(layers) // 13)])
    axes.margins(y=0.15)
    axes.set_title(title)
    axes.set_xlabel("layer (0 is the input of the first one)")
    axes.legend(loc="best")


def draw_spectrogram(axes: "Axes", decibels: "np.ndarray", title: str, loudest: float, seconds: float) -> None:
    """Draw a spectrogram `(frequencies up to 8 kHz, frames)` in dB; black is 80 dB below `loudest`."""
    axes.imshow(
        decibels, origin="lower", aspect="auto", extent=(0, seconds, 0, 8), cmap="magma",
        vmin=loudest - 80, vmax=loudest, interpolation="antialiased",
    )  # fmt: skip
    axes.set_title(title)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.set_xlabel("s")
    axes.set_ylabel("kHz")


def draw_lines(
    axes: "Axes",
    title: str,
    unit: str,
    lines: Sequence[tuple[str, Series]],
    order: Sequence[str],
    better: str = "",
    log: bool = False,
) -> None:
    """Draw (name, series) pairs over steps; several series of one name become their mean.

    `order` has all names of the report, so that one has the same colour everywhere. Seven names can be told apart by
    colour; with more, only the runs that end best and worst have one, where `better` says "lower" or "higher".
    """
    merged = means(lines)
    colours = line_colours(merged, order, better)
    # Grey lines first, so that the coloured ones lie on top.
    for name in sorted(merged, key=lambda name: name in colours):
        series = merged[name]
        axes.plot(
            series.steps, series.values, color=colours.get(name, SERIES[2]), markersize=4,
            marker="o" if len(series.steps) == 1 else "",  # a single point draws no line
            linewidth=1.8 if name in colours else 1.2, alpha=0.9 if name in colours else 0.55,
            label=short(name) if name in colours else "_",
        )  # fmt: skip
    axes.set_xlim(0, max(1, max(series.steps[-1] for series in merged.values())))
    _steps(axes)
    if log:
        axes.set_yscale("log")
        for set_formatter in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
            set_formatter(lambda value, _: f"{value:g}")
    _finish(axes, title, "step", unit, MUTED)


def draw_levels(axes: "Axes", title: str, unit: str, lines: Mapping[str, Mapping[int, float]], better: str) -> None:
    """Draw name -> level of the noise in dB -> a figure in `unit`; which lines have a colour and a name: see `line_colours`."""
    colours = line_colours({name: Series([*one], [*one.values()]) for name, one in lines.items()}, [*lines], better)
    names = short_names([*lines])
    for name, values in lines.items():
        colour, label = colours.get(name, SERIES[2]), names[name] if name in colours else "_"
        axes.plot([*values], [*values.values()], color=colour, marker="o", markersize=4, linewidth=1.8, label=label)
    axes.set_xticks(sorted({level for values in lines.values() for level in values}))
    if unit == "%":
        axes.set_ylim(bottom=0)
    _finish(axes, title, "speech to noise in dB", unit, MUTED)


def draw_layer_lines(
    axes: "Axes",
    title: str,
    unit: str,
    lines: Mapping[str, Sequence[tuple[int, float, float, float]]],
    order: Sequence[str],
) -> None:
    """Draw figures over layers with bands: name -> (layer, figure, ends of its interval); lower is better.

    A name with one layer beside others with several becomes a dashed line across the panel. Colours as in `draw_lines`.
    """
    series = {
        name: Series([layer for layer, *_ in some], [value for _, value, *_ in some]) for name, some in lines.items()
    }
    best = {name: Series([0], [min(one.values)]) for name, one in series.items()}
    colours = line_colours(best, order, "lower")
    last = max(one.steps[-1] for one in series.values())
    for name in sorted(series, key=lambda name: name in colours):
        layers, values = series[name].steps, series[name].values
        style: dict[str, Any] = {
            "color": colours.get(name, SERIES[2]),
            "label": short(name) if name in colours else "_",
        }
        style |= {"linewidth": 1.8 if name in colours else 1.2, "alpha": 0.9 if name in colours else 0.55}
        if len(layers) == 1 and last > 0:
            axes.plot([0, last], values * 2, linestyle="--", **style)
            continue
        axes.plot(layers, values, marker="o", markersize=3.5, **style)
        if name in colours:
            ends = zip(*((low, high) for _, _, low, high in lines[name]), strict=True)
            axes.fill_between(layers, *ends, color=colours[name], alpha=0.12, linewidth=0)
    axes.set_xlim(-0.3, last + 0.3)
    _steps(axes)
    _finish(axes, title, "layer", unit, MUTED)


def means(lines: Sequence[tuple[str, Series]]) -> dict[str, Series]:
    """Average the series of each name over their common steps; without any, its first series is returned as it is."""
    groups: dict[str, list[Series]] = {}
    for name, series in lines:
        groups.setdefault(name, []).append(series)
    merged = {}
    for name, some in groups.items():
        points = [dict(zip(series.steps, series.values, strict=True)) for series in some]
        steps = [step for step in some[0].steps if all(step in other for other in points)]
        mean = Series(steps, [fmean(other[step] for other in points) for step in steps])
        merged[name] = mean if steps else some[0]
    return merged


def line_colours(lines: Mapping[str, Series], order: Sequence[str], better: str = "") -> dict[str, str]:
    """Name -> colour: of all lines if there are at most seven names, else of the best and the worst by last value."""
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
    """Draw mean test figures over learning rates (upstream -> rate -> figure), the `chosen` rate as a large dot.

    `order` has all upstreams of the report, so that one has the same colour everywhere.
    """
    rates = sorted({rate for line in lines.values() for rate in line})
    many = len(order) > len(SERIES)
    for name, line in lines.items():
        colour = SERIES[2] if many else SERIES[order.index(name)]
        xs = sorted(line)
        label = "_" if many else short(name)  # matplotlib leaves "_" out of the legend
        axes.plot(xs, [line[x] for x in xs], color=colour, marker="o", markersize=3.5, label=label)
        if chosen.get(name) in line:
            axes.plot([chosen[name]], [line[chosen[name]]], "o", color=colour, markersize=9, markeredgecolor=PAPER)
    axes.set_xscale("log")
    axes.set_xticks(_apart(rates), [f"{rate:g}" for rate in _apart(rates)])
    axes.margins(x=0.1)
    axes.minorticks_off()
    _finish(axes, title, "learning rate of the head", unit, MUTED)


def draw_radar(
    axes: "Axes", title: str, names: Sequence[str], own: Sequence[float], others: Sequence[Sequence[float]]
) -> None:
    """Draw one upstream's figures on spokes, clockwise from the top, with the others' outlines in grey.

    Values are cut to 0 (centre) to 1 (rim). The axes are ordinary ones, so that radars share a grid with other panels.
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
    axes.set_ylim(min(math.sin(angle) for angle in angles) - 0.25, 1.25)
    axes.set_axis_off()


def short(name: str) -> str:
    """Shorten a name to fit a legend by leaving out its middle."""
    if len(name) <= LONGEST_NAME:
        return name
    half = (LONGEST_NAME - 1) // 2
    return f"{name[:half]}…{name[-half:]}"


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Name -> its short form; all names stay whole if two short forms would be equal."""
    brief = {name: short(name) for name in names}
    return brief if len(set(brief.values())) == len(brief) else {name: name for name in names}


def bar_decimals(card: ResultCard) -> int:
    """Decimals on a bar: one for percentages, those of the metric for others."""
    return card.main.get("decimals", 1)


def bar_figure(card: ResultCard) -> str:
    """The figure of a card as it is written on its bar."""
    return f"{card.value:.{bar_decimals(card)}f}"


def _draw_curves(
    axes: "Axes",
    title: str,
    unit: str,
    curves: Curves,
    lines: Sequence[tuple[str, str, str]],
    level: tuple[str, str, str] | None = None,
    factor: float = 1,
) -> None:
    """Draw the (series, colour, label) lines that are logged, and a dashed line at the last value of a `level`."""
    drawn = False
    for key, colour, label in lines:
        if (series := curves.get(key)) is None:
            continue
        drawn, series, train = True, series.scaled(factor), key.startswith("train/")
        axes.plot(
            series.steps, _running_mean(series.values) if train else series.values, color=colour, label=label,
            marker="o" if len(series.steps) == 1 else "",  # a single point draws no line; a dot shows that the run has begun
            linewidth=1.2 if train else 2, alpha=0.85 if train else 1,
        )  # fmt: skip
    if not drawn:
        axes.set_title(title)
        axes.tick_params(length=0)
        axes.text(0.5, 0.5, "not logged yet", transform=axes.transAxes, ha="center", va="center", color=MUTED)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    if level is not None and (series := curves.get(level[0])) is not None:
        text = f"{level[1]} {factor * series.last:.3g}{level[2]}"
        axes.axhline(factor * series.last, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=text)
    axes.set_xlim(0, max(1, curves.last_step))
    _steps(axes)
    _finish(axes, title, "step", unit)
    if level is not None:
        axes.set_ylim(bottom=0)  # after the margins; a share or a count starts at zero, a loss does not


def _running_mean(values: Sequence[float], width: int = 9) -> list[float]:
    """Mean over up to `width` neighbours: each logged training value is of one batch, and the trend matters."""
    half = width // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _apart(rates: Sequence[float]) -> list[float]:
    """The rates whose axis labels do not touch: a sixth of the axis apart, the first one always."""
    least = (math.log(rates[-1] / rates[0])) / 6 if rates else 0.0
    kept: list[float] = []
    for rate in rates:
        if not kept or math.log(rate / kept[-1]) >= max(least, math.log(2)) - 1e-9:
            kept.append(rate)
    return kept


def _sparse(axis: "Axis", integer: bool = False) -> None:
    """At most five ticks, so that their labels stay apart on a phone, where fonts are wider than matplotlib thinks."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=4, integer=integer, steps=[1, 2, 2.5, 5, 10]))


def _steps(axes: "Axes") -> None:
    """Ticks of whole steps, in thousands where they are many: "20k"."""
    _sparse(axes.xaxis, integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value >= 10_000 else f"{value:g}")


def _finish(axes: "Axes", title: str, xlabel: str, ylabel: str, labelcolor: str | None = None) -> None:
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.tick_params(length=0)
    axes.margins(y=0.08)
    axes.spines["left"].set_color(GRID)
    if axes.get_legend_handles_labels()[0]:
        # Inside the axes a legend hides one curve or another.
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": 2}
        axes.legend(**below, handlelength=1.4, columnspacing=1.2, labelcolor=labelcolor)
