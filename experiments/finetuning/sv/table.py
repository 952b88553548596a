"""Prints the figures of `run.sh` as a table, from the result cards: `python table.py runs/finetuning/sv`."""

from __future__ import annotations

import sys
from pathlib import Path

from wavlm_lightning.reports.cards import ResultCard

STAGES = {"frozen": "frozen", "joint": "joint", "large_margin": "large margin"}
SCORES = {"": "cosine", "_as_norm": "AS-norm", "_qmf": "QMF"}


def main(folder: Path) -> None:
    """A row for each training and stage: EER in % and minDCF (P 0.01) of each score, on clean and on noisy trials."""
    cells = [f"{name}, {hears}" for hears in ("clean", "noisy") for name in SCORES.values()]
    print(f"| training | stage | {' | '.join(cells)} |\n|{'---|' * (2 + len(cells))}")
    for arm, title in (("augmented", "with noise and rooms"), ("plain", "without")):
        for stage, name in STAGES.items():
            row = []
            for hears in ("clean", "noisy"):
                metrics = ResultCard.read(folder / arm / f"{stage}-{hears}" / "card.json").metrics
                for end in SCORES:
                    row.append(f"{metrics[f'eer{end}']['value']:.2f} / {metrics[f'min_dcf{end}']['value']:.3f}")
            print(f"| {title} | {name} | {' | '.join(row)} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
