"""What is drawn: each function fills one matplotlib axes, so that figures and pages can arrange them as they like."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import Curves, Series
from wavlm_lightning.reports.tables import is_best, metric_title, shown
from wavlm_lightning.reports.theme import GRID, INK, MUTED, PAPER, SERIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TRAIN, VALID = SERIES[1], SERIES[0]


def draw_loss(axes: "Axes", curves: Curves) -> bool:
    """Training and validation loss in nats over steps; False if neither was logged."""
    drawn = _line(axes, curves.get("train/loss"), TRAIN, "train", thin=True)
    drawn |= _line(axes, curves.get("valid/loss"), VALID, "held out")
    _finish(axes, "Loss", "nats", curves, drawn)
    return drawn


def draw_accuracy(axes: "Axes", curves: Curves) -> bool:
    """Masked and unmasked accuracy in percent, with the rate of always guessing the commonest label."""
    drawn = _line(axes, _percent(curves.get("train/masked_accuracy")), TRAIN, "masked, train", thin=True)
    drawn |= _line(axes, _percent(curves.get("valid/unmasked_accuracy")), SERIES[3], "unmasked, held out")
    drawn |= _line(axes, _percent(curves.get("valid/masked_accuracy")), VALID, "masked, held out")
    if drawn:
        _level(axes, _percent(curves.get("valid/majority_accuracy")), "commonest label", " %")
    _finish(axes, "Label accuracy", "%", curves, drawn, from_zero=True)
    return drawn


def draw_perplexity(axes: "Axes", curves: Curves) -> bool:
    """How many labels the predictions use (perplexity of their mean), with the perplexity of the targets."""
    drawn = _line(axes, curves.get("train/perplexity"), TRAIN, "train", thin=True)
    drawn |= _line(axes, curves.get("valid/perplexity"), VALID, "held out")
    if drawn:
        _level(axes, curves.get("valid/target_perplexity"), "targets")
    _finish(axes, "Codebook perplexity", "labels in use", curves, drawn, from_zero=True)
    return drawn


def draw_results(
    axes: "Axes",
    cards: Sequence[ResultCard],
    upstreams: Sequence[str],
    deviations: Mapping[str, float] | None = None,
) -> bool:
    """One task: a bar for each upstream, in the order and the colours of `upstreams`, the best in bold.

    Args:
        axes: what to draw on.
        cards: the cards of one task, at most one an upstream.
        upstreams: labels from top to bottom; one without a card keeps an empty line.
        deviations: of upstreams with several seeds, drawn as a whisker and written behind the figure.

    Returns:
        Whether there was anything to draw.
    """
    by_label = {card.upstream["label"]: card for card in cards}
    # Percentages keep the whole scale: bars cut at the largest value exaggerate.
    top = max([card.value for card in cards] + [100.0 if any(c.main["unit"] == "%" for c in cards) else 0.0], default=1)
    for row, label in enumerate(upstreams):
        card = by_label.get(label)
        if card is None:
            axes.text(
                top * 0.02, row, "not measured", va="center", color=MUTED, fontsize=9,
                bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 1},
            )  # fmt: skip
            continue
        # More rows than colours: their repetition would group what does not belong together.
        colour = SERIES[row] if len(upstreams) <= len(SERIES) else SERIES[0]
        axes.barh(row, card.value, height=0.62, color=colour)
        weight = "bold" if is_best(card, cards) else "normal"
        text, end = shown(card.value), card.value
        if (deviation := (deviations or {}).get(label)) is not None:
            axes.errorbar(card.value, row, xerr=deviation, color=INK, linewidth=1.2, capsize=2.5)
            text, end = f"{text} ± {shown(deviation)}", card.value + deviation
        # On paper, so that the line of chance does not cross the figures.
        axes.text(
            end + top * 0.02, row, text, va="center", color=INK, fontweight=weight,
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.5},
        )  # fmt: skip
    axes.set_yticks(range(len(upstreams)), list(upstreams), color=INK)
    axes.set_ylim(len(upstreams) - 0.2, -0.55)
    axes.set_xlim(0, top * (1.4 if deviations else 1.14))
    # The room for figures behind the bars is no part of the scale.
    axes.set_xticks([tick for tick in axes.get_xticks() if tick <= top])
    axes.tick_params(length=0)
    axes.grid(visible=False, axis="y")
    axes.spines["bottom"].set_visible(False)
    if not cards:
        return False
    main = cards[0].main
    axes.set_title(cards[0].task)
    unit = f" {main['unit']}" if main["unit"] else ""
    axes.set_xlabel(f"{metric_title(cards[0].headline)}{unit}, {main['better']} is better")
    chance = next((card.main["chance"] for card in cards if "chance" in card.main), None)
    if chance is not None:
        axes.axvline(chance, color=INK, linewidth=1, linestyle=(0, (2, 2)))
        axes.text(chance + top * 0.01, len(upstreams) - 0.24, "chance", color=MUTED, fontsize=8)
    return True


def draw_layers(
    axes: "Axes", rows: Mapping[str, Sequence[float]], title: str = "", darkest: float | None = None
) -> bool:
    """A heat map of layer weights in percent: one row a task, one column a layer, 0 the input of the transformer.

    Args:
        axes: what to draw on.
        rows: name -> softmaxed weights; shorter rows end early.
        title: the upstream's name.
        darkest: the weight (0..1) of the darkest colour; by default the largest of these rows.

    Returns:
        Whether there was anything to draw.
    """
    from matplotlib.colors import LinearSegmentedColormap

    rows = {name: weights for name, weights in rows.items() if weights}
    if not rows:
        return False
    layers = max(map(len, rows.values()))
    grid = [
        [100 * weight for weight in weights] + [float("nan")] * (layers - len(weights)) for weights in rows.values()
    ]
    top = 100 * (darkest or max(map(max, rows.values())))
    colours = LinearSegmentedColormap.from_list("paper to blue", ["#eef3f7", "#8fbcd8", "#0a72b0", "#08385c"])
    # Cells as polygons rather than an image, so that the drawing stays sharp and the page small.
    axes.pcolormesh(grid, cmap=colours, vmin=0, vmax=top, edgecolors="white", linewidth=2)
    if layers <= 13:
        for row, values in enumerate(grid):
            for column, value in enumerate(values):
                if value == value:
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
    return True


def layer_rows(cards: Iterable[ResultCard], upstream: str) -> dict[str, list[float]]:
    """Task -> layer weights for one upstream's label; tasks on a single layer are left out."""
    return {
        card.task: card.layer_weights for card in cards if card.upstream["label"] == upstream and card.layer_weights
    }


