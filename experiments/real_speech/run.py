"""Pre-train the tiny WavLM on real voices, and see what it is good for.

    python experiments/real_speech/run.py --speech ../shared/speech --demo runs/tiny --out runs/real_speech

`--speech` is a folder with `manifest.csv` (path, speaker, language, text), the recordings, and `noise/`. `--demo` is what
`experiments/demo/waveform.sh` makes: its corpora lend the labels that real speech lacks, its encoder is what is compared with.
Every stage is a `wavlm` command, printed as it runs; finished ones are not repeated.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import time
from pathlib import Path

from wavlm_lightning.data.mini.synthesis.espeak import EspeakProcess
from wavlm_lightning.data.mini.synthesis.phones import SILENCE
from wavlm_lightning.data.mini.synthesis.speech import SpeechRequest
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import read_curves
from wavlm_lightning.reports.figures import arrange
from wavlm_lightning.reports.runs.figures import curve_panels
from wavlm_lightning.reports.theme import save_png
from wavlm_lightning.system.command import wavlm
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.workflows.fit.head_runs import HeadRun, run_heads

LABELS = "mfcc100"
RATES = {("pr", "random weights"): 4e-3, ("sid", "random weights"): 1e-3}  # where not that of configs/superb/mini


def write_manifests(speech: Path, out: Path) -> None:
    """Splits by hash of the path (80 / 8 / 12 %), and phones of the English prompts from espeak-ng's lexicon."""
    rows = list(csv.DictReader((speech / "manifest.csv").open(newline="")))
    espeak = EspeakProcess()
    for row in rows:
        place = int(hashlib.sha256(row["path"].encode()).hexdigest(), 16) % 100
        row["split"] = "train" if place < 80 else "valid" if place < 88 else "test"
        if row["language"].startswith("en"):
            said = espeak.speak(SpeechRequest(row["text"], "en-US", "f2", rate=160, pitch=50, pitch_range=50))
            row["phones"] = " ".join(segment.name for segment in said.phones if segment.name != SILENCE)
        row.pop("seconds", None)
    espeak.close()
    english = [row for row in rows if row.get("phones")]
    for name, part in (
        ("all.csv", [{k: v for k, v in r.items() if k != "phones"} for r in rows]),
        ("english.csv", english),
    ):
        with (out / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(part[0]))
            writer.writeheader()
            writer.writerows(part)


def prepare(speech: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "english.csv").is_file():
        write_manifests(speech, out)
    for name in ("all", "english"):
        if not (out / name / "corpus.json").is_file():
            wavlm(
                "prepare",
                "folder",
                speech,
                "--manifest",
                out / f"{name}.csv",
                "--name",
                f"real/{name}",
                "--out",
                out / name,
            )
    if not (out / "noise" / "corpus.json").is_file():
        wavlm(
            "prepare",
            "folder",
            speech / "noise",
            "--valid",
            0,
            "--test",
            0,
            "--name",
            "real/noise",
            "--out",
            out / "noise",
        )


def pretrain(out: Path) -> None:
    if not (out / "codebook" / "codebook.json").is_file():
        wavlm(
            "codebook",
            "fit",
            out / "all",
            "--clusters",
            100,
            "--level-normalised",
            "--restarts",
            5,
            "--out",
            out / "codebook",
        )
    wavlm("codebook", "apply", out / "codebook", out / "all", "--name", LABELS)
    if not (out / "pretrain_seconds.json").is_file():
        options = ["--data.corpus", out / "all", "--data.noise_corpus", out / "noise", "--data.min_seconds", 1.0]
        options += ["--model.mixing.noise_probability", 0.1, "--trainer.default_root_dir", out / "pretrain"]
        resumed = (out / "pretrain" / "checkpoints" / "last.ckpt").is_file()
        options += ["--ckpt_path", "last"] if resumed else []
        begin = time.perf_counter()
        wavlm("fit", "-c", "configs/pretrain/tiny_waveform.yaml", *options)
        record = {"seconds": round(time.perf_counter() - begin), "resumed": resumed}
        (out / "pretrain_seconds.json").write_text(json.dumps(record))


