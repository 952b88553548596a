"""Write the report of any number of run folders: `report.html`, `report.md`, `report.csv` and pictures."""

import csv
import io
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from wavlm_lightning.reports.cards import find_cards, metric_text
from wavlm_lightning.reports.figures import picture
from wavlm_lightning.reports.page import Block, Commands, Facts, Fold, Heading, Notes, Page, Paragraph
from wavlm_lightning.reports.runs import figures, tables, text
from wavlm_lightning.reports.runs.comparison import against, control_of, warning
from wavlm_lightning.reports.runs.conditions import condition_blocks
from wavlm_lightning.reports.runs.curves import (
    Describe,
    PretrainingFacts,
    PretrainingRun,
    better_update,
    find_pretraining,
)
from wavlm_lightning.reports.runs.layers import layers_table
from wavlm_lightning.reports.runs.results import Collection, collect
from wavlm_lightning.reports.runs.sounds import sound_blocks
from wavlm_lightning.reports.runs.tables import Official, board_cards
from wavlm_lightning.reports.runs.units import find_units, units_blocks, units_lead
from wavlm_lightning.reports.tables import Table, metric_title, two_columns
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import sweep_leftovers, write_text
from wavlm_lightning.system.reading import read_json, reading

MOST_ROWS = 24  # of differences from the control that are shown unfolded
RADAR_SIZE, TRIANGLE_SIZE = (4.0, 3.2), (4.0, 2.6)
CSV_COLUMNS = (
    "task", "upstream", "metric", "value", "unit", "better", "headline", "counted", "reservation", "learning_rate", "seed",
    "steps", "best_step", "protocol", "corpus", "split", "utterances", "created", "card", "command",
    "low", "high", "parameters", "training_seconds", "test_seconds", "machine",
)  # fmt: skip
Blocks = list[Block | Table]


