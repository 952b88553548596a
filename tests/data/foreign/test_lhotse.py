"""Manifests of Lhotse become the corpus that `wavlm prepare folder` makes of the same audio, or are refused in a sentence."""

import gzip
import io
import json
import tarfile

import pytest
import soundfile
from spoken_files import content, prepare_foreign, without_split

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.folder import FolderRecipe
from wavlm_lightning.system.errors import UserError


def recording(spoken, row, **fields):
    info = soundfile.info(spoken.folder / row["path"])
    return {
        "id": row["path"].removesuffix(".wav"),
        "sources": [{"type": "file", "channels": [0], "source": str(spoken.folder / row["path"])}],
        "sampling_rate": info.samplerate,
        "num_samples": info.frames,
        "duration": info.frames / info.samplerate,
        "channel_ids": [0],
        **fields,
    }


def supervision(row, seconds, **fields):
    name = row["path"].removesuffix(".wav")
    columns = {column: row[column] for column in ("text", "speaker", "gender", "language")}
    return {"id": name, "recording_id": name, "start": 0.0, "duration": seconds, "channel": 0, **columns, **fields}


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


def cut(spoken, row, **fields):
    source = recording(spoken, row)
    return {
        "id": source["id"],
        "start": 0,
        "duration": source["duration"],
        "channel": 0,
        "supervisions": [supervision(row, source["duration"])],
        "recording": source,
        "type": "MonoCut",
        **fields,
    }


def prepare(*arguments):
    return prepare_foreign("lhotse", *arguments)


def write_part(folder, part, spoken, rows):
    recordings = [recording(spoken, row) for row in rows]
    lines(folder / f"mine_recordings_{part}.jsonl.gz", recordings)
    spoken_of = [supervision(row, each["duration"]) for row, each in zip(rows, recordings, strict=True)]
    lines(folder / f"mine_supervisions_{part}.jsonl.gz", spoken_of)


def test_a_part_is_the_corpus_of_its_files(spoken, tmp_path):
    write_part(tmp_path / "m", "all", spoken, spoken.rows)
    prepare(tmp_path / "m", "--out", tmp_path / "c")
    assert content(Corpus.open(tmp_path / "c")) == spoken.reference(tmp_path / "reference")


