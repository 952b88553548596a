"""Running the cells of `wavlm superb`, and what is left of them: one card a cell, one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wavlm_lightning.reports.aggregate import best_rate, combine_folds
from wavlm_lightning.reports.cards import CARD_NAME, ResultCard
from wavlm_lightning.reports.superb_table import board_verdict, superb_csv, superb_table
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.workflows.fit.head_runs import HeadRun, run_heads
from wavlm_lightning.workflows.superb.cells import COST, Cell
from wavlm_lightning.workflows.superb.official import is_official

BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} passed, {remaining} left{postfix}"


def check_cells(cells: Sequence[Cell]) -> None:
    """Make sure that no folder holds anything but these very runs.

    Raises:
        UserError: one does.
    """
    for cell in cells:
        for run in cell.runs:
            run.check()


def run_cells(cells: Sequence[Cell], jobs: int) -> None:
    """Fit and test all runs, cheapest task first; the bar counts in cost, so that the time left means something.

    Args:
        cells: what to run.
        jobs: how many at a time.

    Raises:
        UserError: runs failed, after all others have ended.
    """
    cost = {run.folder: COST[cell.task] / len(cell.runs) for cell in cells for run in cell.runs}
    runs = [run for cell in cells for run in cell.runs]
    todo = [run for run in runs if not run.is_done]
    count, total = len(runs) - len(todo), sum(cost.values())
    with progress_bar(
        total=total, initial=total - sum(cost[run.folder] for run in todo), desc="superb", bar_format=BAR
    ) as bar:
        bar.set_postfix_str(f"{count}/{len(runs)} runs")

        def done(run: HeadRun) -> None:
            nonlocal count
            count += 1
            bar.set_postfix_str(f"{count}/{len(runs)} runs, last {run.folder}", refresh=False)
            bar.update(min(cost[run.folder], total - bar.n))

        if todo:
            run_heads(todo, done, jobs)


def settle(cell: Cell) -> ResultCard | None:
    """The card of a cell: the best learning rate on validation, the mean of its folds; written to the cell's folder.

    What every rate reached on validation and in test stands in the card's `details`, rates that failed by name.

    Returns:
        None if no rate was finished.
    """
    results = cell.results()
    cards: dict[float | None, list[ResultCard]] = {
        rate: [ResultCard.read(folder) for folder in folders]
        for rate, folders in results.items()
        if all((folder / CARD_NAME).is_file() for folder in folders)
    }
    if not cards:
        return None
    chosen = best_rate(cards)
    card = combine_folds(cards[chosen])
    if chosen is not None:
        card.details["run"] = results[chosen][0].name
        tried = {repr(rate): combine_folds(some) for rate, some in cards.items()}
        card.details["learning_rates"] = {
            rate: {"valid": combined.selection, "test": combined.value} for rate, combined in tried.items()
        }
        card.details["failed_learning_rates"] = [repr(rate) for rate in results if rate not in cards]
    if results[chosen] != [cell.folder] and not _same(cell.folder / CARD_NAME, card):
        card.write(cell.folder)
    return card


def _same(path: Path, card: ResultCard) -> bool:
    return path.is_file() and ResultCard.read(path) == card


def write_tables(out: Path, cards: dict[tuple[str, str], ResultCard], mini: bool, complete: bool) -> str:
    """Write `superb.md` and `superb.csv`, and return what to print.

    Args:
        out: their folder.
        cards: by (task, label of the upstream), in the order of the rows; missing ones get a dash.
        mini: the corpora are the synthetic ones.
        complete: nothing failed, and heads were trained as long as their YAML says.
    """
    results: dict[str, dict[str, ResultCard]] = {}
    for (_, label), card in cards.items():
        results.setdefault(label, {})[card.task] = card
    reasons = [reason for card in cards.values() if (reason := is_official(card)) is not None]
    if not complete:
        reasons.append("not everything was run as its configuration says")
    table = superb_table(results, list(dict.fromkeys(card.task for card in cards.values())))
    verdict = board_verdict(results, "these are the synthetic mini corpora" if mini else next(iter(reasons), None))
    text = "\n\n".join([table.to_markdown(), *verdict])
    (out / "superb.md").write_text(text + "\n")
    (out / "superb.csv").write_text(superb_csv(results))
    return f"{text}\n\nwritten: {out / 'superb.md'}, {out / 'superb.csv'}, and a card in each task's folder"
