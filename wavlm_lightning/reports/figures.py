"""Figures that arrange the drawings of `plots`: whole ones for PNG files, single panels for pages."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import Curves
from wavlm_lightning.reports.plots import draw_accuracy, draw_layers, draw_loss, draw_perplexity, draw_results
from wavlm_lightning.reports.theme import new_figure, style
from wavlm_lightning.reports.verdict import latest

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Axes"], object]
PANEL = (4.0, 3.3)  # inches; a panel that fills a phone's width at about its natural size


def curve_panels(curves: Curves) -> list[Draw]:
    """Loss, accuracy and codebook perplexity of a pre-training run."""
    return [
        lambda axes: draw_loss(axes, curves),
        lambda axes: draw_accuracy(axes, curves),
        lambda axes: draw_perplexity(axes, curves),
    ]


def result_panels(cards: Sequence[ResultCard], upstreams: Sequence[str], tasks: Sequence[str] = ()) -> list[Draw]:
    """One panel of bars a task; tasks without any card are left out."""
    chosen = latest(cards)
    panels: list[Draw] = []
    for task in tasks or dict.fromkeys(task for task, _ in chosen):
        ours = [chosen[task, label] for label in upstreams if (task, label) in chosen]
        if ours:
            panels.append(lambda axes, ours=ours: draw_results(axes, ours, upstreams))  # type: ignore[misc]
    return panels


def layer_panels(weights: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Draw]:
    """One heat map an upstream: `weights` is label -> task -> softmaxed weights; empty ones are left out."""
    # One scale for all, or the nearly even weights of an untrained encoder look as decided as any.
    darkest = max((max(row) for rows in weights.values() for row in rows.values() if row), default=1.0)
    return [
        lambda axes, label=label, rows=rows: draw_layers(axes, rows, label, darkest)  # type: ignore[misc]
        for label, rows in weights.items()
        if any(rows.values())
    ]


def arrange(panels: Sequence[Draw], columns: int = 3, size: tuple[float, float] = PANEL) -> "Figure":
    """One figure with all panels on a grid of at most `columns`.

    Raises:
        ValueError: there is no panel to draw.
    """
    if not panels:
        raise ValueError("no panel to draw")
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    with style():
        figure = new_figure(size[0] * columns, size[1] * rows)
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, draw in zip(grid, panels, strict=False):
            draw(axes)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        # Gaps in inches, so that neighbouring panels never touch whatever their number.
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1, wspace=0.02, hspace=0.04)
    return figure
