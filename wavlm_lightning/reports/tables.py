"""Tables that render as HTML and as Markdown, and the text of figures in them."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ARROWS = {"lower": "↓", "higher": "↑"}
MISSING = "–"

TITLES = {"si_sdr": "SI-SDR", "si_sdri": "SI-SDRi"}  # names of metrics that `metric_title` cannot derive


@dataclass(frozen=True)
class Cell:
    """One cell; `strong` marks the best of a column, `note` is a second line in small type."""

    text: str
    strong: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; the other columns are aligned as figures if `numeric`.

    A `wide` table takes the whole width of the page, and its first column stays in view while the others scroll.

    Example:
        >>> Table([Cell("stage"), Cell("time")], [[Cell("corpus"), Cell("20 s")]]).to_markdown()
        '| stage | time |\\n| --- | ---: |\\n| corpus | 20 s |'
    """

    columns: Sequence[Cell]
    rows: Sequence[Sequence[Cell]] = field(default_factory=list)
    numeric: bool = True
    wide: bool = False

    def to_markdown(self) -> str:
        rule = ["---", *(["---:" if self.numeric else "---"] * (len(self.columns) - 1))]
        lines = [[_markdown(cell) for cell in self.columns], rule]
        lines += [[_markdown(cell) for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_html(self) -> str:
        """The table inside a container that scrolls, so that a narrow page itself never does."""
        head = "".join(f'<th scope="col">{_html(cell)}</th>' for cell in self.columns)
        body = "".join(f"<tr>{_html_row(row)}</tr>\n" for row in self.rows)
        kind = ("figures" if self.numeric else "facts") + (" wide" if self.wide else "")
        return (
            f'<div class="scroll" tabindex="0"><table class="{kind}">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n</table></div>"
        )


def two_columns(pairs: Iterable[tuple[str, str]], columns: tuple[str, str] = ("", ""), numeric: bool = False) -> Table:
    """Make a table of (name, value) pairs; pairs with an empty value are left out."""
    return text_table(columns, [pair for pair in pairs if pair[1]], numeric)


def text_table(
    columns: Sequence[str | Cell], rows: Iterable[Sequence[str]], numeric: bool = True, wide: bool = False
) -> Table:
    """Make a table whose cells are plain text."""
    head = [Cell(column) if isinstance(column, str) else column for column in columns]
    return Table(head, [list(map(Cell, row)) for row in rows], numeric, wide)


def metric_title(name: str) -> str:
    """The name of a metric as pages show it: "per" -> "PER", "test/slot_f1" -> "slot f1", "accuracy" -> "accuracy"."""
    name = name.rsplit("/", 1)[-1]
    if name in TITLES:
        return TITLES[name]
    return name.upper() if len(name) <= 4 else name.replace("_", " ")


def duration(seconds: float) -> str:
    """Seconds in readable units: "0.4 s", "42 s", "5 min 03 s", "24 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _html_row(row: Sequence[Cell]) -> str:
    first, *others = row
    return f'<th scope="row">{_html(first)}</th>' + "".join(f"<td>{_html(cell)}</td>" for cell in others)


def _html(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.strong else text
    return text + (f"<small>{html.escape(cell.note)}</small>" if cell.note else "")


def _markdown(cell: Cell) -> str:
    text = " ".join(filter(None, [cell.text, cell.note]))
    text = html.escape(text, quote=False).replace("|", "\\|").replace("\n", " ")
    return f"**{text}**" if cell.strong else text