def _line(axes: "Axes", series: Series | None, colour: str, label: str, thin: bool = False) -> bool:
    if series is None:
        return False
    # A single point draws no line; a dot shows that the run has begun.
    marker = "o" if len(series.steps) == 1 else ""
    values = _running_mean(series.values) if thin else series.values
    axes.plot(
        series.steps, values, color=colour, label=label, marker=marker,
        linewidth=1.2 if thin else 2, alpha=0.85 if thin else 1,
    )  # fmt: skip
    return True


def _running_mean(values: Sequence[float], width: int = 9) -> list[float]:
    """Mean over up to `width` neighbours: what is logged of training is one batch, and the trend is what matters."""
    half = width // 2
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def _level(axes: "Axes", series: Series | None, label: str, unit: str = "") -> None:
    if series is not None:
        axes.axhline(
            series.last, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=f"{label} {series.last:.3g}{unit}"
        )


def _percent(series: Series | None) -> Series | None:
    return None if series is None else Series(series.steps, [100 * value for value in series.values])


def _finish(axes: "Axes", title: str, unit: str, curves: Curves, drawn: bool, from_zero: bool = False) -> None:
    axes.set_title(title)
    axes.tick_params(length=0)
    if not drawn:
        axes.text(0.5, 0.5, "not logged yet", transform=axes.transAxes, ha="center", va="center", color=MUTED)
        axes.set_xticks([])
        axes.set_yticks([])
        return
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.set_xlim(0, max(1, curves.last_step))
    axes.margins(y=0.08)
    if from_zero:
        axes.set_ylim(bottom=0)
    axes.spines["left"].set_color(GRID)
    # Below the axes: inside them it hides one curve or another.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, handlelength=1.4, columnspacing=1.2)