def test_parts_are_splits(spoken, tmp_path):
    write_part(tmp_path / "m", "clean-100", spoken, spoken.rows[:5])
    write_part(tmp_path / "m", "dev", spoken, spoken.rows[5:])
    prepare(tmp_path / "m", "--split", "train=clean-100", "valid=dev", "--out", tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    assert {name: len(corpus.split(name)) for name in corpus.splits} == {"train": 5, "valid": 3}
    assert without_split(content(corpus)) == without_split(spoken.reference(tmp_path / "reference"))


def test_cuts_with_times_custom_fields_and_alignments(spoken, tmp_path):
    row = spoken.rows[7]
    said = supervision(row, 0.2, start=0.1, custom={"mood": "glad", "snr": 12.5, "vector": [1, 2]})
    said["alignment"] = {"word": [["café", 0.15, 0.1, 0.9]], "subword": []}
    part = cut(spoken, row, start=0.05, duration=0.35, supervisions=[said])
    manifest = lines(tmp_path / "cuts.jsonl", [part, *(cut(spoken, each) for each in spoken.rows[:3])])
    prepare(manifest, "--label-columns", "mood", "--split-by", "file", "--out", tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    found = {key: (w, meta) for split in corpus.splits for key, w, meta in corpus.split(split).utterances()}
    waveform, meta = found["u07"]
    assert (
        meta["mood"] == "glad" and meta["snr"] == 12.5 and "vector" not in meta and corpus.inventory("mood") == ["glad"]
    )
    assert meta["words"] == [["café", 0.05, 0.15]]
    (tmp_path / "m.csv").write_text("path,start,end\nu07.wav,0.15,0.35\nu06.wav,,\nu05.wav,,\n")
    FolderRecipe(spoken.folder, tmp_path / "f", tmp_path / "m.csv").prepare(workers=1)
    folder = Corpus.open(tmp_path / "f")
    same = {key: w.tobytes() for split in folder.splits for key, w, _ in folder.split(split).utterances()}
    assert waveform.tobytes() == same["u07-00000150"]


def test_whole_recordings_have_turns(spoken, tmp_path):
    row = spoken.rows[0]
    late = cut(
        spoken, spoken.rows[1], start=0.1, duration=0.2, supervisions=[supervision(spoken.rows[1], 0.5, start=-0.1)]
    )
    two = [supervision(row, 0.2, id="a"), supervision(row, 0.1, id="b", start=0.3, speaker="s9")]
    rest = [cut(spoken, each) for each in spoken.rows[2:]]
    manifest = lines(tmp_path / "cuts.jsonl", [cut(spoken, row, supervisions=two), late, *rest])
    prepare(manifest, "--by", "recording", "--out", tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    metas = {meta["file"][-7:-4]: meta for split in corpus.splits for meta in corpus.split(split).metas()}
    assert metas["u00"]["turns"] == [["s0", 0.0, 0.2], ["s9", 0.3, 0.4]] and "speaker" not in metas["u00"]
    assert metas["u01"]["turns"] == [["s1", 0.0, 0.2]] and "text" not in metas["u01"] and metas["u02"]["text"]


def test_a_shar_folder_is_read_from_its_tars(spoken, tmp_path):
    folder = tmp_path / "shar"
    for number, rows in enumerate((spoken.rows[:5], spoken.rows[5:])):
        cuts = [cut(spoken, row) for row in rows]
        for each in cuts:
            each["recording"]["sources"] = [{"type": "shar", "channels": [0], "source": ""}]
        lines(folder / f"cuts.{number:06d}.jsonl.gz", cuts)
        with tarfile.open(folder / f"recording.{number:06d}.tar", "w") as tar:
            for row, each in zip(rows, cuts, strict=True):
                for ending, data in (
                    ("wav", (spoken.folder / row["path"]).read_bytes()),
                    ("json", json.dumps(each["recording"]).encode()),
                ):
                    member = tarfile.TarInfo(f"{each['id']}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    prepare(folder, "--out", tmp_path / "c")
    found = content(Corpus.open(tmp_path / "c"))
    reference = spoken.reference(tmp_path / "reference")
    plain = [
        sorted(
            (waveform, sorted((k, v) for k, v in meta.items() if k != "file")) for _, waveform, meta in each.values()
        )
        for each in (found, reference)
    ]
    assert plain[0] == plain[1]
    (folder / "recording.000001.tar").unlink()
    with pytest.raises(UserError, match=r"cuts.000001.jsonl.gz has no recording.000001.tar"):
        prepare(folder, "--out", tmp_path / "again")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"type": "MixedCut"}, r"1 cuts of type MixedCut, whose audio is made by Lhotse \(u00\)"),
        ({"recording": None}, r"1 cuts without a recording"),
        ({"duration": "long"}, r"line 1: not readable as a cut of Lhotse"),
    ],
)
def test_cuts_that_cannot_be_read(spoken, tmp_path, fields, message):
    manifest = lines(tmp_path / "cuts.jsonl", [cut(spoken, spoken.rows[0], **fields), cut(spoken, spoken.rows[1])])
    with pytest.raises(UserError, match=message):
        prepare(manifest, "--out", tmp_path / "c")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"transforms": [{"name": "Speed", "kwargs": {}}]}, r"1 recordings that Lhotse changes \(Speed\)"),
        ({"sources": [{"type": "command", "channels": [0], "source": "cat"}]}, r"a source of type command"),
        ({"sources": [{"type": "file", "channels": [0], "source": "gone.wav"}]}, r"whose file is not there"),
        ({"id": "u01"}, r"line 2: the recording 'u01' is listed twice"),
        ({"sources": None}, r"line 1: not readable as a recording of Lhotse"),
    ],
)
def test_recordings_that_cannot_be_read(spoken, tmp_path, fields, message):
    manifest = lines(
        tmp_path / "recordings.jsonl", [recording(spoken, spoken.rows[0], **fields), recording(spoken, spoken.rows[1])]
    )
    with pytest.raises(UserError, match=message):
        prepare(manifest, "--out", tmp_path / "c")


def test_a_supervision_beyond_its_recording_and_files_that_are_no_manifests(spoken, tmp_path):
    recordings = lines(tmp_path / "recordings.jsonl", [recording(spoken, row) for row in spoken.rows])
    supervisions = lines(tmp_path / "supervisions.jsonl", [supervision(row, 99.0) for row in spoken.rows])
    with pytest.raises(UserError, match=r"8 supervisions that reach beyond their recording"):
        prepare(recordings, supervisions, "--out", tmp_path / "c")
    with pytest.raises(UserError, match="supervisions have no audio; name their recordings"):
        prepare(supervisions, "--out", tmp_path / "c")
    with pytest.raises(UserError, match="neither a recording nor a supervision nor a cut"):
        prepare(lines(tmp_path / "x.jsonl", [{"a": 1}]), "--out", tmp_path / "c")
    (tmp_path / "recordings.jsonl").write_text("{not json\n")
    with pytest.raises(UserError, match=r"recordings.jsonl, line 1: not readable as a JSON object"):
        prepare(recordings, "--out", tmp_path / "c")
