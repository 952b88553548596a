"""`wavlm report`: cards and curves of any number of runs as one page, its Markdown twin and a table of all figures."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from wavlm_lightning.reports.cards import ResultCard, find_cards
from wavlm_lightning.reports.page import Block, Commands, Facts, Fold, Heading, Notes, Page, Paragraph
from wavlm_lightning.reports.render import picture
from wavlm_lightning.reports.runs import text
from wavlm_lightning.reports.runs.curves import PretrainingRun, find_pretraining
from wavlm_lightning.reports.runs.figures import (
    MOST_RADARS,
    bar_panels,
    head_panels,
    pretraining_panels,
    radar_panels,
    rate_panels,
    weight_panels,
)
from wavlm_lightning.reports.runs.layers import layers_table
from wavlm_lightning.reports.runs.results import Collection, collect
from wavlm_lightning.reports.runs.tables import (
    Official,
    board_cards,
    board_table,
    comparison_table,
    figure,
    measured_table,
    partial_tables,
    reservations,
)
from wavlm_lightning.reports.tables import Table, metric_title
from wavlm_lightning.system.errors import UserError

RADAR_SIZE = (4.0, 3.2)
CSV_COLUMNS = (
    "task", "upstream", "metric", "value", "unit", "better", "headline", "counted", "reservation", "learning_rate", "seed",
    "steps", "best_step", "protocol", "corpus", "split", "utterances", "created", "card", "command",
)  # fmt: skip
Blocks = list[Block | Table]


def write_run_report(
    runs: Sequence[Path],
    directory: Path,
    official: Official,
    compare: tuple[str, str] | None = None,
    group_seeds: bool = False,
) -> tuple[Path, list[str]]:
    """Writes `report.html`, `report.md`, `report.csv` and PNG files; the same input gives the same bytes.

    Args:
        runs: run folders, folders of run folders, or card files.
        directory: where the files go; made if missing.
        official: why a card must not be compared with the published ones, None if it may be.
        compare: two upstreams to set side by side; by default those of a report that has exactly two.
        group_seeds: encoders whose labels differ only by a number at the end are seeds of one upstream.

    Returns:
        The HTML page, and a sentence for each thing that was left out.

    Raises:
        UserError: a folder does not exist, there is nothing to report in any, or an upstream to compare is unknown.
    """
    here = Path.cwd()

    def name(path: Path) -> str:
        return text.file_name(path, here)

    cards, problems = find_cards(runs)
    collection = collect(cards, problems, name, group_seeds)
    heads = {path.parent for path in cards}
    pretraining = find_pretraining(runs, heads, collection.problems, name)
    if not collection.results and not pretraining:
        detail = f" ({collection.problems[0]})" if collection.problems else ""
        raise UserError(
            f"no result card and no pre-training curves in {', '.join(map(str, runs))}{detail}; `wavlm test` and `wavlm "
            "superb` write cards"
        )
    pair = _pair(collection, compare)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    reserved = reservations(collection, official)
    blocks = _results(directory, collection, reserved, pair)
    blocks += _training(directory, collection, pretraining, group_seeds)
    blocks += _cost(runs, collection, pretraining)
    blocks += _sources(directory, collection)
    if collection.problems:
        blocks += [Heading("Left out, and worth knowing"), Notes(collection.problems)]
    page = Page("Report", "wavlm_lightning: what the runs have come to", text.lead(collection, pretraining))
    page.blocks = [Facts(text.key_facts(collection, pretraining)), *blocks]
    html_path = directory / "report.html"
    html_path.write_text(page.to_html(), encoding="utf-8")
    (directory / "report.md").write_text(page.to_markdown(), encoding="utf-8")
    (directory / "report.csv").write_text(_csv(directory, collection, official), encoding="utf-8")
    return html_path, collection.problems


def _pair(collection: Collection, compare: tuple[str, str] | None) -> tuple[str, str] | None:
    names = list(collection.results)
    if compare is None:
        return (names[0], names[1]) if len(names) == 2 else None
    for name in compare:
        if name not in names:
            raise UserError(f"--compare: no upstream is called {name!r}; there are {', '.join(names) or 'none'}")
    return compare


def _results(
    directory: Path, collection: Collection, reserved: Mapping[str, str], pair: tuple[str, str] | None
) -> Blocks:
    """Tables and pictures of the figures and of the layer weights."""
    bars = picture(directory, "bars", *bar_panels(collection), text.BARS)
    panels, points = radar_panels(collection, reserved)
    caption = text.RADAR + (text.RADAR_POINTS if points else text.RADAR_PERCENT)
    if len(panels) == MOST_RADARS < len(collection.results):
        caption += text.RADAR_FIRST.format(MOST_RADARS, len(collection.results))
    radar = picture(directory, "radar", panels, RADAR_SIZE, caption)
    layers = picture(directory, "layers", *weight_panels(collection), text.LAYERS)
    if not collection.results:
        return []
    blocks: Blocks = [Heading("Results"), measured_table(collection)]
    blocks += [drawing for drawing in (bars, radar) if drawing]
    if pair is not None:
        blocks += [Heading(f"{pair[1]} against {pair[0]}"), comparison_table(collection, *pair)]
    if any(board_cards(row) for row in collection.results.values()):
        blocks.append(Heading("Among SUPERB's published rows"))
        blocks += [Paragraph(line, "absent") for line in text.board_sentences(collection, reserved)]
        blocks.append(board_table(collection, reserved))
        for tasks, table in partial_tables(collection, reserved):
            blocks += [Paragraph(f"Mean points over {', '.join(tasks)} alone, ours and the published rows':"), table]
    if layers:
        blocks += [Heading("Which layers the tasks listen to"), layers]
        if found := layers_table(collection.results, collection.tasks):
            table, sentence = found
            blocks += [Paragraph(f"{text.LAYERS_CLAIM} {sentence}"), table, Paragraph(text.LAYERS_CAUTION, "quiet")]
    return blocks


def _training(
    directory: Path, collection: Collection, pretraining: Sequence[PretrainingRun], group_seeds: bool
) -> Blocks:
    """Curves of heads, learning rates, and pre-training."""
    grey = text.GREY if len(collection.results) > 7 else ""
    heads = picture(directory, "heads", *head_panels(collection, collection.problems), text.HEADS + grey)
    rates = picture(directory, "learning_rates", *rate_panels(collection), text.RATES)
    curves = picture(
        directory,
        "pretraining",
        *pretraining_panels(pretraining, group_seeds, list(collection.results)),
        text.PRETRAINING,
    )
    blocks: Blocks = []
    if heads:
        blocks += [Heading("How the heads learned"), heads]
    if rates:
        blocks += [Heading("How much the learning rate matters"), rates]
    if curves:
        blocks += [Heading("Pre-training"), curves, text.health_table(pretraining)]
    return blocks


def _cost(runs: Sequence[Path], collection: Collection, pretraining: Sequence[PretrainingRun]) -> Blocks:
    blocks: Blocks = [Heading("What it cost")]
    if pretraining:
        blocks.append(text.pretraining_cost(pretraining))
    if collection.results:
        blocks.append(text.heads_cost(collection))
    for folder in runs:
        stages = Path(folder) / "stages.json"
        if stages.is_file() and (seconds := json.loads(stages.read_text(encoding="utf-8")).get("seconds")):
            blocks.append(text.stages_table(Path(folder).resolve().name, seconds))
    return blocks


def _sources(directory: Path, collection: Collection) -> Blocks:
    """For every upstream its cards and the command that made each."""
    if not collection.results:
        return []
    blocks: Blocks = [Heading("Cards, and the command behind each figure")]
    for upstream, row in collection.results.items():
        pairs = []
        for task, result in row.items():
            for card, file in zip(result.cards, result.files, strict=True):
                metric = metric_title(card.headline)
                line = text.card_line(task, metric, figure(card.value), card.seed, _address(file, directory))
                pairs.append((line, card.command))
        blocks.append(Fold(text.command_title(upstream, list(row)), [Commands(pairs)]))
    return blocks


def _address(file: Path, directory: Path) -> str:
    return quote(Path(os.path.relpath(file, directory.resolve())).as_posix())


def _csv(directory: Path, collection: Collection, official: Official) -> str:
    """One row a card and metric, of all cards that could be read."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for file, card in collection.files.items():
        counted = int(file in collection.counted)
        common = _csv_facts(card)
        for metric, entry in card.metrics.items():
            writer.writerow(
                [
                    *(card.task, card.upstream["label"], metric, entry["value"], entry["unit"], entry["better"]),
                    *(int(metric == card.headline), counted, official(card) or ""),
                    *common,
                    *(_address(file, directory), card.command),
                ]
            )
    return buffer.getvalue()


def _csv_facts(card: ResultCard) -> list[object]:
    corpus = card.corpus
    facts = [card.learning_rate, card.seed, card.steps, card.best_step, card.protocol]
    return [*facts, corpus["name"], corpus["split"], corpus["utterances"], card.created]