def write_run_report(
    runs: Sequence[Path],
    directory: Path,
    official: Official,
    compare: tuple[str, str] | None = None,
    group_seeds: bool = False,
    title: str | None = None,
    control: str | None = None,
    describe: Describe = lambda _: PretrainingFacts(),
    setup: Sequence[tuple[str, str]] = (),
    commands: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> tuple[Path, list[str]]:
    """Write `report.html`, `report.md`, `report.csv` and PNG files; the same input gives the same bytes.

    Args:
        runs: run folders, folders of run folders, or card files.
        directory: where the files go; made if missing.
        official: returns the reason why a card must not be compared with the published rows, None if it may.
        compare: two upstreams to compare metric by metric; by default those of a report that has exactly two.
        group_seeds: encoders whose labels differ only by a number at the end are seeds of one upstream.
        title: of the page; by default the name of the folder of the runs.
        control: the upstream that the others are compared with; by default random weights, or else spectral features.
        describe: returns corpus, codebook and size of a pre-training run.
        setup: further (what, how) pairs for the setup, such as the machine.
        commands: (purpose, command) pairs, shown as "Go on from here".
        notes: sentences about these runs for the end of the page.

    Returns:
        The path of the HTML page, and a sentence for each thing that was left out.

    Raises:
        UserError: a folder does not exist, there is nothing to report in any, or an upstream to compare is unknown.
    """
    here = Path.cwd()

    def name(path: Path) -> str:
        return text.file_name(path, here)

    cards, problems = find_cards(runs)
    collection = collect(cards, problems, name, group_seeds)
    collection.problems += _gone_on(collection, name)
    heads = {path.parent for path in cards}
    pretraining = find_pretraining(runs, heads, collection.problems, name)
    units = find_units(runs, collection.problems)
    if not collection.results and not pretraining and not units:
        detail = f" ({collection.problems[0]})" if collection.problems else ""
        raise UserError(
            f"no result card and no pre-training curves in {', '.join(map(str, runs))}{detail}; `wavlm test` and `wavlm "
            "superb` write cards"
        )
    control = control_of(collection, control)
    pair = _pair(collection, compare, control)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    reserved = tables.reservations(collection, official)
    facts = [describe(run) for run in pretraining]
    stages = _stages(runs)
    blocks = _results(directory, collection, reserved, pair, control)
    blocks += condition_blocks(directory, collection)
    blocks += _sounds(directory, collection)
    blocks += units_blocks(directory, units, list(collection.results))
    blocks += _training(directory, collection, pretraining, group_seeds)
    blocks += _cost(collection, pretraining, stages)
    blocks += _setup(collection, pretraining, facts, setup)
    if commands:
        blocks += [Heading("Go on from here"), Commands(commands)]
    blocks += _sources(directory, collection)
    if lines := [*text.card_notes(collection), *notes]:
        blocks += [Heading("Notes"), Notes(lines)]
    if collection.problems:
        blocks += [Heading("Left out or ambiguous"), Notes(collection.problems)]
    total = sum(sum(seconds.values()) for seconds in stages.values())
    alone = not collection.results and not pretraining
    lead = units_lead(units) if alone else text.lead(collection, pretraining, control)
    page = Page(title or default_title(runs), "wavlm_lightning: report of runs", lead)
    top: Blocks = [Paragraph(words) for words in [text.details(collection, control)] if words]
    top += [Paragraph(words, "absent") for words in [warning(collection)] if words]
    if origin := [pair for pair in text.origin(collection, pretraining, facts, setup) if pair[1]]:
        top.append(two_columns(origin))
    if figures_at_the_top := text.key_facts(collection, pretraining, facts, total):
        top.append(Facts(figures_at_the_top))
    page.blocks = [*top, *blocks]
    html_path = directory / "report.html"
    sweep_leftovers(directory)
    write_text(html_path, page.to_html())
    write_text(directory / "report.md", page.to_markdown())
    write_text(directory / "report.csv", _csv(directory, collection, official))
    return html_path, collection.problems


def default_title(runs: Sequence[Path]) -> str:
    """The name of the folder of the runs, or of the folder that holds all of them."""
    folders = [path if path.is_dir() else path.parent for path in (Path(run).resolve() for run in runs)]
    return Path(os.path.commonpath(folders)).name or "results"


def _gone_on(collection: Collection, name: Callable[[Path], str]) -> list[str]:
    """A sentence for each card of a run that has been trained further since its test."""
    found = [
        pair
        for row in collection.results.values()
        for each in row.values()
        for pair in zip(each.files, each.cards, strict=True)
    ]
    return [
        f"{name(file)} is of update {card.best_step:,}, and validation was better at update {update:,}: if the run went on "
        "after its test, test it again, since its answers and transcripts are of the earlier weights as well."
        for file, card in found
        if (update := better_update(file, card)) is not None
    ]


def _pair(collection: Collection, compare: tuple[str, str] | None, control: str | None) -> tuple[str, str] | None:
    names = list(collection.results)
    if compare is None:
        if len(names) != 2:
            return None
        return (names[1], names[0]) if control == names[1] else (names[0], names[1])
    for name in compare:
        if name not in names:
            raise UserError(f"--compare: no upstream is called {name!r}; there are {', '.join(names) or 'none'}")
    return compare


def _results(
    directory: Path,
    collection: Collection,
    reserved: Mapping[str, str],
    pair: tuple[str, str] | None,
    control: str | None,
) -> Blocks:
    """Tables and pictures of the figures and of the layer weights."""
    bars = picture(directory, "results", *figures.bar_panels(collection), text.bars_caption(collection))
    panels, spokes, points = figures.radar_panels(collection, reserved)
    caption = text.radar_caption(len(panels), points)
    if len(panels) == figures.MOST_RADARS < len(collection.results):
        caption += text.RADAR_FIRST.format(figures.MOST_RADARS, len(collection.results))
    radar = picture(directory, "radar", panels, RADAR_SIZE if spokes > 3 else TRIANGLE_SIZE, caption)
    layers = picture(directory, "layers", *figures.weight_panels(collection), text.layers_caption(collection))
    if not collection.results:
        return []
    blocks: Blocks = [Heading("Results"), tables.measured_table(collection)]
    blocks += [Paragraph(text.results_caption(collection), "quiet")]
    blocks += [drawing for drawing in (bars, radar) if drawing]
    if pair is not None:
        blocks += [Heading(f"{pair[1]} against {pair[0]}"), tables.comparison_table(collection, *pair)]
        blocks.append(Paragraph(text.control_caption([against(collection, pair[1], pair[0])]), "quiet"))
    if control is not None and len(collection.results) > 2:
        others = [against(collection, name, control) for name in collection.results if name != control]
        if others := [one for one in others if one.columns]:
            table = tables.control_table(collection, others)
            remark = Paragraph(text.control_caption(others), "quiet")
            few = len(table.rows) <= MOST_ROWS
            blocks.append(Heading(f"Against {control}"))
            blocks += [table, remark] if few else [remark, Fold(f"All {len(table.rows)} differences", [table])]
    if any(board_cards(row) for row in collection.results.values()):
        blocks.append(Heading("Among SUPERB's published rows"))
        blocks += [Paragraph(line, "absent") for line in text.board_sentences(collection, reserved)]
        board = tables.board_table(collection, reserved)
        # If no row is comparable, the published rows are folded away: side by side they would invite a comparison.
        comparable = any(name not in reserved for name, row in collection.results.items() if board_cards(row))
        blocks.append(board if comparable else Fold("The published rows", [board]))
        for tasks, table in tables.partial_tables(collection, reserved):
            blocks += [Paragraph(f"Mean points over {', '.join(tasks)} alone, ours and the published rows':"), table]
    if layers:
        blocks += [Heading("Which layers the tasks listen to"), layers]
        if found := layers_table(collection.results, collection.tasks):
            table, sentence = found
            blocks += [Paragraph(f"{text.LAYERS_CLAIM} {sentence}"), table, Paragraph(text.LAYERS_CAUTION, "quiet")]
    return blocks


def _sounds(directory: Path, collection: Collection) -> Blocks:
    """Players for answers that are audio."""
    found = sound_blocks(directory, collection)
    blocks: Blocks = [Heading("Listen"), Paragraph(text.SOUNDS, "quiet")] if found else []
    for some in found.values():
        blocks += some
    return blocks


def _training(
    directory: Path, collection: Collection, pretraining: Sequence[PretrainingRun], group_seeds: bool
) -> Blocks:
    """Curves of heads, learning rates, and pre-training."""
    panels = figures.head_panels(collection, collection.problems)
    heads = picture(directory, "heads", *panels, text.heads_caption(collection))
    rates = picture(directory, "learning_rates", *figures.rate_panels(collection), text.RATES)
    panels = figures.pretraining_panels(pretraining, group_seeds, list(collection.results))
    curves = picture(directory, "curves", *panels, text.pretraining_caption(pretraining))
    blocks: Blocks = []
    if heads:
        blocks += [Heading("How the heads learned"), heads]
    if rates:
        blocks += [Heading("How much the learning rate matters"), rates]
    if curves:
        blocks.append(Heading("Pre-training"))
        if len(pretraining) == 1 and (sentence := text.accuracy_sentence(pretraining[0])):
            blocks.append(Paragraph(sentence))
        blocks += [curves, tables.health_table(pretraining)]
    return blocks


def _stages(runs: Sequence[Path]) -> dict[str, dict[str, float]]:
    """Seconds of each stage, by folder: `wavlm demo` and `wavlm recipe` write them to `stages.json`."""
    found: dict[str, dict[str, float]] = {}
    for folder in map(Path, runs):
        file = folder / "stages.json"
        if file.is_file():
            again = "remove it; the costs of the stages are then not shown"
            content = read_json(file, "the state of the stages", again)
            with reading(file, "the state of the stages", again):
                if seconds := content.get("seconds"):
                    found[folder.resolve().name] = times = {name: float(value) for name, value in seconds.items()}
                    if not all(map(math.isfinite, times.values())):
                        raise ValueError("a time that is not finite")
    return found


def _cost(
    collection: Collection, pretraining: Sequence[PretrainingRun], stages: Mapping[str, Mapping[str, float]]
) -> Blocks:
    blocks: Blocks = [Heading("What it cost")] if pretraining or collection.results or stages else []
    if pretraining:
        blocks.append(tables.pretraining_cost(pretraining))
    if collection.results:
        blocks.append(tables.heads_cost(collection))
    return [*blocks, *(tables.stages_table(name, seconds) for name, seconds in stages.items())]


def _setup(
    collection: Collection,
    pretraining: Sequence[PretrainingRun],
    facts: Sequence[PretrainingFacts],
    more: Sequence[tuple[str, str]],
) -> Blocks:
    """Corpus, codebook, encoders and software."""
    blocks: Blocks = [Heading("Setup")]
    if pretraining:
        runs = zip(pretraining, facts, strict=True)
        blocks.append(tables.setup_table({run.name: tables.setup_pairs(run, known) for run, known in runs}))
    if collection.results:
        blocks.append(tables.encoders_table(collection))
        if (stages := tables.stages_of_heads(collection)) is not None:
            blocks.append(Fold("What was fitted on validation, and where training began", [stages]))
        if (labels := tables.labels_of_heads(collection)) is not None:
            blocks += [Paragraph("Labels of the heads, of which some were written by another recogniser:"), labels]
    pairs = [pair for pair in [*more, ("tested with", text.versions(collection))] if pair[1]]
    return [*blocks, two_columns(pairs)] if pairs or len(blocks) > 1 else []


def _sources(directory: Path, collection: Collection) -> Blocks:
    """The cards of every upstream, each with the command that made it."""
    if not collection.results:
        return []
    blocks: Blocks = [Heading("Cards, and the command behind each figure")]
    for upstream, row in collection.results.items():
        pairs = []
        for task, result in row.items():
            for card, file in zip(result.cards, result.files, strict=True):
                figures = ", ".join(f"{metric_title(name)} {metric_text(card.metrics[name])}" for name in card.shown)
                line = text.card_line(task, figures, card.learning_rate, card.seed, _address(file, directory))
                pairs.append((line, card.command))
        blocks.append(Fold(text.command_title(upstream, list(row)), [Commands(pairs)]))
    return blocks


def _address(file: Path, directory: Path) -> str:
    return quote(Path(os.path.relpath(file, directory.resolve())).as_posix())


def _csv(directory: Path, collection: Collection, official: Official) -> str:
    """One row per card and metric, of all cards that could be read, and of means over folds without a card of their own."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    # The interval of a result of several seeds is not that of any of its cards.
    results = [result for row in collection.results.values() for result in row.values()]
    alone_on = {result.files[0]: result for result in results if len(result.files) == 1}
    found = [(file, card) for result in results for file, card in zip(result.files, result.cards, strict=True)]
    # The first fold's path stands for folds whose parent has no card.
    means = {file: card for file, card in found if card is not collection.files[file]}
    rows = [(file, card, file in collection.counted and file not in means) for file, card in collection.files.items()]
    for file, card, counts in [*rows, *((file, card, True) for file, card in means.items())]:
        common = [int(counts), official(card) or "", card.learning_rate, card.seed, card.steps, card.best_step]
        common += [card.protocol, card.corpus["name"], card.corpus["split"], card.corpus["utterances"], card.created]
        place = file.parent.parent if means.get(file) is card else file
        common += [_address(place, directory), card.command]
        cost = [card.upstream["parameters"], card.training_seconds or "", card.runtime_seconds, text.machine(card)]
        alone = alone_on[file].measured if counts and file in alone_on else {}
        for metric, entry in card.metrics.items():
            row = [card.task, card.upstream["label"], metric, entry["value"], entry["unit"], entry["better"]]
            ends = (metric in alone and alone[metric].interval) or ("", "")
            writer.writerow([*row, int(metric in card.shown), *common, *ends, *cost])
    return buffer.getvalue()
