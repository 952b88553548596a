"""Layout of figures: panels on a grid, written as one PNG file for Markdown and one inline SVG per panel for HTML."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wavlm_lightning.reports.page import Drawing
from wavlm_lightning.reports.theme import new_figure, save_png, style, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Draw = Callable[["Axes"], object]  # a panel: a function that draws on the axes it gets (see `plots`)
PANEL = (4.0, 3.3)  # inches: on a phone a panel fills the width at about its natural size


def arrange(panels: Sequence[Draw], columns: int = 3, size: tuple[float, float] = PANEL) -> "Figure":
    """Draw all panels, each of `size` inches, in one figure, on a grid of at most `columns`."""
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


def picture(
    directory: Path, name: str, panels: Sequence[Draw], size: tuple[float, float], caption: str
) -> Drawing | None:
    """Write `NAME.png` with all panels of `size` inches and make one SVG per panel; the name is unique on the page.

    Without panels, delete the PNG of an earlier report.
    """
    path = directory / f"{name}.png"
    if not panels:
        path.unlink(missing_ok=True)
        return None
    save_png(arrange(panels, size=size), path)
    svgs = []
    for index, panel in enumerate(panels):
        figure = arrange([panel], size=size)
        svgs.append(to_svg(figure, f"{name}-{index}", f"{name}: {figure.axes[0].get_title(loc='left')}"))
    return Drawing(svgs, path.name, caption)
