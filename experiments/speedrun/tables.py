"""Tables of a speedrun: every switch against the baseline with as many updates."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from composing import BASELINE, names, read_switch

from wavlm_lightning.system.reading import read_json

COLUMNS = {"pr": ("PR PER % ↓", -1), "ks": ("KS acc % ↑", 1), "sid": ("SID acc % ↑", 1), "masked": ("masked acc %", 0)}
"""Figure -> its title, and whether more is better; 0: not compared, because masked accuracies are of other labels."""


def all_results(out: Path) -> list[dict[str, Any]]:
    """Every result in a folder, in the order of their folders."""
    paths: Sequence[Path] = sorted((out / "runs").glob("*/seed*/result.json"))
    return [read_json(path, "the result of a speedrun", "remove it, and it is made again") for path in paths]


def write_switches(out: Path) -> str:
    """Write `runs.csv` (every run) and `switches.md` (mean and spread) to the folder of the runs; the text of the latter."""
    results = all_results(out)
    rows = [flat(each) for each in results]
    with (out / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
    text = "\n".join(switch_lines(results)) + "\n"
    (out / "switches.md").write_text(text)
    return text


def flat(result: dict[str, Any]) -> dict[str, Any]:
    """A result as a row of a CSV file."""
    row = {name: value for name, value in result.items() if name not in ("figures", "clocks")}
    row["switches"] = " ".join(result["switches"])
    return row | {name: round(value, 2) for name, value in (result["figures"] | result["clocks"]).items()}


def slope(results: Sequence[dict[str, Any]]) -> float | None:
    """By which power of the audio the baseline's first figure falls: PER ~ audio ** -slope, least squares over all its runs.

    None without runs of two budgets, or if it does not fall.
    """
    runs = [each for each in results if each["recipe"] == BASELINE]
    if len({each["budget"] for each in runs}) < 2:
        return None
    audio, errors = ([math.log(value) for value in values] for values in zip(*map(_audio_and_error, runs), strict=True))
    found = -statistics.linear_regression(audio, errors).slope
    return found if found > 0 else None


def _audio_and_error(result: dict[str, Any]) -> tuple[float, float]:
    return result["clocks"]["audio"], result["figures"]["pr"]


def switch_lines(results: Sequence[dict[str, Any]]) -> list[str]:
    """A table for each number of updates: mean, spread, and in how many seeds each recipe beats the baseline.

    With baselines of several budgets also the factor of audio that its PER is worth: that much more audio would bring the
    baseline there.
    """
    power, lines = slope(results), list[str]()
    if power is not None:
        lines += [f"The baseline's PER falls with the audio to the power of -{power:.2f}.", ""]
    for budget in sorted({each["budget"] for each in results}):
        groups: dict[str, dict[int, dict[str, Any]]] = {}
        for each in results:
            if each["budget"] == budget:
                groups.setdefault(each["key"], {})[each["seed"]] = each
        base = next((group for group in groups.values() if _first(group)["recipe"] == BASELINE), {})
        columns = [name for name in COLUMNS if any(name in _first(group)["figures"] for group in groups.values())]
        lines += [
            f"{budget} updates; in brackets: in how many of the seeds it is better than the baseline with the same seed",
            "",
            "| recipe | "
            + " | ".join(COLUMNS[name][0] for name in columns)
            + " | worth audio x | audio s | PFLOP | wall s | cpu s | seeds |",
            "|---|" + "---|" * (len(columns) + 6),
        ]
        order = sorted(groups.values(), key=lambda group: (group is not base, _mean(group, "pr")))
        for group in order:
            first = _first(group)
            cells = [_cell(group, base, name) for name in columns]
            clocks = [
                statistics.mean(each["clocks"][name] for each in group.values())
                for name in ("audio", "flops", "wall", "cpu")
            ]
            gain = _mean(base, "pr") / _mean(group, "pr") if base and group is not base else math.nan
            cells += [
                "" if power is None or math.isnan(gain) else f"{gain ** (1 / power):.1f}",
                f"{clocks[0]:.0f}",
                f"{clocks[1] / 1e15:.3g}",
                f"{clocks[2]:.0f}",
                f"{clocks[3]:.0f}",
                str(len(group)),
            ]
            title = title_of(first["recipe"]) + (" (supervised)" if first["supervised"] else "")
            lines.append(f"| {title} | " + " | ".join(cells) + " |")
        lines.append("")
    return lines


def title_of(recipe: str) -> str:
    """The name of a recipe, of a single switch with its title."""
    return f"`{recipe}`: {read_switch(recipe).title}" if recipe in names("switches") else f"`{recipe}`"


def _first(group: dict[int, dict[str, Any]]) -> dict[str, Any]:
    return next(iter(group.values()))


def _mean(group: dict[int, dict[str, Any]], name: str) -> float:
    values = [each["figures"][name] for each in group.values() if name in each["figures"]]
    return statistics.mean(values) if values else float("inf")


def _cell(group: dict[int, dict[str, Any]], base: dict[int, dict[str, Any]], name: str) -> str:
    values = {seed: each["figures"][name] for seed, each in group.items() if name in each["figures"]}
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values.values()):.1f}" if len(values) > 1 else ""
    pairs = [
        (value, base[seed]["figures"][name])
        for seed, value in values.items()
        if seed in base and name in base[seed]["figures"]
    ]
    wins = (
        ""
        if group is base or not pairs or not COLUMNS[name][1]
        else f" ({sum(COLUMNS[name][1] * (a - b) > 0 for a, b in pairs)}/{len(pairs)})"
    )
    return f"{statistics.mean(values.values()):.1f}{spread}{wins}"
