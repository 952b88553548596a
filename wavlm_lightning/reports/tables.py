"""Tables that render as HTML and as Markdown, and the table of upstreams x tasks."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from wavlm_lightning.reports.cards import MetricValue, ResultCard
from wavlm_lightning.reports.verdict import SHOWN_DECIMALS, compare_values, latest

ARROWS = {"lower": "↓", "higher": "↑"}
MISSING = "–"


@dataclass(frozen=True)
class Cell:
    """One cell; `strong` marks the best of a column, `note` is a second, quieter line."""

    text: str
    strong: bool = False
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under columns; the first column names the row, the others hold figures if `numeric`.

    A `wide` table takes the whole width of the page, and its first column stays in sight while the others scroll.

    Example:
        >>> Table([Cell("stage"), Cell("time")], [[Cell("corpus"), Cell("20 s")]]).to_markdown()
        '| stage | time |\\n| --- | ---: |\\n| corpus | 20 s |'
    """

    columns: Sequence[Cell]
    rows: Sequence[Sequence[Cell]] = field(default_factory=list)
    numeric: bool = True
    wide: bool = False

    def to_markdown(self) -> str:
        """The table in GitHub's Markdown."""
        rule = ["---", *(["---:" if self.numeric else "---"] * (len(self.columns) - 1))]
        lines = [[_markdown(cell) for cell in self.columns], rule]
        lines += [[_markdown(cell) for cell in row] for row in self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def to_html(self) -> str:
        """The table in a container that scrolls by itself, so that a narrow page never does."""
        head = "".join(f'<th scope="col">{_html(cell)}</th>' for cell in self.columns)
        body = "".join(f"<tr>{_html_row(row)}</tr>\n" for row in self.rows)
        kind = ("figures" if self.numeric else "facts") + (" wide" if self.wide else "")
        return (
            f'<div class="scroll" tabindex="0"><table class="{kind}">\n'
            f"<thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>\n</table></div>"
        )


def two_columns(pairs: Iterable[tuple[str, str]], columns: tuple[str, str] = ("", ""), numeric: bool = False) -> Table:
    """A table of names and values; pairs whose value is empty are left out."""
    rows = [[Cell(name), Cell(value)] for name, value in pairs if value]
    return Table([Cell(name) for name in columns], rows, numeric)


def results_table(cards: Iterable[ResultCard], upstreams: Sequence[str] = (), tasks: Sequence[str] = ()) -> Table:
    """The main metric of every task (columns) on every upstream (rows), the best of each column strong.

    The newest card counts where there are several for one cell; a pair without a card shows a dash. Where any card
    states how much it was tested on, or what guessing scores, rows at the end say so.

    Args:
        cards: the results.
        upstreams: labels in the order of the rows; by default the order in which they first appear.
        tasks: abbreviations in the order of the columns; the same default.
    """
    chosen = latest(cards)
    tasks = list(tasks) or list(dict.fromkeys(task for task, _ in chosen))
    upstreams = list(upstreams) or list(dict.fromkeys(label for _, label in chosen))
    by_task = {task: [chosen[task, label] for label in upstreams if (task, label) in chosen] for task in tasks}
    columns = [Cell("upstream"), *(Cell(task, note=metric_label(by_task[task])) for task in tasks)]
    rows = []
    for label in upstreams:
        row = [Cell(label)]
        for task in tasks:
            card = chosen.get((task, label))
            row.append(Cell(MISSING) if card is None else Cell(shown(card.value), is_best(card, by_task[task])))
        rows.append(row)
    chances = {
        task: next((card.main["chance"] for card in by_task[task] if "chance" in card.main), None) for task in tasks
    }
    if any(chance is not None for chance in chances.values()):
        rows.append([Cell("chance"), *(Cell(MISSING if chances[t] is None else shown(chances[t] or 0)) for t in tasks)])
    if any(by_task.values()):
        rows.append([Cell("test utterances"), *(Cell(_test_sizes(by_task[task])) for task in tasks)])
    return Table(columns, rows)


def is_best(card: ResultCard, rivals: Iterable[ResultCard]) -> bool:
    """Whether no rival's main metric looks better than this card's; several may share the first place.

    The card itself may be among the rivals; without any other there is no contest, and so no best.
    """
    others = [rival for rival in rivals if rival is not card and rival.headline == card.headline]
    return bool(others) and all(compare_values(card.value, rival.value, card.main["better"]) >= 0 for rival in others)


def metric_title(name: str) -> str:
    """A metric's name for people: "per" -> "PER", "test/slot_f1" -> "slot f1", "accuracy" -> "accuracy"."""
    name = name.rsplit("/", 1)[-1]
    return name.upper() if len(name) <= 4 else name.replace("_", " ")


def metric_label(cards: Sequence[ResultCard]) -> str:
    """The metric of one task with unit and direction, such as "PER % ↓"; empty without cards."""
    if not cards:
        return ""
    metric: MetricValue = cards[0].main
    # A no-break space keeps the arrow beside its unit in a narrow column.
    measure = "\u00a0".join(filter(None, [metric["unit"], ARROWS[metric["better"]]]))
    return f"{metric_title(cards[0].headline)} {measure}"


def shown(value: float) -> str:
    """A figure at the precision at which figures are compared."""
    return f"{value:.{SHOWN_DECIMALS}f}"


def _test_sizes(cards: Sequence[ResultCard]) -> str:
    # Upstreams scored on different test sets cannot be compared; showing both numbers makes that visible.
    return " / ".join(f"{count:,}" for count in dict.fromkeys(card.corpus["utterances"] for card in cards)) or MISSING


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
