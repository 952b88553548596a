"""Writes what a laboratory has on day one: tables of its recordings, and the same recordings in each foreign format.

    python material.py tables SPEECH OUT             # OUT/all.csv, OUT/english.csv: splits by file, phones of English
    python material.py foreign SPEECH OUT            # OUT/kaldi, lhotse, nemo.jsonl, table.tsv, rttm, ...: 60 recordings each
    python material.py heldout OUT/english.csv SPEECH OUT/heldout   # links to the test recordings, and truth.txt
    python material.py texts ANSWERS FILE            # predictions of `wavlm predict --out ANSWERS` as lines `name phones`
    python material.py best RUN                      # of the learning rates of a run, the folder that is best on validation
    python material.py unpack CORPUS SPEECH          # recordings and manifest.csv out of a corpus of `wavlm prepare mini`

SPEECH is a folder with recordings and `manifest.csv` (path, speaker, text, and language where there are several). What is written
holds no absolute path.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import io
import json
import math
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from wavlm_lightning.audio import SAMPLE_RATE, load_mono
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.mini.synthesis.espeak import EspeakProcess
from wavlm_lightning.data.mini.synthesis.phones import SILENCE
from wavlm_lightning.data.mini.synthesis.speech import SpeechRequest
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError

RECORDINGS = 60  # in each foreign format
SHORTEST, LONGEST = 0.8, 8.0  # seconds of these
MEETINGS = 6
TEST, VALID = 20, 10  # per cent of the files


def read_manifest(speech: Path) -> list[dict[str, str]]:
    """Rows of `manifest.csv`, with the file's path as we see it, in the order of the file."""
    with (speech / "manifest.csv").open(newline="", encoding="utf-8") as file:
        return [{"language": "en", **row, "file": str(speech / row["path"])} for row in csv.DictReader(file)]


