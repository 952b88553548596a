"""Throw damaged files at every reader of the package and count how each answers; see README.md beside this file."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from fuzzing.doors import DOORS, MAKE
from fuzzing.harness import FAULTS, Answer, Fuzzer, table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2_000, help="damaged files in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--door", action="append", help="only doors whose name begins so; may be given again")
    parser.add_argument("--only", type=int, help="only the input of this number, with its traceback; needs --door")
    parser.add_argument("--keep", type=Path, help="folder for the damaged files of --only")
    parser.add_argument("--table", type=Path, help="file for the table of counts")
    arguments = parser.parse_args()
    doors = [door for door in DOORS if not arguments.door or door.name.startswith(tuple(arguments.door))]
    if arguments.only is not None:
        doors = [door for door in DOORS if [door.name] == arguments.door]
    if not doors:
        named = "one whole name" if arguments.only is not None else "beginnings of names"
        parser.error(f"no door: --door takes {named} of {', '.join(door.name for door in DOORS)}")
    with tempfile.TemporaryDirectory() as work:
        fuzzer = Fuzzer(doors, Path(work), MAKE)
        if arguments.only is not None:
            print(fuzzer.one(doors[0], arguments.seed, arguments.only, arguments.keep, explain=True))
            return 0
        total, done, kinds = sum(fuzzer.shares(arguments.inputs).values()), 0, Counter[str]()
        seen: Counter[str] = Counter()

        def tick(answer: Answer) -> None:
            nonlocal done
            done += 1
            kinds[answer.kind] += 1
            if answer.kind in FAULTS:
                cause = f"{answer.door} {answer.kind} {answer.reason[:90]}"
                seen[cause] += 1
                if seen[cause] <= 2:
                    print(answer, flush=True)
            if (done % 1000 == 0 and sys.stderr.isatty()) or done % 5000 == 0:
                print(f"{done} of {total}: {dict(kinds)}", file=sys.stderr, flush=True)

        answers = fuzzer.run(arguments.inputs, arguments.seed, tick)
    made = table(answers)
    print(made)
    if arguments.table:
        arguments.table.write_text(made + "\n")
    return int(any(answer.kind in FAULTS for answer in answers))


if __name__ == "__main__":
    sys.exit(main())
