"""`wavlm predict RUN FILE...`: a trained head on recordings, as text, JSON lines and RTTM."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from wavlm_lightning.system.arguments import whole


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm predict RUN FILE...`; names of options are those of arguments of `predict_recordings`."""
    parser = argparse.ArgumentParser(
        prog="wavlm predict",
        description="Run a trained head on recordings. (`wavlm predict -c FILE --ckpt_path best` writes the outputs for a "
        "corpus' test split as safetensors; see `wavlm predict -c FILE --help`.)",
    )
    run = "run folder of a head (config.yaml, checkpoints/best.ckpt), or a Hugging Face directory with one"
    parser.add_argument("run", type=Path, metavar="RUN", help=run)
    parser.add_argument("recordings", type=Path, nargs="+", metavar="FILE", help="recordings, or folders of them")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of text")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for predictions.jsonl, turns as RTTM, audio as files; an interrupted run goes on there",
    )
    audio = "of audio that a head answers with, in --out: 16 bit, 16 kHz"
    parser.add_argument("--audio-format", choices=("wav", "flac"), default="wav", help=f"{audio} (%(default)s)")
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="audio a batch, padding counted")
    window = "longer recordings are processed in windows of this length, so that an hour fits into memory; 0: none"
    parser.add_argument("--window", type=float, default=60.0, metavar="SECONDS", help=f"{window} (%(default)s)")
    on_error = "a recording that cannot be used: stop there, or skip it with a warning; by default fail at the end"
    parser.add_argument("--on-error", choices=("stop", "skip"), help=on_error)
    parser.add_argument(
        "--lm", type=Path, metavar="RUN|FILE", help="ASR, PR: decode with the language model of `wavlm lm tune` as well"
    )
    nbest = "ASR, PR, SF, ST: the N best answers, with scores, without a language model or with that of --lm"
    parser.add_argument("--nbest", type=whole, default=1, metavar="N", help=nbest)
    enrolment = "TSE, TS-ASR, PVAD: a recording of the speaker who is meant, or a CSV file (path, audio:enrolment)"
    parser.add_argument("--enrolment", type=Path, metavar="FILE", help=enrolment)
    speakers = "MeetingDiarization: speakers of each recording, where you know them: 3, or a range 2-4"
    parser.add_argument("--speakers", metavar="N|N-M", help=speakers)
    parser.add_argument("--device", help="such as cuda; the GPU if there is one by default")
    return parser


def main(argv: list[str]) -> int:
    """Print predictions; with options only (`predict -c FILE`), LightningCLI predicts the test split of a corpus."""
    if any(word.startswith(("-c", "--config", "--ckpt_path", "--model", "--data", "--trainer")) for word in argv[1:]):
        from wavlm_lightning.workflows.fit.command_line import run_subcommand

        run_subcommand(argv)
        return 0
    options = vars(build_parser().parse_args(argv[1:]))
    as_json = options.pop("json")
    from wavlm_lightning.workflows.predict import predict_recordings

    for row in predict_recordings(**options):
        print(json.dumps(row, ensure_ascii=False) if as_json else as_text(row), flush=True)
    return 0


SAID = ("text", "phones", "translation")  # keys of answers that are text


def as_text(row: dict[str, Any]) -> str:
    """One row of `predict_recordings` as text."""
    if "file" not in row:  # a pair of embeddings
        return f"{row['score']:+.4f}  {row['a']}  {row['b']}"
    facts = {name: value for name, value in row.items() if name != "file"}
    if "turns" in facts:
        turns = "".join(f"\n  {start:8.2f} {end:8.2f}  {speaker}" for speaker, start, end in facts["turns"])
        return f"{row['file']}:{turns or ' no speech'}"
    if "embedding" in facts:
        return f"{row['file']}: an embedding of {len(facts['embedding'])} numbers (--json prints it)"
    if best := facts.pop("nbest", None):
        lines = "".join(f"\n  {each['score']:10.3f}  {_said(each)}" for each in best)
        return f"{as_text({'file': row['file'], **facts})}{lines}"
    if set(facts) <= {*SAID}:
        return f"{row['file']}: {' '.join(facts.values())}"
    return f"{row['file']}: " + ", ".join(f"{name} {_value(value)}" for name, value in facts.items())


def _said(answer: dict[str, Any]) -> str:
    """The text of one of several answers."""
    return next((answer[name] for name in SAID if name in answer), "")


def _value(value: Any) -> str:
    if (
        isinstance(value, list) and value and all(isinstance(each, str | float) for each in value)
    ):  # of each part of an answer
        return " and ".join(map(str, value))
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
