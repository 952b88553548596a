"""`wavlm lm TEXT... --out lm.arpa`: an n-gram model of texts; `wavlm lm tune RUN --lm lm.arpa`: its weights for a head."""

from __future__ import annotations

import argparse
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm lm TEXT...`."""
    from wavlm_lightning.tasks.components.ngrams import HIGHEST
    from wavlm_lightning.workflows.language_model import UNITS

    parser = argparse.ArgumentParser(
        prog="wavlm lm",
        description="Count an n-gram language model with modified Kneser-Ney smoothing, as KenLM's lmplz does, and write an "
        "ARPA file. `wavlm lm tune RUN --lm lm.arpa` then searches its weights for a trained ASR or PR head on validation.",
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
    parser.add_argument("--split", default="train", help="of corpora, never validation or test (default train)")
    parser.add_argument(
        "--as-it-is", action="store_true", help="keep case and punctuation, which are removed from texts by default"
    )
    parser.add_argument("--lexicon", type=Path, help="also write a lexicon of all words by their letters")
    return parser


def tune_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm lm tune RUN`; names of options are those of arguments of `tune_language_model`."""
    from wavlm_lightning.system.arguments import positive, whole

    parser = argparse.ArgumentParser(
        prog="wavlm lm tune",
        description="Search the weights of a language model for a trained ASR or PR head on its validation split, and write "
        "RUN/language_model.yaml. The same command resumes an interrupted search.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder of the head")
    parser.add_argument("--lm", type=Path, required=True, help="ARPA file of words, letters or phones")
    parser.add_argument("--lexicon", type=Path, help="words and their letters; by default all words of the model")
    parser.add_argument("--split", help="of the run's corpus, never its test (default: that of its validations)")
    parser.add_argument("--trials", type=whole, default=60, help="sets of weights to try (default 60)")
    parser.add_argument("--beam", type=whole, default=50, help="hypotheses kept at each frame (default 50)")
    parser.add_argument("--threshold", type=positive, default=25.0, help="nats behind the best at which they go (25)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights that are tried")
    parser.add_argument("--corpus", type=Path, help="where the corpus is, if not where the run says")
    parser.add_argument("--device", help="such as cuda; the GPU if there is one by default")
    return parser


WORDS = {"tune": tune_parser}
"""First words that are no file, with their parsers."""


def main(argv: list[str]) -> int:
    """Count or search, and say what was found."""
    if argv[:1] == ["tune"]:
        options = vars(WORDS["tune"]().parse_args(argv[1:]))
        from wavlm_lightning.workflows.language_model_weights import tune_language_model

        print("\n".join(tune_language_model(**options)))
        return 0
    options = vars(build_parser().parse_args(argv))
    from wavlm_lightning.workflows.language_model import make_language_model

    print("\n".join(make_language_model(**options)))
    return 0
