"""Running the cells of `wavlm superb`, and what is left of them: one card a cell, one table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wavlm_lightning.cli.head_runs import HeadRun, run_heads
from wavlm_lightning.cli.superb_runs import COST, Cell
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.progress import progress_bar
from wavlm_lightning.reports.cards import CARD_NAME, ResultCard
from wavlm_lightning.reports.folds import best_rate, combine_folds
from wavlm_lightning.reports.superb_table import board_verdict, superb_csv, superb_table


def run_cells(cells: Sequence[Cell], jobs: int) -> None:
    """Fit and test all runs, cheapest task first; the bar counts in cost, so that the time left means something.

    Args:
        cells: what to run.
        jobs: how many at a time.
    """
    cost = {run.folder: COST[cell.task] / len(cell.all_runs()) for cell in cells for run in cell.all_runs()}
    runs = [run for cell in cells for run in cell.all_runs()]
    todo = [run for run in runs if not (run.folder / CARD_NAME).is_file()]
    total = round(sum(cost.values()), 2)
    before = total - sum(cost[run.folder] for run in todo)
    with progress_bar(total=total, initial=before, desc="superb", bar_format=BAR) as bar:
        bar.set_postfix_str(f"{len(runs) - len(todo)}/{len(runs)} runs")
        count = len(runs) - len(todo)

        def done(run: HeadRun) -> None:
            nonlocal count
            count += 1
            bar.set_postfix_str(f"{count}/{len(runs)} runs, last {run.folder}")
            bar.update(cost[run.folder])

        if todo:
            run_heads(todo, done, jobs)


BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} passed, {remaining} left{postfix}"


def settle(cell: Cell) -> ResultCard:
    """The card of a cell: the best learning rate on validation, the mean of its folds; written to the cell's folder.

    What every rate reached on validation and in test stands in the card's `details`.
    """
    cards = {rate: [ResultCard.read(run.folder) for run in runs] for rate, runs in cell.runs.items()}
    chosen = best_rate(cards)
    card = combine_folds(cards[chosen]) if len(cards[chosen]) > 1 else cards[chosen][0]
    if len(cards) > 1:
        grid = {
            f"{rate:g}": {"valid": combine_folds(some).selection, "test": combine_folds(some).value}
            for rate, some in cards.items()
            if rate is not None
        }
        card.details["learning_rates"] = grid
    if cell.all_runs()[0].folder != cell.folder:
        card.write(cell.folder)
    return card


def write_tables(
    out: Path, cards: dict[tuple[str, str], ResultCard], tasks: Sequence[str], upstreams: Sequence[str], mini: bool
) -> str:
    """Write `superb.md` and `superb.csv`, and return what to print.

    Args:
        out: their folder.
        cards: by (task, upstream folder).
        tasks: names of the YAMLs.
        upstreams: folders, in the order of the rows.
        mini: the corpora are the synthetic ones.
    """
    results: dict[str, dict[str, ResultCard]] = {}
    for upstream in upstreams:
        own = [cards[task, upstream] for task in tasks]
        results[own[0].upstream["label"]] = {card.task: card for card in own}
    official = not mini and all(_official(card) for card in cards.values())
    table = superb_table(results, [cards[task, upstreams[0]].task for task in tasks])
    verdict = board_verdict(results, official)
    text = "\n\n".join([table.to_markdown(), *verdict])
    (out / "superb.md").write_text(text + "\n")
    (out / "superb.csv").write_text(superb_csv(results))
    return f"{text}\n\nwritten: {out / 'superb.md'}, {out / 'superb.csv'}, and a card in each task's folder"


TESTS: dict[str, tuple[str, int | None]] = {
    "PR": ("librispeech", 2620),
    "ASR": ("librispeech", 2620),
    "KS": ("speech_commands", 3081),
    "IC": ("fluent_speech_commands", 3793),
    "SID": ("voxceleb1", 8251),
    "ER": ("iemocap", 5531),
    "QbE": ("quesst14", 2438 + 138 + 138),
    "SF": ("snips", 2800),
    "SV": ("voxceleb1", None),  # the recipe counts its 37,720 trials
    "SD": ("libri2mix", 3000),
}
"""Recipe and number of test utterances of each task's own corpus."""


def _official(card: ResultCard) -> bool:
    """Whether a card was tested on SUPERB's own test set, whole."""
    recipe, utterances = TESTS[card.task]
    made_by = Corpus.open(card.corpus["path"]).body["source"].get("recipe")
    return made_by == recipe and utterances in (None, card.corpus["utterances"])
