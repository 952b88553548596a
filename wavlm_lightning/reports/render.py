"""Panels as a picture of a page: one PNG file for Markdown, one inline SVG a panel for HTML."""

from collections.abc import Sequence
from pathlib import Path

from wavlm_lightning.reports.figures import Draw, arrange
from wavlm_lightning.reports.page import Drawing
from wavlm_lightning.reports.theme import save_png, to_svg


def picture(
    directory: Path, name: str, panels: Sequence[Draw], size: tuple[float, float], caption: str
) -> Drawing | None:
    """Writes `NAME.png` with all panels and makes one SVG a panel; without panels removes what an earlier run left.

    Args:
        directory: where the PNG goes.
        name: of the file, unique on the page.
        panels: what draws each panel on its axes.
        size: width and height of a panel in inches.
        caption: how to read it.
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
