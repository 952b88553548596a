"""Run a suite: train and test every task on every upstream, settle one card for each, and write the table."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.aggregate import best_rate, combine_folds
from wavlm_lightning.reports.cards import CARD_NAME, ResultCard
from wavlm_lightning.reports.significance import results_of
from wavlm_lightning.reports.superb_table import board_verdict, no_board, superb_csv, superb_notes, superb_table
from wavlm_lightning.reports.utterances import UtteranceResults, described, join_folds, read_results, write_results
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder, write_text
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.worker_pool import run_count
from wavlm_lightning.workflows.fit.head_runs import RECORD, HeadRun, is_tested, run_heads
from wavlm_lightning.workflows.superb.cells import Cell, UpstreamSpec, check_corpora, parse_upstreams, plan_cell
from wavlm_lightning.workflows.superb.controls import CHANCE, PERMUTED, PermutedCorpora, check_controls, permuted_row
from wavlm_lightning.workflows.superb.official import CORPORA, is_official
from wavlm_lightning.workflows.superb.suites import chains, check_tasks, corpus_name, official_rates, task_name

MINI = "mini"  # the data that is made on the spot
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed} passed, {remaining} left{postfix}"
CHOSEN = "learning-rate-CHOSEN-ON-VALIDATION"  # stands in printed commands for a folder that a search has yet to choose


@dataclass
class Board:
    """The result of a benchmark.

    Attributes:
        cards: by (name of the task's YAML, label of the upstream); failed ones are missing.
        folders: of these cards.
        text: the table in Markdown, what it says beside the published rows, and where the files are.
        failures: the errors of runs that failed.
    """

    cards: dict[tuple[str, str], ResultCard] = field(default_factory=dict)
    folders: dict[tuple[str, str], Path] = field(default_factory=dict)
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
    suite: str | None = None,
    controls: Sequence[str] = (),
    size: str = "mini",
    jobs: int | None = None,
) -> Board:
    """Train and test the heads of a suite on frozen encoders, and write `superb.md` and `superb.csv`.

    Runs that have a card are not repeated, and interrupted ones continue. If a run fails, the others are finished and
    tabled all the same.

    Args:
        upstreams: as `wavlm superb` takes them: run folders, checkpoints, `fbank`, `hf:NAME`, `LABEL=ANY_OF_THESE`, ...
        data: `mini` (the synthetic corpora, made in `output`), or a folder of corpora from `wavlm prepare`.
        output: folder for runs, cards and tables.
        tasks: names of YAML files of `configs/superb` and `configs/fullstack` (`pr`, `asr`, ...), or paths of your own; all of
            the suite by default. The tasks whose runs one of these starts from are added.
        search: learning rates to try, of which the best on validation counts; empty for SUPERB's own grid, None for the
            rate of each task's YAML.
        steps: updates of every head; those of the YAML by default.
        suite: `superb` (SUPERB's ten tasks, the default) or `full` (those of `configs/fullstack` as well).
        controls: further rows, `chance` (what guessing scores) and `permuted` (the first upstream on labels of other
            utterances).
        size: of the mini corpora, `tiny` or `mini`.
        jobs: runs at a time; by default one per GPU, or one per core.

    Returns:
        Cards, table and failures.

    Raises:
        UserError: an upstream, a task or the data does not exist, a folder in `output` holds another run, or another process
            writes there.

    Example:
        >>> board = run_superb(["runs/demo/pretrain", "fbank"], "mini", Path("runs/superb"), tasks=["ks"])
        >>> board.cards["ks", "FBANK"].value
    """
    check_output(output, "--output")
    plan = _plan(upstreams, data, output, tasks, search, steps, suite, controls)
    with own_folder(output, "superb", "--output"):
        if data == MINI:
            from wavlm_lightning.data.mini import prepare_mini

            prepare_mini(plan.data, size, list(dict.fromkeys(corpus_name(task, plan.mini) for task in plan.tasks)))
        return _run(plan, output, run_count(jobs))


def _run(plan: _Plan, output: Path, jobs: int) -> Board:
    """Run all cells, those that start from others' runs after these, settle their cards and write the tables."""
    check_corpora(plan.tasks, plan.data, plan.mini)
    plan.permuted.make()
    cells = plan.all_cells()
    check_cells([cell for some in cells for cell in some if not _is_open(cell)])
    everything, board = [cell for some in cells for cell in some], Board()
    for level in range(len(cells)):
        # A folder that a search has chosen is known only now.
        ready = [cell for cell in plan.cells(level) if not _waits(cell, board)]
        check_cells(ready)
        try:
            run_cells(ready, jobs, everything)
        except UserError as error:
            board.failures.append(error)
        for cell in ready:
            try:
                if (card := settle(cell)) is not None:
                    board.cards[task_name(cell.task), cell.upstream.label] = card
                    board.folders[task_name(cell.task), cell.upstream.label] = cell.folder
            except UserError as error:
                board.failures.append(error)
    if board.cards:
        order = {(task_name(cell.task), cell.upstream.label): None for cell in everything}
        cards = {place: board.cards[place] for place in order if place in board.cards}
        complete = not board.failures and plan.steps is None
        board.text = write_tables(
            output,
            cards,
            plan.mini,
            complete=complete,
            folders=board.folders,
            chance=plan.chance,
            controls=plan.control_rows,
            remarks=plan.remarks(),
        )
    return board


def _is_open(cell: Cell) -> bool:
    """Whether an option still names a folder that a search has yet to choose."""
    return any(CHOSEN in word for run in cell.runs for word in run.options)


def _waits(cell: Cell, board: Board) -> bool:
    """Note a cell that cannot run, because a run that it starts from failed."""
    missing = next((run for run in cell.starts_from if not (run / CARD_NAME).is_file()), None)
    if missing is not None:
        name, label = task_name(cell.task), cell.upstream.label
        board.failures.append(UserError(f"{name} on {label} starts from {missing}, which has failed; see its log.txt"))
    return missing is not None


def superb_commands(
    upstreams: Sequence[str],
    data: str | Path,
    output: Path,
    tasks: Sequence[str] | None = None,
    search: Sequence[float] | None = None,
    steps: int | None = None,
    *,
    suite: str | None = None,
    controls: Sequence[str] = (),
) -> list[str]:
    """The commands that `run_superb` with the same arguments would run."""
    plan = _plan(upstreams, data, output, tasks, search, steps, suite, controls)
    if data != MINI:
        check_corpora(plan.tasks, plan.data, plan.mini)
    commands = plan.permuted.commands()
    for run in (run for cells in plan.all_cells() for cell in cells for run in cell.runs):
        words = [*run.options, "--trainer.default_root_dir", str(run.folder)]
        if run.fits:
            commands.append(shlex.join(["wavlm", "fit", *words]))
        commands.append(shlex.join(["wavlm", "test", *words, *(["--ckpt_path", "best"] if run.fits else [])]))
    return commands


@dataclass(frozen=True)
class _Plan:
    tasks: list[str]  # in the order in which they are run
    needs: dict[str, list[str]]  # task -> those whose runs it starts from
    upstreams: list[UpstreamSpec]
    permuted: PermutedCorpora  # of the last upstream, if it is a control
    data: Path
    output: Path
    mini: bool
    search: Sequence[float] | None
    steps: int | None
    chance: bool
    permuted_asked: bool  # whether a row of permuted labels was asked for, though no task may have one

    @property
    def control_rows(self) -> list[str]:
        return [self.upstreams[-1].label] if self.permuted.tasks else []

    def level(self, task: str) -> int:
        """How many runs must be finished one after the other before a task begins."""
        return 1 + max((self.level(other) for other in self.needs[task]), default=-1)

    def all_cells(self) -> list[list[Cell]]:
        """The cells of every level."""
        return [self.cells(level) for level in range(1 + max(map(self.level, self.tasks), default=0))]

    def cells(self, level: int) -> list[Cell]:
        """The cells of a level, task by task."""
        places = [(task, spec) for task in self.tasks if self.level(task) == level for spec in self.upstreams]
        return [
            plan_cell(
                task,
                spec,
                self.data,
                self.output,
                mini=self.mini,
                rates=self._rates(task),
                steps=self.steps,
                corpus=self.permuted.folder(task) if self._is_control(spec) else None,
                runs={other: self._run_of(other, spec) for other in self.needs[task]},
            )
            for task, spec in places
            if not self._is_control(spec) or task in self.permuted.tasks
        ]

    def _is_control(self, spec: UpstreamSpec) -> bool:
        return spec.label in self.control_rows

    def _run_of(self, task: str, spec: UpstreamSpec) -> Path:
        """The run of a task on an upstream: that of the chosen learning rate, if rates are searched.

        A task without a row of permuted labels lends that row the run on its encoder.
        """
        if self._is_control(spec) and task not in self.permuted.tasks:
            spec = self.upstreams[0]
        folder = self.output / spec.folder / task_name(task)
        if not self._rates(task):
            return folder
        card = folder / CARD_NAME
        return folder / (ResultCard.read(card).details.get("run", CHOSEN) if card.is_file() else CHOSEN)

    def _rates(self, task: str) -> Sequence[float] | None:
        if self.search is None or task == "qbe":  # query by example trains nothing
            return None
        return self.search or official_rates(task)

    def remarks(self) -> list[str]:
        """Which tasks have no row of permuted labels."""
        left = [
            task_name(task).upper() for task in self.tasks if self.permuted_asked and task not in self.permuted.tasks
        ]
        if not left:
            return []
        verb = "has" if len(left) == 1 else "have"
        return [f"{', '.join(left)} {verb} no row of permuted labels: the target is the sound itself."]


def _plan(
    upstreams: Sequence[str],
    data: str | Path,
    output: Path,
    tasks: Sequence[str] | None,
    search: Sequence[float] | None,
    steps: int | None,
    suite: str | None,
    controls: Sequence[str],
) -> _Plan:
    check_controls(controls)
    specs, chosen = parse_upstreams(upstreams), check_tasks(tasks, suite)
    folder = output / "corpus" if data == MINI else Path(data)
    mini = data == MINI or is_mini(folder)
    chosen = check_tasks(tasks, suite, mini)
    needs = chains(chosen, mini)
    permuted = PermutedCorpora([], folder, output, mini)
    if PERMUTED in controls:
        permuted = PermutedCorpora(list(needs), folder, output, mini)
        if permuted.tasks:  # else the row would be one more on the true labels
            specs = parse_upstreams([*upstreams, permuted_row(specs[0])])
    asked = PERMUTED in controls
    return _Plan(list(needs), needs, specs, permuted, folder, output, mini, search, steps, CHANCE in controls, asked)


def is_mini(data: Path) -> bool:
    """Whether all corpora in a folder were made by `wavlm prepare mini`."""
    found = sorted(data.glob("*/corpus.json"))
    if not found:
        raise UserError(f"--data {data}: no corpora there; make them with `wavlm prepare`, or use --data mini")
    return all(Corpus.open(path.parent).body["source"].get("recipe") == "mini" for path in found)


def check_cells(cells: Sequence[Cell]) -> None:
    """Raise `UserError` if a folder holds a run with other options."""
    for cell in cells:
        for run in cell.runs:
            run.check()
        if cell.alone and (cell.folder / RECORD).is_file():  # whose card that of the best rate would replace
            raise UserError(
                f"{cell.folder} holds a run without a search of the learning rate; choose another --output, or remove that folder"
            )


def run_cells(cells: Sequence[Cell], jobs: int, everything: Sequence[Cell] | None = None) -> None:
    """Train and test all runs, cheapest task first; if some fail, `UserError` is raised after the others have ended.

    The progress bar counts costs, for a fair estimate of the time left, of all cells of `everything` if it is given.
    """
    counted = cells if everything is None else everything
    cost = {run.folder: cell.cost / len(cell.runs) for cell in counted for run in cell.runs}
    runs = [run for cell in cells for run in cell.runs]
    todo = [run for run in runs if not run.is_done]
    done_before = [run for cell in counted for run in cell.runs if run.is_done]
    count, total, number = len(done_before), sum(cost.values()), len(cost)
    initial = min(total, sum(cost[run.folder] for run in done_before))
    with progress_bar(total=total, initial=initial, desc="superb", bar_format=BAR) as bar:
        bar.set_postfix_str(f"{count}/{number} runs")

        def done(run: HeadRun) -> None:
            nonlocal count
            count += 1
            bar.set_postfix_str(f"{count}/{number} runs, last {run.folder}", refresh=False)
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
        if all(map(is_tested, folders))  # a failed test leaves the card of another split
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
    *,
    chance: bool = False,
    controls: Collection[str] = (),
    remarks: Sequence[str] = (),
) -> str:
    """Write `superb.md` and `superb.csv`, and return the text to print.

    `cards` are by (task, label of the upstream), in the order of the rows; a missing one becomes a dash. `complete` means
    that nothing failed, and heads were trained for the updates of their YAML. `folders` are those of the cards, for the results
    of their utterances. `chance` adds a row of what guessing scores; `controls` are labels of rows that are not compared with
    published ones; `remarks` are further sentences.
    """
    titles = _titles(cards)
    results: dict[str, dict[str, ResultCard]] = {}
    for place, card in cards.items():
        results.setdefault(place[1], {})[titles[place[0]]] = card
    rows = {label: row for label, row in results.items() if label not in controls}
    official = [card for row in rows.values() for task, card in row.items() if task in CORPORA]
    reasons = [reason for card in official if (reason := is_official(card)) is not None]
    if not complete:
        reasons.append("not everything was run as its configuration says")
    utterances: dict[str, dict[str, UtteranceResults | None]] = {}
    for place, card in cards.items():
        if folders and place in folders:
            utterances.setdefault(place[1], {})[titles[place[0]]] = results_of(folders[place] / CARD_NAME, card)
    table = superb_table(results, list(dict.fromkeys(titles.values())), utterances, chance=chance)
    verdict = []
    if official:
        verdict = board_verdict(rows, "these are the synthetic mini corpora" if mini else next(iter(reasons), None))
    verdict += no_board(results)
    text = "\n\n".join([table.to_markdown(), *superb_notes(results, utterances), *remarks, *verdict])
    write_text(out / "superb.md", text + "\n")
    write_text(out / "superb.csv", superb_csv(results))
    return f"{text}\n\nwritten: {out / 'superb.md'}, {out / 'superb.csv'}, and a card in each task's folder"


def _titles(cards: Mapping[tuple[str, str], ResultCard]) -> dict[str, str]:
    """Task -> its name in tables: that of its cards; of two YAML files for one head, each but the suite's own adds its name."""
    names = {task: card.task for (task, _), card in cards.items()}
    return {
        task: name if list(names.values()).count(name) == 1 or task == name.lower() else f"{name} ({task})"
        for task, name in names.items()
    }
