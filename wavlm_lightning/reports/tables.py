"""Tables that render as HTML and as Markdown, and the text of figures in them."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

ARROWS = {"lower": "↓", "higher": "↑"}
MISSING = "–"

LEVELS, AGREEMENT = ("utterance", "system"), ("mse", "lcc", "srcc", "ktau")  # of predicted and true ratings
# Names of metrics that `metric_title` cannot derive.
TITLES = {
    "si_sdr": "SI-SDR",
    "si_sdri": "SI-SDRi",
    "map_micro": "mAP of pooled decisions",
    "wer_lm": "WER with LM",
    "per_lm": "PER with LM",
    "mcd": "MCD",
    "mcd_c0": "MCD with c0",
    "f0_correlation": "F0 correlation",
    "similarity": "voice similarity",
    "told_apart": "EER against real speech",
    "content": "recogniser's errors",
    "min_dcf": "minDCF",
    "chrf": "chrF2",
    "map": "mAP",
    "overlap_f1": "overlap F1",
    "speech_f1": "speech F1",
    **{f"{level}_{name}": f"{level} {name.upper()}" for level in LEVELS for name in AGREEMENT},
    "eer_as_norm": "EER with AS-norm",
    "min_dcf_as_norm": "minDCF with AS-norm",
    "eer_qmf": "EER with QMF",
    "min_dcf_qmf": "minDCF with QMF",
}


@dataclass(frozen=True)
class Cell:
    """One cell; `strong` marks the best of a column, `note` is a second line in small type.

    `order` is the number that a column is sorted by, where the text is not a plain figure ("5 min 03 s").
    """

    text: str
    strong: bool = False
    note: str = ""
    order: float | None = None


@dataclass(frozen=True)
class Table:
    """A table whose first column names the row; the other columns are aligned as figures if `numeric`.

    The second column of a table with `names=2` is of words as well, and aligned as such.

    A `wide` table takes the whole width of the page, and its first column stays in view while the others scroll. A reader
    can sort the rows of a `numeric` table by any column; those of `foot` stay at its end.

    Example:
        >>> Table([Cell("stage"), Cell("time")], [[Cell("corpus"), Cell("20 s")]]).to_markdown()
        '| stage | time |\\n| --- | ---: |\\n| corpus | 20 s |'
    """

    columns: Sequence[Cell]
    rows: Sequence[Sequence[Cell]] = field(default_factory=list)
    numeric: bool = True
    wide: bool = False
    foot: Sequence[Sequence[Cell]] = field(default_factory=list)
    names: int = 1

    def to_markdown(self) -> str:
        rule = ["---:" if self.numeric and place >= self.names else "---" for place in range(len(self.columns))]
        lines = [[_markdown(cell) for cell in self.columns], rule]
        lines += [[_markdown(cell) for cell in row] for row in [*self.rows, *self.foot]]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_html(self) -> str:
        """The table inside a container that scrolls, so that a narrow page itself never does."""
        head = "".join(
            f'<th scope="col"{_kind(place, self.names)}>{_html(cell)}</th>' for place, cell in enumerate(self.columns)
        )
        body, foot = (
            "".join(f"<tr>{_html_row(row, self.names)}</tr>\n" for row in rows) for rows in (self.rows, self.foot)
        )
        kind = ("figures" if self.numeric else "facts") + (" wide" if self.wide else "")
        kind += " sortable" if self.numeric and len(self.rows) > 1 else ""  # the script of page.html asks for the class
        label = html.escape(", ".join(cell.text for cell in self.columns if cell.text) or "facts")
        return (
            f'<div class="scroll" tabindex="0" role="group" aria-label="table: {label}"><table class="{kind}">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n"
            + (f"<tfoot>{foot}</tfoot>\n" if self.foot else "")
            + "</table></div>"
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


def _html_row(row: Sequence[Cell], names: int) -> str:
    first, *others = row
    return f'<th scope="row"{_order(first)}>{_html(first)}</th>' + "".join(
        f"<td{_kind(place, names)}{_order(cell)}>{_html(cell)}</td>" for place, cell in enumerate(others, 1)
    )


def _kind(place: int, names: int) -> str:
    return ' class="words"' if 0 < place < names else ""


def _order(cell: Cell) -> str:
    return "" if cell.order is None else f' data-order="{cell.order:.10g}"'


def _html(cell: Cell) -> str:
    text = html.escape(cell.text)
    text = f"<strong>{text}</strong>" if cell.strong else text
    return text + (f"<small>{html.escape(cell.note)}</small>" if cell.note else "")


def _markdown(cell: Cell) -> str:
    text, note = (
        html.escape(part, quote=False).replace("|", "\\|").replace("\n", " ") for part in (cell.text, cell.note)
    )
    return " ".join(filter(None, [f"**{text}**" if cell.strong else text, note]))
