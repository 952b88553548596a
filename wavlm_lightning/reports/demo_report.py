"""The demo's report: assembles its figures, tables and sentences into `report.html`, `report.md` and PNG files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wavlm_lightning.reports import demo_text as text
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import Curves, read_curves
from wavlm_lightning.reports.demo_text import DemoSummary
from wavlm_lightning.reports.figures import PANEL, curve_panels, layer_panels, result_panels
from wavlm_lightning.reports.page import Block, Commands, Drawing, Facts, Heading, Notes, Page, Paragraph
from wavlm_lightning.reports.plots import layer_rows
from wavlm_lightning.reports.render import picture
from wavlm_lightning.reports.tables import Table, results_table, two_columns
from wavlm_lightning.reports.verdict import latest, verdict_sentence

BAR_PANEL, MAP_PANEL = (4.0, 2.2), (4.0, 2.1)


@dataclass(frozen=True)
class DemoReportPaths:
    """What was written; a picture that had nothing to show is None."""

    html: Path
    markdown: Path
    curves: Path | None
    results: Path | None
    layers: Path | None


def write_demo_report(
    directory: Path,
    cards: Sequence[ResultCard],
    curves: Sequence[Path],
    summary: DemoSummary,
    next_commands: Sequence[tuple[str, str]],
) -> DemoReportPaths:
    """Writes the report; pieces that do not exist yet are named on the page instead of failing.

    Args:
        directory: where `report.html`, `report.md`, `curves.png`, `results.png` and `layers.png` go; made if missing.
        cards: the results, whatever exists of upstreams x tasks.
        curves: the `metrics.csv` files of pre-training in the order in which they were written.
        summary: what was done, for how long, on what.
        next_commands: (what for, command) pairs for "Go on from here".

    Raises:
        UserError: a curves file that is no Lightning `metrics.csv`.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    cards = list(latest(cards).values())
    upstreams = _ordered(text.UPSTREAMS, [card.upstream["label"] for card in cards])
    tasks = _ordered(list(text.TASKS), [card.task for card in cards])
    history = read_curves(curves)
    pictures = {
        "curves": picture(directory, "curves", curve_panels(history) if history else [], PANEL, text.CURVES_CAPTION),
        "results": picture(
            directory, "results", result_panels(cards, upstreams, tasks), BAR_PANEL, text.results_caption(cards)
        ),
        "layers": picture(
            directory,
            "layers",
            layer_panels({label: layer_rows(cards, label) for label in text.UPSTREAMS[:2]}),
            MAP_PANEL,
            text.layers_caption(cards),
        ),
    }
    page = Page(
        title="Demo report",
        eyebrow="wavlm_lightning: pre-train a WavLM on this machine, then score it",
        lead=verdict_sentence(cards, text.UPSTREAMS[0], text.UPSTREAMS[1:], tasks),
        blocks=_blocks(cards, upstreams, tasks, history, summary, next_commands, pictures),
    )
    html_path, markdown_path = directory / "report.html", directory / "report.md"
    html_path.write_text(page.to_html(), encoding="utf-8")
    markdown_path.write_text(page.to_markdown(), encoding="utf-8")
    written = {name: directory / drawing.image if drawing else None for name, drawing in pictures.items()}
    return DemoReportPaths(html_path, markdown_path, **written)


def _blocks(
    cards: Sequence[ResultCard],
    upstreams: Sequence[str],
    tasks: Sequence[str],
    history: Curves,
    summary: DemoSummary,
    next_commands: Sequence[tuple[str, str]],
    pictures: dict[str, Drawing | None],
) -> list[Block | Table]:
    blocks: list[Block | Table] = []
    if summary.verdict:
        blocks.append(Paragraph(summary.verdict))
    if facts := text.key_facts(summary):
        blocks.append(Facts(facts))
    blocks.append(Heading("Results"))
    blocks.append(results_table(cards, upstreams, tasks))
    if missing := text.missing_pairs(cards, upstreams, tasks):
        blocks.append(Paragraph(missing, "absent"))
    if pictures["results"]:
        blocks.append(pictures["results"])
    blocks.append(Heading("Pre-training"))
    if sentence := text.curves_sentence(history):
        blocks.append(Paragraph(sentence))
    blocks.append(pictures["curves"] or Paragraph(text.NO_CURVES, "absent"))
    blocks.append(Heading("Which layers the tasks listen to"))
    blocks.append(pictures["layers"] or Paragraph(text.NO_LAYERS, "absent"))
    if summary.stages:
        blocks += [Heading("Where the time went"), _stages(summary)]
    blocks += [Heading("Setup"), two_columns(text.setup(summary, cards))]
    if next_commands:
        blocks += [Heading("Go on from here"), Commands(next_commands)]
    return [*blocks, Heading("Notes"), Notes(text.notes(cards, summary))]


def _stages(summary: DemoSummary) -> Table:
    total = sum(summary.stages.values())
    pairs = [(name, text.duration(seconds)) for name, seconds in summary.stages.items()]
    return two_columns([*pairs, ("total", text.duration(total))], ("stage", "wall time"), numeric=True)


def _ordered(first: Sequence[str], found: Sequence[str]) -> list[str]:
    """The expected names in their order, then any others as they come."""
    return list(dict.fromkeys([*first, *found]))
