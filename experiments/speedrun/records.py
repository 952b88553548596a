"""The check of a record against the target of its track, the log of records, and its plot."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import ttest_1samp

from wavlm_lightning.reports.theme import MUTED, SERIES, new_figure, save_png, style

LOG, TABLE, PLOT = "records.csv", "records.md", "records.png"
SEEDS, LEVEL = 3, 0.01
"""A record needs this many seeds, and a one-sided t-test of its first figure below this level."""
CLOCKS = {
    "audio": ("unique audio", "s"),
    "encoder": ("encoder frames", "s"),
    "flops": ("operations", "PFLOP"),
    "wall": ("wall clock", "s"),
}
COLUMNS = (
    "date", "commit", "record", "switches", "budget", "updates", "seeds", "pr", "pr_sd", "p", "ks", "ks_sd", "sid", "sid_sd",
    "audio", "encoder", "flops", "wall", "cpu", "processor", "threads", "jobs", "attempts", "holds",
)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Whether a recipe reaches the target.

    Attributes:
        holds: whether all conditions do.
        p: of the one-sided t-test that the mean of the first figure is below the target.
        reasons: a sentence for each condition.
    """

    holds: bool
    p: float
    reasons: tuple[str, ...]


def check(
    results: Sequence[Mapping[str, Any]], target: Mapping[str, float], baseline: Sequence[Mapping[str, Any]]
) -> Verdict:
    """Compare the seeds of a recipe with the target of a track.

    The mean of the first figure of `target` (PR's error) must be below it, with p < `LEVEL`. The others (KS, SID) may be
    below theirs by one standard deviation of the baseline's seeds at full budget.

    Args:
        results: of all seeds of one recipe.
        target: figure -> value.
        baseline: results of the baseline at full budget, for the standard deviations.
    """
    main, *gates = target
    values = [each["figures"][main] for each in results]
    holds = [len(values) >= SEEDS]
    reasons = [f"{len(values)} seeds of the {SEEDS} that a record needs"]
    p = math.nan
    if len(set(values)) > 1:
        p = float(ttest_1samp(values, target[main], alternative="less").pvalue)
    holds.append(p < LEVEL)
    reasons.append(
        f"{main.upper()} {statistics.mean(values):.1f} against at most {target[main]}"
        + (f", one-sided p {p:.2g}" if not math.isnan(p) else ", no test without a spread over seeds")
    )
    for gate in gates:
        spread = [each["figures"][gate] for each in baseline]
        mean = statistics.mean(each["figures"][gate] for each in results)
        if len(spread) < SEEDS:
            holds.append(False)
            reasons.append(
                f"{gate.upper()} {mean:.1f}: not compared, because its spread needs {SEEDS} seeds of `record baseline`"
            )
            continue
        least = target[gate] - statistics.stdev(spread)
        holds.append(mean >= least)
        reasons.append(
            f"{gate.upper()} {mean:.1f} against at least {least:.1f}, the target less one standard deviation"
        )
    supervised = any(each["supervised"] for each in results)
    holds.append(not supervised)
    if supervised:
        reasons.append("its targets have seen labels: an upper bound, not a record")
    return Verdict(all(holds), p, tuple(reasons))


