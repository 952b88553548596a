"""Learning rates of the demo's heads: a grid for every task and upstream, chosen on the validation split.

    python experiments/demo_learning_rates/run.py --demo runs/demo --out runs/demo_learning_rates

Needs a finished `wavlm demo`; runs that have a card are not repeated. Prints the grid and writes it to `grid.csv`.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.workflows.demo.heads import UPSTREAMS, all_heads
from wavlm_lightning.workflows.demo.stages import RECIPE
from wavlm_lightning.workflows.fit.head_runs import HeadRun, run_heads
from wavlm_lightning.workflows.recipe.chain import chain

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
GRID = {"pr": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2), "ks": RATES, "sid": RATES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo_learning_rates"))
    arguments = parser.parse_args()
    runs: dict[tuple[str, str, float], HeadRun] = {}
    model = chain(RECIPE)[-1].content["model"]["init_args"]  # random weights are of the shape that the demo trains
    for head in all_heads(arguments.demo, None, model["encoder"], model.get("encoder_overrides")):
        for rate in GRID[head.task]:
            name = f"{head.task}-{UPSTREAMS[head.upstream]}-{rate:g}"
            options = [*head.options(), "--model.learning_rate", str(rate)]
            runs[head.task, head.upstream, rate] = HeadRun(arguments.out / name, options)
    with progress_bar(total=len(runs), desc="heads", unit="head") as bar:
        run_heads(list(runs.values()), lambda _: bar.update())
    with (arguments.out / "grid.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "upstream", "learning_rate", "valid_percent", "test_percent", "best_step"])
        for (task, upstream, rate), run in runs.items():
            card = ResultCard.read(run.folder)
            assert card.selection is not None
            writer.writerow(
                [task, upstream, rate, f"{100 * card.selection['value']:.1f}", f"{card.value:.1f}", card.best_step]
            )
    print((arguments.out / "grid.csv").read_text())


if __name__ == "__main__":
    main()
