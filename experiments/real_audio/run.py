"""The mini corpus' heads on real recordings: what is left of a head trained on synthetic voices.

    python experiments/real_audio/run.py --speech ../shared/speech --superb runs/superb_mini --out runs/real_audio

`--speech` is a folder with `manifest.csv` (path, speaker, language, text, seconds) and the recordings; `--superb` is what
`experiments/superb_mini/run.sh` left. ASR and KS heads are applied as they are; for SID and QbE, which are about the
speakers and terms of a corpus, a corpus of the real recordings is made and the same configurations run on it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import re
import sys
from pathlib import Path

from torchmetrics.text import CharErrorRate, WordErrorRate

from wavlm_lightning.audio import load_mono
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.mini.keywords import UNKNOWN, WORDS
from wavlm_lightning.data.mini.queries import contains_term
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.tables import Cell, Table
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.fit.head_runs import HeadRun, run_heads
from wavlm_lightning.workflows.predict.head import open_head
from wavlm_lightning.workflows.predict.recordings import predict_files

SHORTEST_TERM = 5
"""Letters: shorter words are found everywhere."""


def words(text: str) -> str:
    return " ".join(re.sub(r"[^a-z' ]", " ", text.lower()).split())


def utterance(speech: Path, row: dict[str, str], **meta: object) -> Utterance:
    key = re.sub(r"[^A-Za-z0-9_-]+", "_", row["path"].removesuffix(".flac"))
    return Utterance(key, load_mono(speech / row["path"]), {"speaker": row["speaker"], "text": row["text"], **meta})


def source(speech: Path) -> dict[str, str]:
    """How a corpus is made, and of which recordings."""
    return {"recipe": "real_audio", "speech": hashlib.sha256((speech / "manifest.csv").read_bytes()).hexdigest()}


def is_made(place: Path, speech: Path) -> bool:
    """Whether a corpus is there; a `UserError` if it is of other recordings (older versions have not kept of which)."""
    if not (place / "corpus.json").is_file():
        return False
    wanted = source(speech)
    if {**wanted, **Corpus.open(place).body["source"]} != wanted:
        raise UserError(f"{place}: was made of other recordings than those of {speech}; give another --out")
    return True


def make_sid(speech: Path, rows: list[dict[str, str]], out: Path) -> None:
    """Two voices, a tenth of the clips of each for validation and three tenths for test."""
    writer = CorpusWriter(out, "real/sid", "see its README", source(speech))
    for split, places in (("train", range(6)), ("valid", (6,)), ("test", (7, 8, 9))):
        writer.write_split(split, (utterance(speech, row) for i, row in enumerate(rows) if i % 10 in places))
    writer.finish({"speakers": sorted({row["speaker"] for row in rows})})


def make_qbe(speech: Path, rows: list[dict[str, str]], out: Path) -> tuple[int, int]:
    """Prompts of one or two words look for themselves in longer prompts of the same voice."""
    documents = [row for row in rows if len(words(row["text"]).split()) > 3]
    texts = [words(row["text"]) for row in documents]
    queries = []
    for row in rows:
        term = words(row["text"])
        if len(term.split()) in (1, 2) and len(term) >= SHORTEST_TERM and contains_term(texts, term):
            queries.append((row, term))
    terms = sorted({term for _, term in queries})
    writer = CorpusWriter(out, "real/qbe", "see its README", source(speech))
    writer.write_split(
        "documents",
        (
            utterance(speech, row, terms=[term for term in terms if contains_term([text], term)])
            for row, text in zip(documents, texts, strict=True)
        ),
    )
    # Terms, not recordings, are divided: one term in both halves would choose the layer by what is reported.
    valid = set(terms[::2])
    for split, chosen in (("queries-valid", True), ("queries-test", False)):
        writer.write_split(split, (utterance(speech, row, term=t) for row, t in queries if (t in valid) == chosen))
    writer.finish({"terms": terms})
    return len(queries), len(documents)


def upstream_options(card: ResultCard, config: Path, pooled: bool) -> list[str]:
    """The upstream of a finished run, from its result card and `config.yaml`."""
    import yaml

    node = yaml.safe_load(config.read_text())["model"]["init_args"]["upstream"]
    options = ["--model.upstream", node["class_path"]]
    if card.upstream["class"] == "Fbank":
        return [*options, "--model.upstream.cmvn", str(not pooled).lower(), "--model.upstream.label", "FBANK"]
    arguments = node["init_args"]
    return [*options, "--model.upstream.source", arguments["source"], "--model.upstream.label", arguments["label"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--superb", type=Path, default=Path("runs/superb_mini"))
    parser.add_argument("--out", type=Path, default=Path("runs/real_audio"))
    arguments = parser.parse_args()
    speech, out = arguments.speech, arguments.out
    rows = list(csv.DictReader((speech / "manifest.csv").open(newline="")))
    rows = [row for row in rows if (speech / row["path"]).is_file() and "noise" not in row["path"]]
    english = [row for row in rows if row["language"].startswith("en")]
    folders = sorted(path.parent.parent for path in arguments.superb.glob("*/asr/card.json"))
    if not folders:
        raise UserError(
            f"{arguments.superb}: no folder in it has asr/card.json; experiments/superb_mini/run.sh makes them"
        )
    if not is_made(out / "sid", speech):
        make_sid(speech, rows, out / "sid")
    if not is_made(out / "qbe", speech):
        print("QbE: {} queries, {} documents".format(*make_qbe(speech, english, out / "qbe")))

    table = []
    spoken = [row for row in english if not re.search(r"[\d\[\]()]", row["text"]) and len(words(row["text"])) > 0]
    single = [row for row in english if len(words(row["text"]).split()) == 1 and float(row["seconds"]) <= 1.0]
    runs = []
    for folder in folders:
        card = ResultCard.read(folder / "asr")
        for task, pooled in (("sid", True), ("qbe", False)):
            options = ["-c", f"configs/superb/mini/{task}.yaml", "--data.corpus", str(out / task)]
            options += ["--data.cache", str(out / "cache")]
            options += upstream_options(card, folder / "asr" / "config.yaml", pooled)
            runs.append(HeadRun(out / folder.name / task, options, fits=task == "sid"))
    run_heads(runs, lambda run: print(f"done: {run.folder}", flush=True))
    for folder in folders:
        label = ResultCard.read(folder / "asr").upstream["label"]
        said = [row["text"] for row in predict_files(open_head(folder / "asr"), paths(speech, spoken), 60)]
        wanted = [words(row["text"]).upper() for row in spoken]
        heard = [row["keyword"] for row in predict_files(open_head(folder / "ks"), paths(speech, single), 60)]
        truth = [t if (t := words(row["text"])) in WORDS else UNKNOWN for row in single]
        right = sum(a == b for a, b in zip(heard, truth, strict=True))
        sid, qbe = (ResultCard.read(out / folder.name / task) for task in ("sid", "qbe"))
        table.append(
            {
                "upstream": label,
                "ASR WER % ↓": 100 * float(WordErrorRate()(said, wanted)),
                "ASR CER % ↓": 100 * float(CharErrorRate()(said, wanted)),
                f"KS, {right} of {len(single)} right %": 100 * right / len(single),
                "SID, two voices, accuracy % ↑": sid.value,
                "QbE MTWV x 100 ↑": qbe.value,
            }
        )
        (out / folder.name / "asr.jsonl").write_text(
            "".join(json.dumps({"said": s, "wanted": w}) + "\n" for s, w in zip(said, wanted, strict=True))
        )
    columns = ["upstream", "ASR WER % ↓", "ASR CER % ↓", "KS % ↑", "SID, two voices % ↑", "QbE MTWV x 100 ↑"]
    body = [[Cell(v if isinstance(v, str) else f"{v:.1f}") for v in row.values()] for row in table]
    text = Table([Cell(name) for name in columns], body).to_markdown()
    keywords = sum(words(row["text"]) in WORDS for row in single)
    text += (
        f"\n\nASR: {len(spoken)} English prompts. KS: {len(single)} clips of one word and at most a second, of which "
        f"{keywords} is one of the ten keywords and the rest are `{UNKNOWN}`. SID: test clips of two voices."
    )
    (out / "table.md").write_text(text + "\n")
    print(text)


def paths(speech: Path, rows: list[dict[str, str]]) -> list[Path]:
    return [speech / row["path"] for row in rows]


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
