"""`wavlm lm TEXT... --out lm.arpa`: an n-gram language model for ASR from texts or from a corpus' transcripts."""

from __future__ import annotations

import argparse
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm lm`."""
    from wavlm_lightning.tasks.components.ngrams import HIGHEST
    from wavlm_lightning.workflows.language_model import UNITS

    parser = argparse.ArgumentParser(
        prog="wavlm lm",
        description="Count an n-gram language model with modified Kneser-Ney smoothing, as KenLM's lmplz does, and write an "
        "ARPA file.",
    )
    parser.add_argument(
        "sources",
        nargs="+",
        type=Path,
        metavar="TEXT",
        help="a text file with a sentence a line (.gz too), or a folder of a corpus, whose transcripts are taken",
    )
    parser.add_argument("--out", type=Path, required=True, help="ARPA file to write")
    parser.add_argument("--order", type=int, default=4, help=f"longest n-gram, 1 to {HIGHEST} (default 4)")
    meanings = "; ".join(f"{name}: {text}" for name, text in UNITS.items())
    parser.add_argument("--units", choices=UNITS, default="words", help=f"{meanings} (default words)")
    parser.add_argument("--split", default="train", help="of corpora (default train)")
    parser.add_argument(
        "--as-it-is", action="store_true", help="keep case and punctuation, which are removed from texts by default"
    )
    parser.add_argument("--lexicon", type=Path, help="also write a lexicon of all words by their letters")
    return parser


def main(argv: list[str]) -> int:
    """Count, write, and say what was counted."""
    from wavlm_lightning.workflows.language_model import make_language_model

    print("\n".join(make_language_model(**vars(build_parser().parse_args(argv)))))
    return 0
