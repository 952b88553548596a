"""`wavlm align RUN CORPUS --name NAME`: times of letters, phones and words; `--from` reads those of another aligner."""

from __future__ import annotations

import argparse
from pathlib import Path

FORMATS = ("textgrid", "ctm", "kaldi")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm align`; options have the names of arguments of `align_corpus`."""
    from wavlm_lightning.system.arguments import positive

    parser = argparse.ArgumentParser(
        prog="wavlm align",
        usage="wavlm align RUN CORPUS --name NAME [options]\n"
        "       wavlm align --from FORMAT PATH CORPUS --name NAME [--map FILE]",
        description="Align a corpus with a trained ASR or PR head, and write CORPUS/alignments/NAME; or read the times of "
        "another aligner. The same command goes on where an interrupted one stopped.",
    )
    parser.add_argument(
        "source", metavar="RUN", type=Path, help="run folder of the head; with --from the files to read"
    )
    parser.add_argument("corpus", metavar="CORPUS", type=Path, help="folder of the corpus")
    parser.add_argument("--name", required=True, help="of the alignments")
    parser.add_argument("--splits", nargs="+", help="only these splits")
    whose = "whose text: `true`, that of the corpus, or `decoded`, what the head hears (default true)"
    parser.add_argument("--transcripts", choices=("true", "decoded"), default="true", help=whose)
    part = "a corpus whose utterances keep its text, found by their keys; all others are decoded, as are those of its "
    part += "validation and test that are for training here"
    parser.add_argument("--labelled", metavar="CORPUS2", type=Path, help=part)
    parser.add_argument(
        "--lm", type=Path, help="decode with an ARPA file (`wavlm lm`), or with weights of `wavlm lm tune`"
    )
    words = "words and their letters for a search, or, for a head of phones, their pronunciations"
    parser.add_argument("--lexicon", type=Path, help=words)
    finer = "grid of the search in Hz: 100 gives quick speech twice as many frames (default: that of the head)"
    parser.add_argument("--rate", type=int, choices=(50, 100), help=finer)
    once = "align once more with a small classifier of frames; phone heads only"
    parser.add_argument("--realign", action="store_true", help=once)
    parser.add_argument("--batch-seconds", type=positive, default=60.0, help="audio in a batch (default 60)")
    parser.add_argument("--device", help="such as cuda; the GPU if there is one by default")
    parser.add_argument(
        "--from", dest="form", choices=FORMATS, help="read alignments of this format from the first path"
    )
    parser.add_argument("--map", type=Path, help="with --from: a file that renames phones, a line `THEIRS OURS` each")
    return parser


def main(argv: list[str]) -> int:
    """Align or read, and say what was done."""
    from wavlm_lightning.system.errors import UserError

    parser = build_parser()
    options = vars(parser.parse_args(argv))
    source, form, mapping = options.pop("source"), options.pop("form"), options.pop("map")
    if form is None:
        if mapping is not None:
            raise UserError("--map: renames the phones of files that are read; give --from, or leave --map out")
        from wavlm_lightning.workflows.align import align_corpus

        print("\n".join(align_corpus(source, options.pop("corpus"), options.pop("name"), **options).lines))
        return 0
    given = [
        name
        for name in options
        if name not in ("corpus", "name", "splits") and options[name] != parser.get_default(name)
    ]
    if given:
        raise UserError(
            f"--{given[0].replace('_', '-')}: says nothing of files that are read; leave it out with --from"
        )
    from wavlm_lightning.data.alignments.importing import import_alignments

    where = {name: options[name] for name in ("corpus", "name", "splits")}
    print("\n".join(import_alignments(form, source, mapping=mapping, **where).lines()))
    return 0
