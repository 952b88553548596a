"""The table of README.md: losses and accuracies of the runs that run.sh made.

python experiments/objectives/curves.py runs/objectives
"""

import csv
import sys
from pathlib import Path

RUNS = ("tiny_waveform", "tiny_ctcbert", "tiny_soft", "tiny_two_codebooks")
HEAD = (
    "configuration",
    "term",
    "loss, nats a frame",
    "masked frames, %",
    "commonest label, %",
    "visible frames, %",
    "more",
)


def validations(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's curves that validations wrote."""
    found = [row for path in sorted(folder.glob("curves/*/metrics.csv")) for row in csv.DictReader(path.open())]
    return [row for row in found if row.get("valid/masked_accuracy")]


def change(first: dict[str, str], last: dict[str, str], key: str, scale: float, digits: int) -> str:
    """A figure of the first and of the last validation."""
    return " → ".join(f"{scale * float(row[key]):.{digits}f}" for row in (first, last))


def line(name: str, term: str, first: dict[str, str], last: dict[str, str]) -> str:
    """The row of one objective; `term` is what its figures begin with."""
    more = [f"{key} {float(value):.2f}" for key in ("target_entropy", "blank_share") if (value := last.get(term + key))]
    cells = (
        f"`{name}`",
        term.removeprefix("valid/").strip("_") or "first",
        change(first, last, f"{term}loss", 1, 2),
        change(first, last, f"{term}masked_accuracy", 100, 1),
        f"{100 * float(last[f'{term}majority_accuracy']):.1f}",
        change(first, last, f"{term}unmasked_accuracy", 100, 1),
        ", ".join(more),
    )
    return f"| {' | '.join(cells)} |"


def main(out: str) -> None:
    """Print a row for each objective with labels."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for name in RUNS:
        first, *_, last = validations(Path(out) / name)
        for key in first:
            if key.startswith("valid/") and key.endswith("masked_accuracy") and "unmasked" not in key:
                print(line(name, key.removesuffix("masked_accuracy"), first, last))


if __name__ == "__main__":
    main(sys.argv[1])