def write_rows(path: Path, rows: list[dict[str, str]], delimiter: str = ",") -> None:
    """A table with a header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def write_lines(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """JSON lines, compressed if the name ends in gz."""
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def write_tables(speech: Path, out: Path) -> None:
    """The tables of both corpora: a split for each file by the hash of its path, phones of the English texts by espeak-ng."""
    espeak = EspeakProcess()
    columns = ("path", "speaker", "language", "text", "split")
    rows, english = [], []
    for row in read_manifest(speech):
        place = int(hashlib.sha256(row["path"].encode()).hexdigest(), 16) % 100
        row["split"] = "test" if place < TEST else "valid" if place < TEST + VALID else "train"
        kept = {name: row[name] for name in columns}
        rows.append(kept)
        if row["language"].startswith("en"):
            said = espeak.speak(SpeechRequest(row["text"], "en-US", "f2", rate=160, pitch=50, pitch_range=50))
            phones = " ".join(segment.name for segment in said.phones if segment.name != SILENCE)
            english.append({**kept, "phones": phones})
    espeak.close()
    write_rows(out / "all.csv", rows)
    write_rows(out / "english.csv", [row for row in english if row["phones"]])


def chosen(speech: Path) -> list[dict[str, str]]:
    """Recordings for the foreign formats: as many of each speaker, in the order of a hash."""
    voices: dict[str, list[dict[str, str]]] = {}
    for row in sorted(read_manifest(speech), key=lambda row: hashlib.sha256(row["path"].encode()).hexdigest()):
        seconds = soundfile.info(row["file"]).duration
        if SHORTEST <= seconds <= LONGEST:
            row["seconds"], row["id"] = f"{seconds:.4f}", f"{row['speaker']}-{Path(row['path']).stem}"
            voices.setdefault(row["speaker"], []).append(row)
    # One of each speaker in turn.
    longest = max(map(len, voices.values()))
    turns = [rows[n] for n in range(longest) for rows in voices.values() if n < len(rows)]
    return turns[:RECORDINGS]


def write_kaldi(rows: list[dict[str, str]], out: Path) -> None:
    out.mkdir()
    for name, value in (("wav.scp", "file"), ("text", "text"), ("utt2spk", "speaker"), ("utt2lang", "language")):
        # Every other recording through a command that only reads a file, as Kaldi's recipes write them.
        lines = [
            f"{row['id']} " + (f"flac -c -d -s {row['file']} |" if value == "file" and n % 2 else row[value])
            for n, row in enumerate(rows)
        ]
        (out / name).write_text("\n".join(sorted(lines)) + "\n", encoding="utf-8")


def write_lhotse(rows: list[dict[str, str]], out: Path) -> None:
    out.mkdir()
    recordings, supervisions = [], []
    for row in rows:
        info = soundfile.info(row["file"])
        source = {"type": "file", "channels": [0], "source": row["file"]}
        shape = {"sampling_rate": info.samplerate, "num_samples": info.frames, "duration": info.duration}
        recordings.append({"id": row["id"], "sources": [source], **shape, "channel_ids": [0]})
        said = {"text": row["text"], "speaker": row["speaker"], "language": row["language"]}
        place = {"recording_id": row["id"], "start": 0.0, "duration": info.duration, "channel": 0}
        supervisions.append({"id": row["id"], **place, **said})
    write_lines(out / "prompts_recordings_all.jsonl.gz", recordings)
    write_lines(out / "prompts_supervisions_all.jsonl.gz", supervisions)


def write_meetings(rows: list[dict[str, str]], out: Path) -> None:
    """Six meetings: all speakers in turn, each beginning 0.3 s before the one before ends, and the RTTM of the turns."""
    (out / "audio").mkdir(parents=True)
    turns = []
    for meeting in range(MEETINGS):
        name, mixed, at = f"meeting{meeting}", np.zeros(0, np.float32), 0
        for row in rows[meeting::MEETINGS]:
            waveform = load_mono(row["file"])
            mixed = np.pad(mixed, (0, max(0, at + len(waveform) - len(mixed))))
            mixed[at : at + len(waveform)] += 0.5 * waveform
            begin, length = at / SAMPLE_RATE, len(waveform) / SAMPLE_RATE
            turns.append(f"SPEAKER {name} 1 {begin:.3f} {length:.3f} <NA> <NA> {row['speaker']} <NA> <NA>\n")
            at += len(waveform) - round(0.3 * SAMPLE_RATE)
        soundfile.write(out / "audio" / f"{name}.wav", mixed, SAMPLE_RATE)
    (out / "all.rttm").write_text("".join(turns), encoding="utf-8")


def write_shards(rows: list[dict[str, str]], out: Path) -> None:
    """Three tar files of audio and json members, as `webdataset.TarWriter` leaves them."""
    out.mkdir()
    for shard in range(3):
        with tarfile.open(out / f"{shard:03d}.tar", "w") as tar:
            for row in rows[shard::3]:
                about = json.dumps({"transcript": row["text"], "spk": row["speaker"], "lang": row["language"]})
                for name, content in (("flac", Path(row["file"]).read_bytes()), ("json", about.encode())):
                    member = tarfile.TarInfo(f"{row['id']}.{name}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def write_parquet(rows: list[dict[str, str]], out: Path) -> None:
    """A data set of Hugging Face with the columns of Common Voice."""
    from datasets import Audio, Dataset

    columns = {"sentence": "text", "client_id": "speaker", "locale": "language"}
    content: dict[str, list[Any]] = {theirs: [row[ours] for row in rows] for theirs, ours in columns.items()}
    content["audio"] = [{"path": f"{row['id']}.flac", "bytes": Path(row["file"]).read_bytes()} for row in rows]
    out.mkdir()
    Dataset.from_dict(content).cast_column("audio", Audio(decode=False)).to_parquet(
        out / "train-00000-of-00001.parquet"
    )


def write_audiofolder(rows: list[dict[str, str]], out: Path) -> None:
    (out / "train").mkdir(parents=True)
    about = []
    for row in rows:
        shutil.copyfile(row["file"], out / "train" / f"{row['id']}.flac")
        names = {"transcription": row["text"], "speaker_id": row["speaker"]}
        about.append({"file_name": f"train/{row['id']}.flac", **names})
    write_rows(out / "metadata.csv", about)


def write_m4a(rows: list[dict[str, str]], out: Path) -> None:
    """AAC in mp4, as telephones record it."""
    import av

    out.mkdir()
    for row in rows:
        waveform = load_mono(row["file"])
        with av.open(out / f"{row['id']}.m4a", "w") as container:
            stream = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)


def write_foreign(speech: Path, out: Path) -> None:
    """The same recordings in all formats; formats whose library is missing are named and left out."""
    rows = chosen(speech)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    write_kaldi(rows, out / "kaldi")
    write_lhotse(rows, out / "lhotse")
    nemo = ({"audio_filepath": row["path"], "duration": float(row["seconds"]), **_said(row)} for row in rows)
    write_lines(out / "nemo.jsonl", nemo)
    # Of each recording the first 0.8 s, as a table of stretches.
    stretches = [{"path": row["path"], "start": "0", "end": f"{SHORTEST}", "speaker": row["speaker"]} for row in rows]
    write_rows(out / "stretches.tsv", stretches, "\t")
    write_meetings(rows, out / "rttm")
    write_shards(rows, out / "webdataset")
    write_audiofolder(rows, out / "audiofolder")
    for write, name in ((write_parquet, "parquet"), (write_m4a, "m4a")):
        try:
            write(rows, out / name)
        except ImportError as error:
            print(f"no {name}: {error}")
    seconds = sum(float(row["seconds"]) for row in rows)
    print(
        f"{len(rows)} recordings of {len({row['speaker'] for row in rows})} speakers, {seconds:.0f} s, in each format"
    )


def _said(row: dict[str, str]) -> dict[str, str]:
    return {"text": row["text"], "speaker": row["speaker"], "language": row["language"]}


def unpack(corpus: Path, speech: Path) -> None:
    """FLAC files and `manifest.csv` of all splits of a corpus."""
    rows = []
    speech.mkdir(parents=True, exist_ok=True)
    opened = Corpus.open(corpus)
    for name in opened.splits:
        for key, waveform, meta in opened.split(name).utterances():
            soundfile.write(speech / f"{key}.flac", waveform, SAMPLE_RATE)
            rows.append({"path": f"{key}.flac", "speaker": meta["speaker"], "text": meta["text"], "language": "en"})
    write_rows(speech / "manifest.csv", rows)


def write_heldout(table: Path, speech: Path, out: Path) -> None:
    """Links to the test recordings of a table, and `truth.txt` with their phones."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    lines = []
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "test":
                name = "-".join(Path(row["path"]).with_suffix("").parts)
                (out / f"{name}.flac").symlink_to((speech / row["path"]).resolve())
                lines.append(f"{name} {row['phones']}\n")
    (out.parent / "truth.txt").write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} recordings")


def write_texts(answers: Path, out: Path) -> None:
    rows = map(json.loads, (answers / "predictions.jsonl").read_text(encoding="utf-8").splitlines())
    out.write_text("".join(f"{Path(row['file']).stem} {row['phones']}\n" for row in rows), encoding="utf-8")


def print_best(run: Path) -> None:
    """The folder below a run whose card was best on validation."""
    cards = [(path.parent, ResultCard.read(path.parent)) for path in sorted(run.glob("*/card.json"))]
    sign = 1 if cards[0][1].main["better"] == "higher" else -1
    print(max(cards, key=lambda each: sign * each[1].selection["value"] if each[1].selection else -math.inf)[0])


def main() -> None:
    commands: dict[str, Callable[..., None]] = {
        "tables": write_tables,
        "foreign": write_foreign,
        "heldout": write_heldout,
        "texts": write_texts,
        "best": print_best,
        "unpack": unpack,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=commands)
    parser.add_argument("paths", type=Path, nargs="+")
    arguments = parser.parse_args()
    commands[arguments.command](*arguments.paths)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
