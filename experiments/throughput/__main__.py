"""`python -m experiments.throughput ROW...`: measure rows, or make the table of what was measured; see README.md."""

from __future__ import annotations

import argparse
import fnmatch
import sys
import warnings
from pathlib import Path
from typing import Any

from experiments.throughput.catalogue import ROWS, Row
from experiments.throughput.results import Place, ResultFile, read_results
from experiments.throughput.table import render
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.config import PRESETS, SAMPLE_RATE
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.progress import progress_bar

CHANGES = ("size", "batch", "precision", "dropout", "device")  # options of this command that are settings of rows
GROUPS = {"goals": lambda row: row.must is not None and row.device != "cuda", "gpu": lambda row: row.device == "cuda"}


def main(argv: list[str] | None = None) -> int:
    """Exit status: 130 after Ctrl-C, and the results so far are kept."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.table:
            print(render(read_results(arguments.table)))
            return 0
        return _measure(arguments)
    except UserError as error:
        print(f"throughput: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"throughput: interrupted; {arguments.out} has the finished rows, and --resume measures the others",
            file=sys.stderr,
        )
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.throughput",
        description="Ours beside transformers, torchaudio and the original implementation.",
        epilog="rows: " + ", ".join(ROWS),
    )
    parser.add_argument(
        "rows", nargs="*", default=["goals"], help="names or patterns, `goals` (default), `gpu` or `all`"
    )
    parser.add_argument("--table", type=Path, metavar="FILE", help="only print the table of this file")
    parser.add_argument("--out", type=Path, default=Path("runs/throughput/results.json"))
    parser.add_argument("--resume", action="store_true", help="keep what --out holds, and measure the rest")
    parser.add_argument("--work", type=Path, default=Path("runs/throughput"), help="folder for the corpora it makes")
    parser.add_argument(
        "--original", type=Path, metavar="FOLDER", help="unilm's WavLM.py and modules.py, to compare with"
    )
    parser.add_argument("--rounds", type=int, default=7, help="of each row")
    parser.add_argument("--clock", choices=("wall", "processor"), default="wall", help="see README.md")
    parser.add_argument("--threads", type=int, help="of PyTorch on the CPU (default: as it likes)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="of the encoder rows")
    parser.add_argument("--size", help="preset of the encoder: tiny, base, large")
    parser.add_argument("--batch", type=int, help="utterances")
    parser.add_argument("--seconds", type=float, nargs="+", help="length of each; several make a line each")
    parser.add_argument("--precision", choices=("fp32", "bf16"))
    parser.add_argument("--dropout", type=float, help="in training; 0 unless given, as it is slow on CPUs for everyone")
    return parser


def _measure(arguments: argparse.Namespace) -> int:
    import torch

    warnings.simplefilter("ignore")
    _check(arguments, torch.cuda.is_available())
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    chosen = select(arguments.rows, torch.cuda.is_available())
    for name in (*CHANGES, "seconds"):
        if getattr(arguments, name) is not None and not any(name in row.settings for _, row in chosen):
            raise UserError(f"--{name}: changes nothing in {', '.join(name for name, _ in chosen)}; leave it out")
    file = ResultFile(arguments.out, arguments.resume)
    for name, row in chosen:
        for settings in variations(row, arguments):
            if file.holds(name, settings):
                continue
            with progress_bar(desc=name, unit="run") as bar:
                result = row.measure(name, settings, Place(arguments.work, arguments.original), bar.update)
            file.add(result, str(settings.get("device", "cpu")))
    print(render(list(file.results.values())))
    return 0


def _check(arguments: argparse.Namespace, gpu: bool) -> None:
    for name, least in (("rounds", 1), ("threads", 1), ("batch", 1), ("dropout", 0)):
        if (value := getattr(arguments, name)) is not None and value < least:
            raise UserError(f"--{name} {value}: at least {least}")
    if arguments.size is not None and arguments.size not in PRESETS:
        raise UserError(f"--size {arguments.size}: no such preset; there are {', '.join(PRESETS)}")
    for seconds in arguments.seconds or []:
        if seconds * SAMPLE_RATE < WavLMConfig.preset(arguments.size or "base").receptive_field:
            raise UserError(f"--seconds {seconds:g}: shorter than a frame; give more")
    if arguments.device == "cuda" and not gpu:
        raise UserError("--device cuda: this machine has no CUDA GPU")


def select(patterns: list[str], gpu: bool) -> list[tuple[str, Row]]:
    """The requested rows, in the order of the catalogue.

    Raises:
        UserError: no row has that name, or it needs a GPU and this machine has none.
    """
    found = []
    for pattern in patterns:
        fits = GROUPS.get(pattern)
        names = [
            name
            for name, row in ROWS.items()
            if pattern == "all" or (fits(row) if fits else fnmatch.fnmatch(name, pattern))
        ]
        if not names:
            raise UserError(f"no row {pattern!r}; there are {', '.join([*GROUPS, 'all', *ROWS])}")
        found += names
    chosen = [(name, row) for name, row in ROWS.items() if name in found]
    if not gpu and all(row.device == "cuda" for _, row in chosen):
        raise UserError("these rows need a CUDA GPU, which this machine does not have")
    return [(name, row) for name, row in chosen if gpu or row.device != "cuda"]


def variations(row: Row, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The settings of a row, changed as the command line says, once for each length."""
    settings = {"device": row.device, **row.settings, "rounds": arguments.rounds, "clock": arguments.clock}
    for name in CHANGES:  # only what the row obeys: the table says them all
        if name in row.settings and getattr(arguments, name) is not None:
            settings[name] = getattr(arguments, name)
    if arguments.threads:
        settings["threads"] = arguments.threads
    if arguments.original and row.original:  # measured without it, the row lacks a peer
        settings["original"] = True
    lengths = arguments.seconds if arguments.seconds and "seconds" in settings else [settings.get("seconds")]
    return [settings | ({} if length is None else {"seconds": length}) for length in lengths]


if __name__ == "__main__":
    sys.exit(main())