def means(results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The mean of each probe over results; none without results."""
    figures = [name for name in ("pr", "ks", "sid") if results and all(name in each["figures"] for each in results)]
    return {name: statistics.mean(each["figures"][name] for each in results) for name in figures}


def row_of(results: Sequence[Mapping[str, Any]], verdict: Verdict) -> dict[str, Any]:
    """A recipe as a row of the log: means over its seeds, standard deviations, clocks."""
    first = results[0]
    row: dict[str, Any] = {"date": first["date"], "commit": first["commit"], "record": first["recipe"]}
    row |= {
        "switches": " ".join(first["switches"]),
        "budget": first["budget"],
        "updates": first["updates"],
        "seeds": len(results),
    }
    for figure in ("pr", "ks", "sid"):
        values = [each["figures"][figure] for each in results if figure in each["figures"]]
        if not values:  # real speech has no KS and SID
            row |= {figure: "", f"{figure}_sd": ""}
            continue
        row |= {
            figure: round(statistics.mean(values), 2),
            f"{figure}_sd": round(statistics.stdev(values), 2) if len(values) > 1 else "",
        }
    row["p"] = f"{verdict.p:.2g}"
    for clock in (*CLOCKS, "cpu"):
        row[clock] = float(f"{statistics.mean(each['clocks'][clock] for each in results):.4g}")
    row |= {"jobs": max(each["jobs"] for each in results)}
    row |= {"attempts": max(each["clocks"]["attempts"] - each["clocks"]["commands"] for each in results) + 1}
    return row | {
        "processor": first["processor"],
        "threads": first["threads"],
        "holds": "yes" if verdict.holds else "no",
    }


def read_log(folder: Path) -> list[dict[str, str]]:
    """The rows of the log, oldest first; none without a log."""
    path = folder / LOG
    return list(csv.DictReader(path.open(newline=""))) if path.is_file() else []


def append(folder: Path, row: Mapping[str, Any]) -> None:
    """Add a row to the log, in the place of an earlier one of the same recipe and commit; write its table and plot again."""
    same = ("record", "switches", "budget", "commit")
    rows, new = read_log(folder), {name: str(row[name]) for name in COLUMNS}
    # Not at the end: the first row is the baseline's, of which all others are shares.
    place = next((n for n, each in enumerate(rows) if all(each[name] == new[name] for name in same)), len(rows))
    rows[place : place + 1] = [new]
    with (folder / LOG).open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / TABLE).write_text("\n".join(table(rows)) + "\n")
    plot(rows, folder / PLOT)


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The log as Markdown; each clock with its share of the first row's, which is the baseline's."""
    lines = [
        "| date | commit | record | switches | updates | PR PER % ↓ | KS % ↑ | SID % ↑ | p | "
        + " | ".join(f"{title}, {unit}" for title, unit in CLOCKS.values())
        + " | target |",
        "|---|---|---|---|---|---|---|---|---|" + "---|" * (len(CLOCKS) + 1),
    ]
    for row in rows:
        figures = [
            (f"{float(row[name]):.1f}" if row[name] else "")
            + (f" ± {float(row[f'{name}_sd']):.1f}" if row[f"{name}_sd"] else "")
            for name in ("pr", "ks", "sid")
        ]
        clocks = []
        for name in CLOCKS:
            value, first = float(row[name]), float(rows[0][name])
            clocks.append(f"{value / 1e15 if name == 'flops' else value:.4g} (1/{first / value:.2g})")
            if name == "wall" and row["jobs"] != "1":
                clocks[-1] += " beside others"
        cells = [
            row["date"],
            row["commit"],
            row["record"],
            row["switches"],
            row["updates"],
            *figures,
            row["p"],
            *clocks,
            row["holds"],
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def plot(rows: Sequence[Mapping[str, str]], path: Path) -> Path:
    """Draw each clock of the records over time, as a share of the first row's; rows that miss the target are hollow."""
    with style():
        figure = new_figure(8, 4.5)
        axes = figure.add_subplot()
        places = range(len(rows))
        held = [number for number in places if number == 0 or rows[number]["holds"] == "yes"]
        for colour, (name, (title, _)) in zip(SERIES, CLOCKS.items(), strict=False):
            shares = [float(row[name]) / float(rows[0][name]) for row in rows]
            axes.plot(held, [shares[number] for number in held], "o-", color=colour, label=title)
            missed = [number for number in places if number not in held]
            axes.plot(missed, [shares[number] for number in missed], "o", color=colour, markerfacecolor="none")
        axes.set_yscale("log", base=2)
        for share, name in ((1 / 3, "a third"), (1 / 10, "a tenth")):
            axes.axhline(share, color=MUTED, linewidth=0.8, linestyle=":")
            axes.annotate(name, (0, share), xytext=(2, 2), textcoords="offset points", color=MUTED, fontsize=8)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
        axes.set_xticks(list(places), [f"{row['record']}\n{row['date']}" for row in rows], rotation=30, ha="right")
        axes.set_ylabel("share of the first row")
        axes.set_title("Cost of the demo's quality")
        axes.legend()
    return save_png(figure, path)
