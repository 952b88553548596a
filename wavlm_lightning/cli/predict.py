"""`wavlm predict RUN FILE...`: a trained head on recordings, as text, JSON lines and RTTM."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError


def main(argv: list[str]) -> int:
    """Parse and run; with options only (`predict -c FILE`) it is LightningCLI's, which predicts a corpus' test split."""
    if any(word.startswith(("-c", "--config", "--ckpt_path", "--model", "--data", "--trainer")) for word in argv[1:]):
        from wavlm_lightning.workflows.fit import command_line as training

        return training.main(argv)
    parser = argparse.ArgumentParser(
        prog="wavlm predict",
        description="Run a trained head on recordings. (`wavlm predict -c FILE --ckpt_path best` writes the outputs for a "
        "corpus' test split as safetensors; see `wavlm predict -c FILE --help`.)",
    )
    parser.add_argument(
        "run",
        type=Path,
        metavar="RUN",
        help="run folder of a head (config.yaml, checkpoints/best.ckpt), or a Hugging Face directory with one",
    )
    parser.add_argument("audio", type=Path, nargs="+", metavar="FILE", help="recordings, or folders of them")
    parser.add_argument("--json", action="store_true", help="print JSON lines instead of text")
    parser.add_argument("--out", type=Path, help="folder for predictions.jsonl and, for turns, predictions.rttm")
    parser.add_argument("--batch-seconds", type=float, default=60.0, help="audio a batch, padding counted")
    parser.add_argument(
        "--window",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="hear longer recordings in windows of this length, so that an hour fits into memory; at least 1, or 0 to "
        "hear all recordings whole (%(default)s)",
    )
    parser.add_argument("--device", help="such as cuda; the GPU if there is one by default")
    arguments = parser.parse_args(argv[1:])
    if arguments.window and not arguments.window >= 1:
        raise UserError(f"--window {arguments.window:g}: no such window; give at least 1 second, or 0 for none")

    from wavlm_lightning.workflows.predict.head_sources import open_head
    from wavlm_lightning.workflows.predict.trained_head import audio_files, predict_files

    paths = [path for given in arguments.audio for path in audio_files(given)]
    head = open_head(arguments.run, arguments.device)
    rows = []
    for row in predict_files(head, paths, arguments.batch_seconds, arguments.window):
        rows.append(row)
        print(json.dumps(row, ensure_ascii=False) if arguments.json else as_text(row), flush=True)
    compared = list(compare(rows))
    for row in compared:
        print(json.dumps(row, ensure_ascii=False) if arguments.json else f"{row['score']:+.4f}  {row['a']}  {row['b']}")
    if arguments.out is not None:
        write(arguments.out, [*rows, *compared])
    return 0


def as_text(row: dict[str, Any]) -> str:
    """One prediction as a person reads it."""
    facts = {name: value for name, value in row.items() if name != "file"}
    if "turns" in facts:
        turns = "".join(f"\n  {start:8.2f} {end:8.2f}  {speaker}" for speaker, start, end in facts["turns"])
        return f"{row['file']}:{turns or ' nobody speaks'}"
    if "embedding" in facts:
        return f"{row['file']}: an embedding of {len(facts['embedding'])} numbers (--json prints it)"
    if set(facts) <= {"text", "phones"}:
        return f"{row['file']}: {' '.join(facts.values())}"
    return f"{row['file']}: " + ", ".join(f"{name} {_value(value)}" for name, value in facts.items())


def _value(value: Any) -> str:
    return " ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def compare(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The cosine of every pair of embeddings: the higher, the likelier one speaker."""
    for one, other in combinations((row for row in rows if "embedding" in row), 2):
        score = sum(a * b for a, b in zip(one["embedding"], other["embedding"], strict=True))
        yield {"a": one["file"], "b": other["file"], "score": round(score, 4)}


def recording_names(files: list[str]) -> list[str]:
    """What RTTM calls files: their names without endings or white space, or their whole paths where names are alike."""
    names = [re.sub(r"\s+", "_", Path(file).stem) for file in files]
    paths = [re.sub(r"\s+", "_", file) for file in files]
    return [name if names.count(name) == 1 else path for name, path in zip(names, paths, strict=True)]


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    """Write JSON lines and, where there are turns, RTTM."""
    from wavlm_lightning.metrics.rttm import rttm_lines

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    heard = [row for row in rows if "turns" in row]
    names = recording_names([row["file"] for row in heard])
    turns = [line for name, row in zip(names, heard, strict=True) for line in rttm_lines(name, row["turns"])]
    if turns:
        (folder / "predictions.rttm").write_text("\n".join(turns) + "\n")
