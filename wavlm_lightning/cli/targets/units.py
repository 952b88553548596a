"""`wavlm units UPSTREAM... --data CORPUS --out DIR`: ABX of layers, quality of label sets, boundaries; no training."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wavlm_lightning.system.arguments import whole

MODES = ("within", "across")


def build_parser() -> argparse.ArgumentParser:
    """The options of `wavlm units`; they have the names of arguments of `measure_units`."""
    parser = argparse.ArgumentParser(
        prog="wavlm units",
        description="How well phones can be told apart in the layers of encoders and in label sets, without training "
        "anything. A second call with the same --out measures only what is missing.",
    )
    which = "fbank, mfcc, random:base, a run, a checkpoint, hf:NAME; NAME=UPSTREAM sets the name of the row"
    parser.add_argument("upstreams", nargs="*", metavar="UPSTREAM", help=which)
    parser.add_argument("--data", required=True, metavar="CORPUS", help="folder of the corpus")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of units.json")
    parser.add_argument("--split", default="valid", help="of the corpus (default: valid)")
    file = "item file of Libri-Light's form, of keys of the split; default: items from the phone times"
    parser.add_argument("--items", type=Path, metavar="FILE.item", help=file)
    unit = "items from phone times: a phone with its two neighbours, or alone (default: triphone)"
    parser.add_argument("--unit", choices=("triphone", "phone"), help=unit)
    context = "a, b and x have the same neighbours, or any, for --unit phone alone (default: within)"
    parser.add_argument("--context", choices=("within", "any"), default="within", help=context)
    parser.add_argument("--layers", nargs="+", type=int, metavar="N", help="these layers only (default: all)")
    parser.add_argument("--labels", nargs="+", default=[], metavar="NAME", help="label sets of the corpus")
    times = "set of phone times that `wavlm align` has written (default: the times in the corpus)"
    parser.add_argument("--alignments", metavar="NAME", help=times)
    parser.add_argument("--compare", nargs="+", default=[], metavar="NAME", help="alignment sets against --alignments")
    pca = "ABX on this number of directions with the most energy: faster, and marked, because it is another figure"
    parser.add_argument("--pca", type=whole, metavar="DIM", help=pca)
    parser.add_argument("--device", help="of the encoders (default: a GPU if there is one)")
    parser.add_argument("--seed", type=int, default=0, help="of the draws of ABX")
    return parser


def main(argv: list[str]) -> int:
    """Measure, and print a table of layers, one of label sets and one of alignments."""
    parser = build_parser()
    options = vars(parser.parse_args(argv))
    if options["unit"] is not None and options["items"] is not None:
        parser.error("--unit is of items from phone times, and a file of --items has its own; remove one of the two")
    if options["unit"] is None:
        del options["unit"]

    from wavlm_lightning.workflows.units import measure_units

    found = measure_units(options.pop("upstreams"), options.pop("data"), options.pop("out"), **options)
    for title, table in _tables(found):
        print(f"\n{title}")
        _print(table)
    return 0


def _tables(found: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """A title and rows of cells, the first of them names, for each kind that was measured."""
    corpus, items = found["corpus"], found["items"]
    made = items.get("file") or f"{items.get('unit')}s of alignments {items.get('alignments')!r}"
    anywhere = ", in any context" if items["context"] == "any" else ""
    of = f"{corpus['name']}, {corpus['split']}: {corpus['utterances']:,} utterances"
    tables = []
    if found["upstreams"]:
        projected = f", on {found['pca']} directions (--pca)" if found["pca"] else ""
        title = f"ABX error in % [95 % interval over phone pairs], lower is better, chance 50{projected}"
        rows = [["upstream", "layer", "within speakers", "across speakers", "cells"]]
        for label, entry in found["upstreams"].items():
            layers = dict(sorted(entry["layers"].items(), key=lambda pair: int(pair[0])))
            best = {mode: _best(layers, mode) for mode in MODES}
            for layer, scores in layers.items():
                cells = [_rate(scores.get(mode), layer == best[mode] and len(layers) > 1) for mode in MODES]
                sizes = "/".join(f"{scores[mode]['cells']:,}" if mode in scores else "-" for mode in MODES)
                rows.append([label, layer, *cells, sizes])
        tables.append((f"{of}, {items['items']:,} items ({made}{anywhere})\n{title}", rows))
    if found["labels"]:
        title = f"{of}\nLabel sets: compare PNMI and purities at equal numbers of labels alone; both grow with them"
        tables += [(title, _label_rows(found["labels"]))]
    if found["stability"]:
        rows = [["label sets", "NMI", "best matching %"]]
        for pair in found["stability"]:
            rows.append([f"{pair['one']}, {pair['other']}", f"{pair['nmi']:.3f}", f"{100 * pair['agreement']:.1f}"])
        tables.append(("Agreement of two label sets on the same frames", rows))
    if found["alignments"]:
        rows = [["alignments", "same phone %", *_BOUNDARIES, "F1 at 40 ms", "utterances"]]
        for name, entry in found["alignments"].items():
            wide = _interval(entry["boundaries_40ms"]["f1"])
            same, compared = f"{100 * entry['same_phone']:.2f}", f"{entry['utterances']:,} of {corpus['utterances']:,}"
            rows.append([name, same, *_boundaries(entry["boundaries_20ms"]), wide, compared])
        tables.append((f"Alignments against {found['times']['name']!r}, boundaries within 20 ms, one-to-one", rows))
    return tables


_BOUNDARIES = ("boundary F1 %", "precision", "recall", "R-value", "over-segm.")


def _label_rows(labels: Mapping[str, Any]) -> list[list[str]]:
    """One column a label set: there are many measures and few sets."""
    rows: list[tuple[str, Any]] = [
        ("labels in use, of", lambda e: f"{e['in_use']}, {e['size']}"),
        ("utterances compared", lambda e: f"{e['aligned_utterances']:,}"),
        ("PNMI", lambda e: f"{e['with_silence']['pnmi']:.3f}"),
        ("PNMI without silence", lambda e: f"{e['without_silence']['pnmi']:.3f}"),
        ("phone purity", lambda e: f"{e['with_silence']['phone_purity']:.3f}"),
        ("phone purity without silence", lambda e: f"{e['without_silence']['phone_purity']:.3f}"),
        ("cluster purity", lambda e: f"{e['with_silence']['cluster_purity']:.3f}"),
        ("perplexity", lambda e: f"{e['with_silence']['perplexity']:.1f}"),
        *((name, lambda e, at=at: _boundaries(e["boundaries"])[at]) for at, name in enumerate(_BOUNDARIES)),
        ("mean, median run, ms", lambda e: f"{e['segment_ms']['mean']:.0f}, {e['segment_ms']['median']:.0f}"),
        ("... of phones", lambda e: f"{e['phone_ms']['mean']:.0f}, {e['phone_ms']['median']:.0f}"),
        *((f"ABX {mode} speakers, %", lambda e, mode=mode: _rate(e["abx"].get(mode))) for mode in MODES),
    ]
    table = [["", *labels]]
    for name, text in rows:
        cells = []
        for entry in labels.values():
            try:
                cells.append(text(entry))
            except KeyError:  # the corpus has no phones with times
                cells.append("-")
        table.append([name, *cells])
    return table


def _boundaries(entry: Mapping[str, Any]) -> list[str]:
    fractions = [f"{100 * entry[name]:.1f}" for name in ("precision", "recall")]
    return [_interval(entry["f1"]), *fractions, f"{entry['r_value']:.3f}", f"{100 * entry['over_segmentation']:+.0f} %"]


def _interval(entry: Mapping[str, float]) -> str:
    return f"{100 * entry['value']:.1f} [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]"


def _rate(entry: Mapping[str, float] | None, best: bool = False) -> str:
    if entry is None:
        return "-"
    return f"{100 * entry['error']:.2f} [{100 * entry['low']:.2f}, {100 * entry['high']:.2f}]{' *' if best else ''}"


def _best(layers: Mapping[str, Any], mode: str) -> str | None:
    there = {layer: scores[mode]["error"] for layer, scores in layers.items() if mode in scores}
    return min(there, key=lambda layer: there[layer]) if there else None


def _print(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())
