"""Figures of each condition of a test (noise, accent, cell of a challenge) in a report: a table, and curves over noise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

from wavlm_lightning.reports import plots
from wavlm_lightning.reports.cards import ResultCard, scale
from wavlm_lightning.reports.figures import Draw, picture
from wavlm_lightning.reports.page import Block, Heading, Paragraph
from wavlm_lightning.reports.runs.figures import line_size
from wavlm_lightning.reports.runs.results import Collection, Result
from wavlm_lightning.reports.tables import ARROWS, Cell, Table, metric_title

LEVEL = re.compile(r"(?P<kind>.+)_(?P<level>-?\d+)dB")  # such as `unseen_10dB`
LONG_NAME = 16  # characters of a row's name; with longer ones the legend, in two columns, is wider than a panel
WIDE = 6.2  # inches of a panel then
CAUTION = "The headline within each condition of the test; the differences have no interval here."
CURVES = "The headline against the ratio of speech to noise; one panel for each kind of noise."


def condition_blocks(directory: Path, collection: Collection) -> list[Block]:
    """A heading, a table and a picture for each group of results with the same conditions; empty if no card has any."""
    # Compared are figures of one metric under the same conditions.
    groups: dict[tuple[str, str, str, tuple[str, ...]], dict[str, Result]] = {}
    several = len(collection.results) > 1
    for upstream, row in collection.results.items():
        for task, result in row.items():
            if found := _rates(result):
                main = result.card.main
                group = (result.card.headline, main["unit"], main["better"], tuple(found))
                groups.setdefault(group, {})[f"{task}, {upstream}" if several else task] = result
    blocks: list[Block] = [Heading("Condition by condition"), Paragraph(CAUTION, "quiet")] if groups else []
    for number, ((_, unit, better, conditions), results) in enumerate(groups.items()):
        rates = {name: _rates(result) for name, result in results.items()}
        head = [Cell(f"{name} {_title(result.card)}") for name, result in results.items()]
        texts = {name: result.card.main.get("decimals", 2) for name, result in results.items()}
        pick = min if better == "lower" else max
        best = {condition: pick(found[condition] for found in rates.values()) for condition in conditions}
        rows = [
            [
                Cell(condition.replace("_", " ")),
                *(
                    Cell(
                        f"{found[condition]:.{texts[name]}f}",
                        strong=len(rates) > 1 and found[condition] == best[condition],
                    )
                    for name, found in rates.items()
                ),
            ]
            for condition in conditions
        ]
        blocks.append(Table([Cell("condition"), *head], rows))
        panels = _panels(rates, unit, better)
        width, height = line_size(len(rates))
        width = max(width, WIDE) if max(map(len, rates)) > LONG_NAME else width
        drawing = picture(directory, f"conditions-{number}", panels, (width, height), CURVES)
        blocks += [drawing] if drawing else []
    return blocks


def _title(card: ResultCard) -> str:
    unit = card.main["unit"]
    return f"{metric_title(card.headline)} {unit} {ARROWS[card.main['better']]}"


def _rates(result: Result) -> dict[str, float]:
    """The headline of each condition in its unit, the mean over seeds; empty where a card has none."""
    name = result.card.headline
    found: list[dict[str, Any]] = [card.details.get("conditions") or {} for card in result.cards]
    first = found[0]
    if not first or not all(
        cells.keys() == first.keys() and all(name in cell for cell in cells.values()) for cells in found
    ):
        return {}
    factor = scale(result.card.main)
    return {condition: factor * mean(cells[condition][name] for cells in found) for condition in first}


def _panels(rates: Mapping[str, Mapping[str, float]], unit: str, better: str) -> list[Draw]:
    """A panel for each kind of noise with at least two levels."""
    conditions = next(iter(rates.values()))
    kinds: dict[str, dict[int, str]] = {}
    for condition in conditions:
        if named := LEVEL.fullmatch(condition):
            kinds.setdefault(named["kind"], {})[int(named["level"])] = condition
    panels: list[Draw] = []
    for kind, levels in kinds.items():
        if len(levels) < 2:
            continue
        lines = {name: {level: found[levels[level]] for level in sorted(levels)} for name, found in rates.items()}
        panels.append(partial(plots.draw_levels, title=kind, unit=unit, lines=lines, better=better))
    return panels
