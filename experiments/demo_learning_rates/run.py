"""Learning rates of the demo's heads: a grid for every task and upstream, chosen on the validation split.

    python experiments/demo_learning_rates/run.py --demo runs/demo --out runs/demo_learning_rates

First every rate with the seed of the demo, then the best and its neighbours with two further seeds, until the best mean on
validation over three seeds has neighbours with three; it is chosen, as SUPERB chooses. The rate of the YAML has three seeds,
too. Needs a finished `wavlm demo`; runs that have a card are not repeated. Writes every run to `grid.csv` and prints the tables
of README.md. `--upstreams` leaves out those that a new encoder does not change.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import yaml

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.shipped_configs import resolve_config
from wavlm_lightning.upstreams.specs import resolve
from wavlm_lightning.workflows.demo.heads import UPSTREAMS, Head, all_heads
from wavlm_lightning.workflows.demo.stages import RECIPE
from wavlm_lightning.workflows.fit.head_runs import HeadRun, run_heads
from wavlm_lightning.workflows.recipe.chain import chain

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
GRID = {"pr": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2), "ks": RATES, "sid": RATES}
SEED, MORE_SEEDS = 1337, (1338, 1339)  # that of configs/superb/mini, and those of the second pass
LOWER_IS_BETTER = ("pr",)
RATE = "--model.learning_rate"


class Cell(NamedTuple):
    """A head at one rate with one seed."""

    task: str
    upstream: str
    rate: float
    seed: int


def results(cells: Sequence[Cell], heads: Sequence[Head], out: Path) -> dict[Cell, ResultCard]:
    """Train and test what has no card yet."""
    of = {(head.task, head.upstream): head for head in heads}
    runs = {}
    for cell in cells:
        name = f"{cell.task}-{UPSTREAMS[cell.upstream]}-{cell.rate:g}" + (f"-{cell.seed}" if cell.seed != SEED else "")
        options = of[cell.task, cell.upstream].options()
        if RATE in options:  # so that a choice by this grid leaves its runs what they are
            place = options.index(RATE)
            del options[place : place + 2]
        options += [RATE, str(cell.rate)]
        options += ["--seed_everything", str(cell.seed)] if cell.seed != SEED else []
        runs[cell] = HeadRun(out / name, options)
    with progress_bar(total=len(runs), desc="heads", unit="head") as bar:
        run_heads(list(runs.values()), lambda _: bar.update())
    return {cell: ResultCard.read(run.folder) for cell, run in runs.items()}


def on_validation(card: ResultCard) -> float:
    """The figure that chooses, in percent."""
    assert card.selection is not None
    return 100 * card.selection["value"]


def best(cards: dict[Cell, ResultCard], task: str, upstream: str) -> float:
    """The rate with the best mean on validation over its seeds, among those with the most seeds."""
    found: dict[float, list[float]] = {}
    for cell, card in cards.items():
        if (cell.task, cell.upstream) == (task, upstream):
            found.setdefault(cell.rate, []).append(on_validation(card))
    most = max(map(len, found.values()))
    means = {rate: statistics.mean(values) for rate, values in found.items() if len(values) == most}
    return (min if task in LOWER_IS_BETTER else max)(means, key=lambda rate: means[rate])


def usual_rate(task: str) -> float:
    """The rate of the task's YAML."""
    content = yaml.safe_load(Path(resolve_config(f"configs/superb/mini/{task}.yaml")).read_text())
    return content["model"]["init_args"]["learning_rate"]


def around(rates: Sequence[float], rate: float) -> Sequence[float]:
    """A rate and its neighbours in a grid."""
    place = rates.index(rate)
    return rates[max(0, place - 1) : place + 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo_learning_rates"))
    parser.add_argument("--upstreams", nargs="+", choices=UPSTREAMS, default=[*UPSTREAMS], metavar="LABEL")
    arguments = parser.parse_args()
    model = chain(RECIPE)[-1].content["model"]["init_args"]  # random weights are of the shape that the demo trains
    heads = all_heads(arguments.demo, None, model["encoder"], model.get("encoder_overrides"))
    heads = [head for head in heads if head.upstream in arguments.upstreams]
    for task in GRID:  # before dozens of heads fail one by one
        Corpus.open(arguments.demo / "corpus" / task)
    if "pre-trained" in arguments.upstreams:
        resolve(str(arguments.demo / "pretrain"))
    kinds = [(head.task, head.upstream) for head in heads]
    first = [Cell(task, upstream, rate, SEED) for task, upstream in kinds for rate in GRID[task]]
    cards = results(first, heads, arguments.out)
    while missing := [
        cell
        for task, upstream in kinds
        for rate in {*around(GRID[task], best(cards, task, upstream)), usual_rate(task)}
        for seed in MORE_SEEDS
        if (cell := Cell(task, upstream, rate, seed)) not in cards
    ]:
        cards |= results(missing, heads, arguments.out)
    with (arguments.out / "grid.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*Cell._fields, "valid_percent", "test_percent", "best_step"])
        writer.writerows(
            [*cell, f"{on_validation(card):.1f}", f"{card.value:.1f}", card.best_step] for cell, card in cards.items()
        )
    print("\n".join(table(cards, kinds)))


def table(cards: dict[Cell, ResultCard], kinds: Sequence[tuple[str, str]]) -> list[str]:
    """A row for every task and upstream: validation / test in percent, means over the seeds; the spread where there are three."""
    lines = list[str]()
    for task, rates in GRID.items():
        lines += ["", f"{task}:", "", "| upstream | " + " | ".join(f"{rate:g}" for rate in rates) + " |"]
        lines.append("|---" * (1 + len(rates)) + "|")
        for upstream in [upstream for each, upstream in kinds if each == task]:
            cells, taken = list[str](), best(cards, task, upstream)
            for rate in rates:
                found = [card for cell, card in cards.items() if cell[:3] == (task, upstream, rate)]
                tests = [card.value for card in found]
                text = f"{statistics.mean(map(on_validation, found)):.1f} / {statistics.mean(tests):.1f}"
                text += f" ± {statistics.stdev(tests):.1f}" if len(tests) > 1 else ""
                cells.append(f"**{text}**" if rate == taken else text)
            lines.append(f"| {upstream} | " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
