"""What `wavlm units` has measured, in a report: ABX over layers as curves, and tables of layers, label sets and alignments."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wavlm_lightning.reports import plots
from wavlm_lightning.reports.figures import Draw, picture
from wavlm_lightning.reports.page import Block, Heading, Paragraph
from wavlm_lightning.reports.runs.curves import short_names
from wavlm_lightning.reports.runs.figures import line_size
from wavlm_lightning.reports.tables import Cell, Table
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_json, reading

NAME = "units.json"
FORMAT = "wavlm_lightning/units/1"
MODES = {"within": "within speakers", "across": "across speakers"}
CURVES = (
    "ABX error: how often a stretch x of one phone is nearer to a stretch b of another phone than to a stretch a of its own, "
    "both between the same neighbours; lower is better, 50 % is chance. Layer 0 is what enters the transformer. Band: 95 % "
    "interval over phone pairs."
)
DASHED = " Dashed: an upstream of one layer."
ANY = " Neighbours may differ."
LABELS = (
    "PNMI and purities grow with the number of labels: compare sets with equally many. Boundaries count within 20 ms, "
    "one-to-one. Mean run: of one label, without a change."
)
Scores = dict[str, tuple[float, float, float]]  # by mode: error and its interval, as fractions


@dataclass(frozen=True)
class Measured:
    """A `units.json`, as far as a report shows it."""

    folder: Path
    data: str  # corpus and split
    settings: tuple[str, ...]  # figures are compared where these are equal
    remark: str  # what a figure is to be read with
    layers: Mapping[str, Mapping[int, Scores]]  # by upstream and layer
    labels: Mapping[str, Mapping[str, Any]]
    alignments: Mapping[str, Mapping[str, Any]]
    reference: str  # of the alignments
    stability: Mapping[str, Mapping[str, str]]  # of pairs of label sets


def find_units(directories: Iterable[Path], problems: list[str]) -> list[Measured]:
    """Every `units.json` below some directories, in order of path; `problems` gets a sentence for those that are damaged."""
    paths = {path.resolve() for folder in map(Path, directories) if folder.is_dir() for path in folder.rglob(NAME)}
    found = []
    for path in sorted(paths):
        try:
            found.append(_read(path))
        except UserError as error:
            problems.append(str(error))
    return found


def _read(path: Path) -> Measured:
    again = "remove it and run `wavlm units` again"
    body = read_json(path, "measures of units", again)
    with reading(path, "measures of units", again):
        if body["format"] != FORMAT:
            raise ValueError(f"its format is not {FORMAT!r}")
        corpus, items = body["corpus"], body["items"]
        layers = {
            label: {
                int(layer): {mode: _scores(scores[mode]) for mode in MODES if mode in scores}
                for layer, scores in sorted(entry["layers"].items(), key=lambda pair: int(pair[0]))
            }
            for label, entry in body["upstreams"].items()
        }
        made = items.get("file") or f"{items.get('unit')}s of alignments {items.get('alignments')!r}"
        scored = f": {items['items']:,} items ({made})" if items["items"] else ""
        projected = f", projected on {body['pca']} directions first" if body["pca"] else ""
        return Measured(
            folder=path.parent,
            data=f"{corpus['name']}, {corpus['split']}{scored}{projected}",
            settings=(corpus["sha256"], corpus["split"], items["sha256"], items["context"], str(body["pca"])),
            remark=ANY if items["context"] == "any" else "",
            layers={label: scores for label, scores in layers.items() if scores},
            labels={name: _labels(entry) for name, entry in body["labels"].items()},
            alignments={name: _alignment(entry) for name, entry in body["alignments"].items()},
            reference=body["times"]["name"] if body["times"] else "",
            stability={
                f"{pair['one']}, {pair['other']}": {
                    "NMI": f"{pair['nmi']:.3f}",
                    "best matching": f"{100 * pair['agreement']:.1f} %",
                }
                for pair in body["stability"]
            },
        )


def _scores(entry: Mapping[str, Any]) -> tuple[float, float, float]:
    return float(entry["error"]), float(entry["low"]), float(entry["high"])


def _labels(entry: Mapping[str, Any]) -> dict[str, str]:
    """Name of a column -> figure of a label set."""
    row = {"labels in use": f"{int(entry['in_use'])} of {int(entry['size'])}"}
    if "with_silence" in entry:
        row["PNMI"] = f"{entry['with_silence']['pnmi']:.3f}"
        row["PNMI without silence"] = f"{entry['without_silence']['pnmi']:.3f}" if "without_silence" in entry else "-"
        row["phone purity"] = f"{entry['with_silence']['phone_purity']:.3f}"
        row["cluster purity"] = f"{entry['with_silence']['cluster_purity']:.3f}"
        row |= _boundaries(entry["boundaries"])
    row["mean run"] = f"{entry['segment_ms']['mean']:.0f} ms"
    for mode in MODES:
        row[f"ABX {mode}"] = _percent(_scores(entry["abx"][mode])) if mode in entry["abx"] else "-"
    return row


def _alignment(entry: Mapping[str, Any]) -> dict[str, str]:
    wide = entry["boundaries_40ms"]["f1"]
    return {
        "utterances": f"{int(entry['utterances']):,}",
        "same phone": f"{100 * entry['same_phone']:.1f} %",
        **_boundaries(entry["boundaries_20ms"]),
        "F1 at 40 ms": _percent((wide["value"], wide["low"], wide["high"])),
    }


def _boundaries(entry: Mapping[str, Any]) -> dict[str, str]:
    f1 = entry["f1"]
    return {
        "boundary F1": _percent((f1["value"], f1["low"], f1["high"])),
        "R-value": f"{entry['r_value']:.3f}",
        "over-segmentation": f"{100 * entry['over_segmentation']:+.0f} %",
    }


def _percent(score: tuple[float, float, float]) -> str:
    value, low, high = (f"{100 * each:.1f}" for each in score)
    return f"{value} % [{low}, {high}]"


def units_blocks(directory: Path, found: Sequence[Measured], upstreams: Sequence[str]) -> list[Block | Table]:
    """Pictures and tables; figures of the same data and settings share a picture.

    Args:
        directory: where the pictures go.
        found: what `find_units` returns.
        upstreams: names of the report's rows, which keep their colours.
    """
    groups: dict[tuple[str, ...], list[Measured]] = {}
    for one in found:
        groups.setdefault(one.settings, []).append(one)
    for path in directory.glob("units-*.png"):  # of an earlier report
        path.unlink()
    blocks: list[Block | Table] = [Heading("Phones in layers and labels, without training")] if found else []
    for number, group in enumerate(groups.values()):
        blocks.append(Paragraph(f"{group[0].data}."))
        layers = _named((one.folder, one.layers) for one in group)
        panels = _panels(layers, upstreams)
        counts = {len(scores) for scores in layers.values()}
        single = 1 in counts and len(counts) > 1
        caption = CURVES + (DASHED if single else "") + group[0].remark
        if drawing := picture(directory, f"units-{number}", panels, line_size(len(layers)), caption):
            blocks += [drawing, _best_layers(layers)]
        if labels := _named((one.folder, one.labels) for one in group):
            blocks += [_table("label set", labels), Paragraph(LABELS, "quiet")]
        for one in group:
            if one.stability:
                blocks.append(_table("two label sets, same frames", one.stability))
            if one.alignments:
                blocks.append(_table(f"against {one.reference}", one.alignments))
    return blocks


def units_lead(found: Sequence[Measured]) -> str:
    """What was measured, in one sentence, for a report of nothing else."""
    layers = sum(len(scores) for one in found for scores in one.layers.values())
    labels = sum(len(one.labels) for one in found)
    counts = [
        f"{count} {name}{'' if count == 1 else 's'}"
        for count, name in ((layers, "layer"), (labels, "label set"))
        if count
    ]
    return f"{' and '.join(counts) or 'Alignments'} measured without training."


def _named(groups: Iterable[tuple[Path, Mapping[str, Any]]]) -> dict[str, Any]:
    """The entries of several files by name, behind the name of their folder where a name occurs twice."""
    every = [(folder, name, entry) for folder, entries in groups for name, entry in entries.items()]
    counts = Counter(name for _, name, _ in every)
    folders = short_names(list(dict.fromkeys(folder for folder, name, _ in every if counts[name] > 1)))
    return {(name if counts[name] == 1 else f"{name} ({folders[folder]})"): entry for folder, name, entry in every}


def _panels(layers: Mapping[str, Mapping[int, Scores]], upstreams: Sequence[str]) -> list[Draw]:
    order = [*(name for name in upstreams if name in layers), *(name for name in layers if name not in upstreams)]
    panels: list[Draw] = []
    for mode, title in MODES.items():
        lines: dict[str, list[tuple[int, float, float, float]]] = {}
        for name, rows in layers.items():
            for layer, scores in rows.items():
                if mode in scores:
                    value, low, high = (100 * each for each in scores[mode])
                    lines.setdefault(name, []).append((layer, value, low, high))
        if lines:
            draw = partial(plots.draw_layer_lines, title=f"ABX {title}", unit="error %", lines=lines, order=order)
            panels.append(draw)
    return panels


def _best_layers(layers: Mapping[str, Mapping[int, Scores]]) -> Table:
    """The lowest error of each upstream, and its layer."""
    rows = []
    for name, scores in layers.items():
        cells = [Cell(name)]
        for mode in MODES:
            there = {layer: score[mode] for layer, score in scores.items() if mode in score}
            if not there:
                cells.append(Cell("-"))
                continue
            layer, (error, low, high) = min(there.items(), key=lambda pair: pair[1][0])
            where = f"layer {layer}, " if len(scores) > 1 else ""
            cells.append(Cell(f"{100 * error:.2f} %", note=f"{where}[{100 * low:.1f}, {100 * high:.1f}]"))
        rows.append(cells)
    return Table([Cell("best layer"), *(Cell(f"ABX {title}") for title in MODES.values())], rows)


def _table(name: str, entries: Mapping[str, Mapping[str, str]]) -> Table:
    """A column an entry: there are many measures and few entries."""
    measures = list(dict.fromkeys(measure for entry in entries.values() for measure in entry))
    rows = [[Cell(measure), *(Cell(entry.get(measure, "-")) for entry in entries.values())] for measure in measures]
    return Table([Cell(name), *map(Cell, entries)], rows, wide=len(entries) > 3)
