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
from wavlm_lightning.workflows.demo.heads import UPSTREAMS, Head
from wavlm_lightning.workflows.fit.head_runs import HeadRun, run_heads

RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
GRID = {"pr": (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2, 3.2e-2), "ks": RATES, "sid": RATES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("runs/demo_learning_rates"))
    arguments = parser.parse_args()
    runs: dict[tuple[str, str, float], HeadRun] = {}
    for task, rates in GRID.items():
        for upstream, short in UPSTREAMS.items():
            for rate in rates:
                options = [*Head(task, upstream, arguments.demo).options(), "--model.learning_rate", str(rate)]
                runs[task, upstream, rate] = HeadRun(arguments.out / f"{task}-{short}-{rate:g}", options)
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
