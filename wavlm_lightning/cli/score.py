"""`wavlm score KIND REFERENCE HYPOTHESIS [OTHER]`: errors of words, phones, turns and trials in files, with intervals.

`wavlm score RUN RUN ...` stacks quality predictors.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # its import takes seconds, and help must come at once
    from wavlm_lightning.workflows.score import Part, Scored


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm score`."""
    from wavlm_lightning.workflows.score import GROUPINGS, KINDS, PRIOR

    parser = argparse.ArgumentParser(
        prog="wavlm score",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Score answers against the truth. Brackets hold the 95 % interval of a bootstrap over utterances (or "
        "recordings,\ntrials; with --speakers over speakers).\n"
        "`wavlm score RUN` scores the transcripts that `wavlm test RUN` has left; `wavlm score RUN RUN ...` stacks quality\n"
        "predictors (MOS), fitted on their validation split (`wavlm score RUN RUN --help`).\n\n"
        + "\n".join(f"  {kind:<7} {text}" for kind, text in KINDS.items()),
    )
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("reference", type=Path, help="the truth")
    parser.add_argument("hypothesis", type=Path, help="the answers")
    parser.add_argument("other", type=Path, nargs="?", help="the answers of another system, to compare the two")
    parser.add_argument(
        "--speakers", type=Path, metavar="UTT2SPK", help="`utterance speaker` lines: a value for each speaker"
    )
    names = parser.add_mutually_exclusive_group()
    names.add_argument("--names", action="store_true", default=None, help="lines begin with the name of the utterance")
    names.add_argument("--no-names", action="store_false", dest="names", help="they do not")
    parser.add_argument("--missing", choices=("stop", "empty"), default="stop", help="an utterance without an answer")
    parser.add_argument(
        "--collar", type=float, default=0.0, help="sd: seconds on either side of a boundary that are not scored"
    )
    parser.add_argument("--prior", type=float, default=PRIOR, help="sv: prior of one speaker in the detection cost")
    parser.add_argument(
        "--by", nargs="+", choices=GROUPINGS, default=[], help="asr, pr: a table for each speaker, length or utterance"
    )
    parser.add_argument(
        "--errors", type=Path, metavar="FILE", help="asr, pr: write aligned errors and confusions there"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return parser


def build_fusion_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm score RUN RUN ...`."""
    parser = argparse.ArgumentParser(
        prog="wavlm score",
        description="Stack the predictions of several quality heads (MOS) by ridge regression that is fitted on their "
        "validation split, and score each head, their mean and the stack on the test.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of MOS heads on one corpus")
    parser.add_argument("--corpus", type=Path, help="where the corpus is now, if not where the runs say")
    parser.add_argument("--split", help="to score; the test split of the runs by default")
    parser.add_argument("--device", help="cpu, cuda, mps; the best one by default")
    parser.add_argument("--json", action="store_true", help="one JSON object, with the score of each utterance")
    return parser


def _fuse(argv: list[str]) -> int:
    """Stack heads, and print their figures and weights."""
    options = vars(build_fusion_parser().parse_args(argv))
    from wavlm_lightning.workflows.quality_fusion import fuse

    as_json = options.pop("json")
    fusion = fuse(**options)
    if as_json:
        print(json.dumps(asdict(fusion)))
        return 0
    width = max(map(len, fusion.measures))
    names = list(next(iter(fusion.measures.values())))
    print(f"{'':<{width}}  " + "  ".join(name.replace("_", " ") for name in names))
    for label, measures in fusion.measures.items():
        print(f"{label:<{width}}  " + "  ".join(f"{measures[name]:{len(name)}.3f}" for name in names))
    weights = " ".join(f"{weight:+.3f} x {run}" for run, weight in fusion.weights.items())
    print(f"stacked = {fusion.intercept:.3f} {weights}, fitted on split {fusion.fitted_on}")
    print(f"split {fusion.tested_on}: {fusion.utterances} utterances of {fusion.systems} systems")
    return 0


def main(argv: list[str]) -> int:
    """Score, and print a line for each measure."""
    named = list(takewhile(lambda word: not word.startswith("-"), argv))
    if len(named) > 1 and all(Path(word).is_dir() for word in named):
        return _fuse(argv)
    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.workflows.score import KINDS, files_of_run, score, score_both

    if named and named[0] not in KINDS:  # runs
        missing = [word for word in named if not (Path(word).is_dir() if word == named[0] else Path(word).exists())]
        if missing:
            raise UserError(
                f"{missing[0]}: no such run folder; give run folders, or a kind of files ({', '.join(KINDS)}) and two files"
            )
    run: dict[str, Any] = {}
    # A run may be called as a kind: files follow a kind, and options a run.
    alone = len(argv) == 1 or (len(argv) > 1 and argv[1].startswith("-"))
    if argv and Path(argv[0]).is_dir() and (argv[0] not in KINDS or alone):
        run = files_of_run(Path(argv[0]))
        argv = [*(str(run[name]) for name in ("kind", "reference", "hypothesis", "other") if name in run), *argv[1:]]
    options = vars(build_parser().parse_args(argv))
    options |= {name: run[name] for name in ("speakers", "names") if name in run and options[name] is None}
    as_json = options.pop("json")

    if options["other"] is None:
        del options["other"]
        scored = score(**options)
        if as_json:
            print(json.dumps(asdict(scored)))
        else:
            _print(scored)
        return 0
    one, two, compared = score_both(**options)
    if as_json:
        print(json.dumps({"hypothesis": asdict(one), "other": asdict(two), "comparison": compared._asdict()}))
        return 0
    for path, each in ((options["hypothesis"], one), (options["other"], two)):
        print(f"{path}:")
        _print(each)
    ends = f"[{compared.low:+.2f}, {compared.high:+.2f}]"
    print(
        f"first minus second: {one.measures[0].name} {compared.difference:+.2f} points {ends}, p = {compared.p_value:.2g} for no "
        f"difference (two-sided, paired over {compared.resampled})"
    )
    return 0


def _print(scored: Scored) -> None:
    for measure in scored.measures:
        print(measure.line())
    for by, parts in scored.by.items():
        _print_table(by, parts, scored.measures[0].name)
    if scored.by:
        print()
    # Of a table of speakers they are a part.
    for speaker, interval in scored.by_speaker.items() if not scored.by else ():
        value, low, high = (f"{100 * number:.2f}" for number in interval)
        print(f"  {speaker}  {scored.measures[0].name} {value} % [{low}, {high}]")
    print(f"{scored.utterances} utterances; 95 % intervals resample {scored.resampled}")


def _print_table(by: str, parts: Sequence[Part], measure: str) -> None:
    """Rows of speakers, lengths or utterances, with a line of titles."""
    width = max(len(by), *(len(part.name) for part in parts))
    print(f"\n{by:<{width}}  utterances  units    sub    del    ins  {measure:>7}")
    for part in parts:
        rate = f"{100 * part.errors / part.units:6.2f}%" if part.units else f"{'-':>7}"
        sure = "" if part.interval is None else f"  [{100 * part.interval.low:.2f}, {100 * part.interval.high:.2f}]"
        counts = "".join(f"{number:7}" for number in (part.substitutions, part.deletions, part.insertions))
        print(f"{part.name:<{width}}  {part.utterances:10}{part.units:7}{counts}  {rate}{sure}")
