"""`wavlm pseudo-label RUN CORPUS --out CORPUS2`: transcripts of a trained recogniser, as a corpus to train a student on."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.system.arguments import positive, whole


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm pseudo-label`; options have the names of arguments of `pseudo_label`."""
    from wavlm_lightning.tasks.components.confidence import SCORES

    parser = argparse.ArgumentParser(
        prog="wavlm pseudo-label",
        description="Transcribe a corpus with a trained ASR or PR head, choose the transcripts that it is surest of, and write "
        "them as a corpus, whose audio is linked: `wavlm fit ... --data.pseudo_corpus CORPUS2` trains a student on it. The same "
        "command goes on where it was interrupted; with another --share or --score it hears nothing again.",
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder of the teacher; for a second round, of the student"
    )
    parser.add_argument("corpus", type=Path, metavar="CORPUS", help="folder of the corpus to transcribe")
    parser.add_argument("--out", type=Path, required=True, metavar="CORPUS2", help="folder of the new corpus")
    parser.add_argument(
        "--share", type=positive, help="of the transcripts, the best (default 0.7; give 0.9 in a second round)"
    )
    parser.add_argument("--threshold", type=float, help="keep transcripts with at least this score instead")
    meanings = "; ".join(f"{name}: {text}" for name, text in SCORES.items())
    parser.add_argument("--score", choices=SCORES, default="confidence", help=f"{meanings} (default confidence)")
    parser.add_argument(
        "--lm", type=Path, help="ARPA file, for a beam search with the weights that `wavlm lm tune RUN` found"
    )
    parser.add_argument("--splits", nargs="+", help="splits to transcribe (default train)")
    others = "leave out utterances whose keys are in these corpora, such as the labelled corpus of the student"
    parser.add_argument("--exclude", nargs="+", default=(), type=Path, metavar="CORPUS", help=others)
    parser.add_argument("--min-seconds", type=float, default=1.0, help="shorter utterances are left out (default 1)")
    parser.add_argument(
        "--max-seconds", type=positive, default=30.0, help="longer utterances are left out (default 30)"
    )
    parser.add_argument("--batch-seconds", type=positive, default=60.0, help="audio in a batch (default 60)")
    parser.add_argument("--jobs", type=whole, metavar="J", help="processes (default: one per GPU, else one per core)")
    parts = "only hear every N-th shard, from the I-th on, for job arrays; the same command without --part comes after all parts"
    parser.add_argument("--part", metavar="I/N", help=f"{parts}; `auto` goes by SLURM or torchrun")
    parser.add_argument("--device", help="such as cuda; the GPU if there is one by default")
    return parser


def main(argv: list[str]) -> int:
    """Transcribe, choose, write, and say what was found."""
    options = vars(build_parser().parse_args(argv))
    from wavlm_lightning.workflows.pseudo_label import pseudo_label

    print("\n".join(pseudo_label(**options)))
    return 0
