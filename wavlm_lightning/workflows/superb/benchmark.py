"""Run SUPERB: train and test every task on every upstream, settle one card for each, and write the table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.aggregate import best_rate, combine_folds
from wavlm_lightning.reports.cards import CARD_NAME, ResultCard
from wavlm_lightning.reports.significance import results_of
from wavlm_lightning.reports.superb_table import board_verdict, superb_csv, superb_notes, superb_table
from wavlm_lightning.reports.utterances import UtteranceResults, described, join_folds, read_results, write_results
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder, write_text
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.worker_pool import run_count
from wavlm_lightning.workflows.fit.head_runs import HeadRun, run_heads
from wavlm_lightning.workflows.superb.cells import (
    COST,
    Cell,
    check_corpora,
    check_tasks,
    corpus_name,
    official_rates,
    parse_upstreams,
    plan_cell,
)
from wavlm_lightning.workflows.superb.official import is_official

MINI = "mini"  # the data that is made on the spot
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} passed, {remaining} left{postfix}"


@dataclass
class Board:
    """The result of a benchmark.

    Attributes:
        cards: by (task, label of the upstream); failed ones are missing.
        text: the table in Markdown, what it says beside the published rows, and where the files are.
        failures: the errors of runs that failed.
    """

    cards: dict[tuple[str, str], ResultCard] = field(default_factory=dict)
    text: str = ""
    failures: list[UserError] = field(default_factory=list)


def run_superb(
    upstreams: Sequence[str],
    data: str | Path,
    output: Path,
    tasks: Sequence[str] | None = None,
    search: Sequence[float] | None = None,
    steps: int | None = None,
    *,
    size: str = "mini",
    jobs: int | None = None,
) -> Board:
    """Train and test SUPERB's heads on frozen encoders, and write `superb.md` and `superb.csv`.

    Runs that have a card are not repeated, and interrupted ones continue. If a run fails, the others are finished and
    tabled all the same.

    Args:
        upstreams: as `wavlm superb` takes them: run folders, checkpoints, `fbank`, `hf:NAME`, `LABEL=ANY_OF_THESE`, ...
        data: `mini` (the synthetic corpora, made in `output`), or a folder of corpora from `wavlm prepare`.
        output: folder for runs, cards and tables.
        tasks: `pr`, `asr`, `ks`, `ic`, `sid`, `er`, `qbe`, `sf`, `sv`, `sd`; all by default.
        search: learning rates to try, of which the best on validation counts; empty for SUPERB's own grid, None for the
            rate of each task's YAML.
        steps: updates of every head; those of the YAML by default.
        size: of the mini corpora, `tiny` or `mini`.
        jobs: runs at a time; by default one per GPU, or one per core.

    Returns:
        Cards, table and failures.

    Raises:
        UserError: an upstream, a task or the data does not exist, a folder in `output` holds another run, or another process
            writes there.

    Example:
        >>> board = run_superb(["runs/demo/pretrain", "fbank"], "mini", Path("runs/superb"), tasks=["ks"])
        >>> board.cards["KS", "FBANK"].value
    """
    check_output(output, "--output")
    plan = _plan(upstreams, data, output, tasks, search, steps)
    with own_folder(output, "superb", "--output"):
        if data == MINI:
            from wavlm_lightning.data.mini import prepare_mini

            prepare_mini(plan.data, size, list(dict.fromkeys(corpus_name(task, plan.mini) for task in plan.tasks)))
        return _run(plan, output, run_count(jobs), steps is None)


def _run(plan: _Plan, output: Path, jobs: int, as_configured: bool) -> Board:
    """Run all cells, settle their cards and write the tables; `as_configured`: with the updates of the YAML."""
    check_corpora(plan.tasks, plan.data, plan.mini)
    check_cells(plan.cells)
    board = Board()
    try:
        run_cells(plan.cells, jobs)
    except UserError as error:
        board.failures.append(error)
    for cell in plan.cells:
        try:
            if (card := settle(cell)) is not None:
                board.cards[cell.task, cell.upstream.label] = card
        except UserError as error:
            board.failures.append(error)
    if board.cards:
        complete = not board.failures and as_configured
        folders = {(cell.task, cell.upstream.label): cell.folder for cell in plan.cells}
        board.text = write_tables(output, board.cards, plan.mini, complete=complete, folders=folders)
    return board


def superb_commands(
    upstreams: Sequence[str],
    data: str | Path,
    output: Path,
    tasks: Sequence[str] | None = None,
    search: Sequence[float] | None = None,
    steps: int | None = None,
) -> list[str]:
    """The commands that `run_superb` with the same arguments would run."""
    plan, commands = _plan(upstreams, data, output, tasks, search, steps), []
    if data != MINI:
        check_corpora(plan.tasks, plan.data, plan.mini)
    for run in (run for cell in plan.cells for run in cell.runs):
        words = [*run.options, "--trainer.default_root_dir", str(run.folder)]
        if run.fits:
            commands.append(shlex.join(["wavlm", "fit", *words]))
        commands.append(shlex.join(["wavlm", "test", *words, *(["--ckpt_path", "best"] if run.fits else [])]))
    return commands


@dataclass(frozen=True)
class _Plan:
    tasks: list[str]
    data: Path
    mini: bool
    cells: list[Cell]


def _plan(
    upstreams: Sequence[str],
    data: str | Path,
    output: Path,
    tasks: Sequence[str] | None,
    search: Sequence[float] | None,
    steps: int | None,
) -> _Plan:
    specs, chosen = parse_upstreams(upstreams), check_tasks(tasks)
    folder = output / "corpus" if data == MINI else Path(data)
    mini = data == MINI or is_mini(folder)
    cells = [
        plan_cell(task, spec, folder, output, mini=mini, rates=_rates(search, task), steps=steps)
        for task in chosen
        for spec in specs
    ]
    return _Plan(chosen, folder, mini, cells)


def _rates(search: Sequence[float] | None, task: str) -> Sequence[float] | None:
    if search is None or task == "qbe":  # query by example trains nothing
        return None
    return search or official_rates(task)


def is_mini(data: Path) -> bool:
    """Whether all corpora in a folder were made by `wavlm prepare mini`."""
    found = sorted(data.glob("*/corpus.json"))
    if not found:
        raise UserError(f"--data {data}: no corpora there; make them with `wavlm prepare`, or use --data mini")
    return all(Corpus.open(path.parent).body["source"].get("recipe") == "mini" for path in found)


def check_cells(cells: Sequence[Cell]) -> None:
    """Raise `UserError` if a folder holds a run with other options."""
    for run in (run for cell in cells for run in cell.runs):
        run.check()


def run_cells(cells: Sequence[Cell], jobs: int) -> None:
    """Train and test all runs, cheapest task first; if some fail, `UserError` is raised after the others have ended.

    The progress bar counts costs, for a fair estimate of the time left.
    """
    cost = {run.folder: COST[cell.task] / len(cell.runs) for cell in cells for run in cell.runs}
    runs = [run for cell in cells for run in cell.runs]
    todo = [run for run in runs if not run.is_done]
    count, total = len(runs) - len(todo), sum(cost.values())
    initial = total - sum(cost[run.folder] for run in todo)
    with progress_bar(total=total, initial=initial, desc="superb", bar_format=BAR) as bar:
        bar.set_postfix_str(f"{count}/{len(runs)} runs")

        def done(run: HeadRun) -> None:
            nonlocal count
            count += 1
            bar.set_postfix_str(f"{count}/{len(runs)} runs, last {run.folder}", refresh=False)
            bar.update(min(cost[run.folder], total - bar.n))  # sums of fractions may end just above the total

        if todo:
            run_heads(todo, done, jobs)


def settle(cell: Cell) -> ResultCard | None:
    """Settle the card of a cell (best learning rate on validation, mean over folds) and write it to the cell's folder.

    The card's `details` hold validation and test figures of every rate, and the rates that failed. None: no rate was finished.
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
        figures = {rate: {"valid": each.selection, "test": each.value} for rate, each in tried.items()}
        card.details["learning_rates"] = figures
        card.rates_tried = len(results)
        card.chosen_on = "" if card.selection is None else card.selection["split"]
        card.details["failed_learning_rates"] = [repr(rate) for rate in results if rate not in cards]
    path = cell.folder / CARD_NAME
    if results[chosen] != [cell.folder]:
        _join_results(cell.folder, results[chosen], card)
    # A single run has written this card itself, and an equal one need not be written again.
    if results[chosen] != [cell.folder] and not (path.is_file() and ResultCard.read(path) == card):
        card.write(cell.folder)
    return card


