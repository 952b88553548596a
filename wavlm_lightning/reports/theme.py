"""Look of the figures (matplotlib settings and colours), and their output as PNG or as SVG in the page's colours."""

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from wavlm_lightning.system.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#1c2126", "#5d6772", "#dfe3e7", "#ffffff"
# Okabe and Ito's colours in an order that keeps neighbours apart for every kind of colour vision and in grey.
SERIES = ("#0072b2", "#e69f00", "#8a939c", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
# In an inline SVG each colour becomes a variable of the page's style sheet, so that one drawing serves light and dark.
VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", PAPER: "--paper"} | {
    colour: f"--series-{index}" for index, colour in enumerate(SERIES, 1)
}
_RC = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
    "legend.facecolor": PAPER,
    "legend.edgecolor": PAPER,
    "legend.framealpha": 0.9,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
}


@contextmanager
def style() -> Iterator[None]:
    """Use the settings of our figures inside a `with` block; matplotlib's own settings come back after it."""
    import matplotlib

    with matplotlib.rc_context(_RC):
        yield


def new_figure(width: float, height: float) -> "Figure":
    """Make an empty figure of a size in inches; it needs no display, and pyplot does not keep it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.set_facecolor(PAPER)
    return figure


def save_png(figure: "Figure", path: Path) -> Path:
    """Write the figure at 160 dots per inch on the paper colour."""
    with style(), atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=160, facecolor=PAPER, format="png")
    return path


def to_svg(figure: "Figure", name: str, description: str) -> str:
    """Return the figure as an `<svg>` element for inline use: transparent, in the page's colours and font, no links.

    The name must be unique on the page, so that the element ids of two figures differ; the description is for screen
    readers.
    """
    import matplotlib

    text = StringIO()
    with style(), matplotlib.rc_context({"svg.hashsalt": name}):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))  # the same input gives the same bytes
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    # HTML needs neither namespaces nor metadata; without them a test can check that the page has no address in it.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    # matplotlib names every group ("axes_1", ...); drop names that nothing refers to, they collide between figures.
    used = set(re.findall(r"#([\w.-]+)", svg))
    svg = re.sub(r'\sid="([^"]+)"', lambda found: found[0] if found[1] in used else "", svg)
    for colour, variable in VARIABLES.items():
        svg = re.sub(colour, f"var({variable})", svg, flags=re.IGNORECASE)
    # The page's own font; matplotlib before 3.10 writes "font: 10px 'DejaVu Sans'" for size and family at once.
    svg = re.sub(r'font-family: [^;"]*', "font-family: var(--font)", svg)
    svg = re.sub(r'font: ([^;"]*?px) [^;"]*', r"font: \1 var(--font)", svg)
    # A style sheet inside an inline SVG applies to the whole page; page.html holds the same rules for its drawings.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'width="100%"', svg, count=1)
    label = description.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1).strip()


def with_palette(svg: str) -> str:
    """The drawing with its bitmaps in 64 colours, about a quarter of the bytes: enough for a spectrogram of one colour map."""
    from PIL import Image  # a part of matplotlib's installation

    def smaller(found: re.Match[str]) -> str:
        plain = Image.open(BytesIO(b64decode(found[1]))).convert("RGB").quantize(64, Image.Quantize.FASTOCTREE)
        plain.save(data := BytesIO(), format="PNG", optimize=True)
        return f"data:image/png;base64,{b64encode(data.getvalue()).decode()}"

    return re.sub(r"data:image/png;base64,([A-Za-z0-9+/=\s]+)", smaller, svg)