def pretraining_time(out: Path) -> str:
    """What `pretrain` took; where it went on after an interruption, only the end is known."""
    record = json.loads((out / "pretrain_seconds.json").read_text())
    if isinstance(record, int):  # of older versions, which did not keep whether it had been interrupted
        return f"{record} s"
    return f"{record['seconds']} s" + (" since it was interrupted" if record["resumed"] else "")


def heads(out: Path, demo: Path) -> dict[tuple[str, str], HeadRun]:
    """Three tasks with labels of real or synthetic speech, on four upstreams."""
    upstreams = {
        "real speech": ["--model.upstream.source", str(out / "pretrain")],
        "synthetic speech (demo)": ["--model.upstream.source", str(demo / "pretrain")],
        "random weights": ["--model.upstream.source", "random:tiny"],
        "FBANK": ["--model.upstream", "wavlm_lightning.upstreams.Fbank"],
    }
    corpora = {
        "PR, real": ("pr", out / "english"),
        "PR, mini": ("pr", demo / "corpus" / "pr"),
        "KS, mini": ("ks", demo / "corpus" / "ks"),
        "SID, mini": ("sid", demo / "corpus" / "sid"),
        "SID, real (2 voices)": ("sid", out / "all"),
    }
    runs = {}
    for title, (task, corpus) in corpora.items():
        for label, options in upstreams.items():
            chosen = ["-c", f"configs/superb/mini/{task}.yaml", *options]
            if label == "FBANK":
                chosen += ["--model.upstream.cmvn", str(task == "pr").lower()]
            else:
                chosen += ["--model.upstream.label", label]
            chosen += rate(task, label)
            chosen += ["--data.corpus", str(corpus), "--data.cache", str(out / "cache")]
            folder = "".join(c if c.isalnum() else "-" for c in f"{title} {label}".lower())
            runs[title, label] = HeadRun(out / "heads" / folder, chosen)
    return runs


def rate(task: str, label: str) -> list[str]:
    chosen = RATES.get((task, label))
    return [] if chosen is None else ["--model.learning_rate", str(chosen)]


def report(out: Path, runs: dict[tuple[str, str], HeadRun], here: Path) -> None:
    curves = read_curves(sorted((out / "pretrain" / "curves").glob("version_*/metrics.csv")))
    save_png(arrange(curve_panels(curves)), here / "curves.png")
    accuracy, majority = curves["valid/masked_accuracy"].last, curves["valid/majority_accuracy"].last
    lines = [
        f"masked accuracy on held-out real utterances: {100 * accuracy:.1f} %, always guessing the commonest label "
        f"{100 * majority:.1f} %, ratio {accuracy / majority:.1f}",
        f"pre-training: {pretraining_time(out)}",
        "",
    ]
    labels = list(dict.fromkeys(label for _, label in runs))
    lines += [
        "| task, labels | metric | " + " | ".join(labels) + " | test utterances |",
        "|---" * (len(labels) + 3) + "|",
    ]
    for title in dict.fromkeys(title for title, _ in runs):
        cards = [ResultCard.read(runs[title, label].folder) for label in labels]
        arrow = "lower" if cards[0].main["better"] == "lower" else "higher"
        cells = " | ".join(f"{card.value:.1f}" for card in cards)
        lines.append(
            f"| {title} | {cards[0].headline} %, {arrow} is better | {cells} | {cards[0].corpus['utterances']} |"
        )
    text = "\n".join(lines) + "\n"
    (here / "result.md").write_text(text)
    print(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--demo", type=Path, default=Path("runs/tiny"))
    parser.add_argument("--out", type=Path, default=Path("runs/real_speech"))
    arguments = parser.parse_args()
    prepare(arguments.speech, arguments.out)
    pretrain(arguments.out)
    runs = heads(arguments.out, arguments.demo)
    with progress_bar(total=len(runs), desc="heads", unit="head") as bar:
        run_heads(list(runs.values()), lambda _: bar.update())
    report(arguments.out, runs, Path(__file__).parent)


if __name__ == "__main__":
    main()