def _join_results(folder: Path, runs: Sequence[Path], card: ResultCard) -> None:
    """Put the results of the runs' utterances beside the card of a cell, and their interval on it."""
    found = [read_results(run) for run in runs]
    joined = join_folds([each for each in found if each is not None]) if None not in found else None
    if joined is None:
        card.interval, card.interval_note = None, card.interval_note or "a run has no results of its utterances"
    elif len(runs) > 1:
        card.interval = described(joined)
    write_results(folder, joined)


def write_tables(
    out: Path,
    cards: dict[tuple[str, str], ResultCard],
    mini: bool,
    complete: bool,
    folders: Mapping[tuple[str, str], Path] | None = None,
) -> str:
    """Write `superb.md` and `superb.csv`, and return the text to print.

    `cards` are by (task, label of the upstream), in the order of the rows; a missing one becomes a dash. `complete` means
    that nothing failed, and heads were trained for the updates of their YAML. `folders` are those of the cards, for the results
    of their utterances.
    """
    results: dict[str, dict[str, ResultCard]] = {}
    for (_, label), card in cards.items():
        results.setdefault(label, {})[card.task] = card
    reasons = [reason for card in cards.values() if (reason := is_official(card)) is not None]
    if not complete:
        reasons.append("not everything was run as its configuration says")
    utterances: dict[str, dict[str, UtteranceResults | None]] = {}
    for place, card in cards.items():
        if folders and place in folders:
            utterances.setdefault(place[1], {})[card.task] = results_of(folders[place] / CARD_NAME, card)
    table = superb_table(results, list(dict.fromkeys(card.task for card in cards.values())), utterances)
    verdict = board_verdict(results, "these are the synthetic mini corpora" if mini else next(iter(reasons), None))
    text = "\n\n".join([table.to_markdown(), *superb_notes(results, utterances), *verdict])
    write_text(out / "superb.md", text + "\n")
    write_text(out / "superb.csv", superb_csv(results))
    return f"{text}\n\nwritten: {out / 'superb.md'}, {out / 'superb.csv'}, and a card in each task's folder"
