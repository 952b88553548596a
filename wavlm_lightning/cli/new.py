"""`wavlm new KIND NAME`: a Python file with a working class to change, and the YAML that runs it."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.workflows.new import KINDS, next_commands, write_template


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm new`."""
    kinds = "; ".join(f"{kind}: {text}" for kind, text in KINDS.items())
    parser = argparse.ArgumentParser(
        prog="wavlm new",
        description="Write NAME.py, which runs as it is on the mini corpus, and NAME.yaml into the current folder. "
        f"Nothing has to be installed or registered. {kinds}.",
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("name", metavar="NAME", help="name of the module, such as my_task; its class is then MyTask")
    return parser


def main(argv: list[str]) -> int:
    """Write the files and print the commands that use them."""
    arguments = build_parser().parse_args(argv)
    written = write_template(arguments.kind, arguments.name, Path.cwd())
    print(f"made {' and '.join(path.name for path in written)}; next:")
    for line in next_commands(written[-1]):
        print(f"  {line}")
    return 0
