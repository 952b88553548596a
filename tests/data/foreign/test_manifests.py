"""jsonl and TSV manifests give what the CSV with the same rows gives."""

import json

import numpy as np
import pytest
import soundfile
from spoken_files import content

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.folder import FolderRecipe
from wavlm_lightning.system.errors import UserError


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_jsonl_of_nemo_and_tsv(spoken, tmp_path):
    reference = spoken.reference(tmp_path / "reference")
    rows = []
    for row in spoken.rows:
        fields = {name: value for name, value in row.items() if name not in ("path", "language")}
        seconds = soundfile.info(spoken.folder / row["path"]).duration
        rows.append({"audio_filepath": row["path"], "duration": seconds, "lang": row["language"], **fields})
    FolderRecipe(spoken.folder, tmp_path / "j", jsonl(tmp_path / "m.jsonl", rows)).prepare(workers=1)
    assert content(Corpus.open(tmp_path / "j")) == reference
    table = ["\t".join(spoken.rows[0]), *("\t".join(row.values()) for row in spoken.rows)]
    (tmp_path / "m.tsv").write_text("\n".join(table) + "\n")
    FolderRecipe(spoken.folder, tmp_path / "t", tmp_path / "m.tsv").prepare(workers=1)
    assert content(Corpus.open(tmp_path / "t")) == reference


def test_offset_channel_and_labels(tmp_path):
    rng = np.random.default_rng(0)
    both = rng.uniform(-0.3, 0.3, (16_000, 2)).astype("f4")
    (tmp_path / "a").mkdir()
    soundfile.write(tmp_path / "a" / "x.wav", both, 16_000, subtype="FLOAT")
    for name in ("y", "z"):
        soundfile.write(tmp_path / "a" / f"{name}.wav", rng.uniform(-0.3, 0.3, 8000), 16_000)
    rows = [
        {"audio_filepath": "x.wav", "offset": 0.25, "duration": 0.5, "channel": 1, "keyword": "yes", "split": "train"},
        {"audio_filepath": "y.wav", "keyword": "no", "intent": {"action": "open"}, "mood": "glad", "split": "train"},
        {"audio_filepath": "z.wav", "phones": [["t", 0.0, 0.1]], "turns": [["anna", 0.0, 0.2]], "split": "test"},
    ]
    jsonl(tmp_path / "m.jsonl", rows)
    options = ["--manifest", str(tmp_path / "m.jsonl"), "--label-columns", "mood", "--workers", "1"]
    main(["prepare", "folder", str(tmp_path / "a"), "--out", str(tmp_path / "c"), *options])
    corpus = Corpus.open(tmp_path / "c")
    found = {key: (waveform, meta) for key, waveform, meta in corpus.split("train").utterances()}
    np.testing.assert_allclose(found["x-00000250-channel1"][0], both[4000:12_000, 1], atol=2**-15)
    assert corpus.inventory("keywords") == ["no", "yes"] and corpus.inventory("mood") == ["glad"]
    assert corpus.inventories["intents"] == {"action": ["open"]}
    (meta,) = corpus.split("test").metas()
    assert meta["phones"] == [["t", 0.0, 0.1]] and meta["turns"] == [["anna", 0.0, 0.2]]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"audio_filepath": "u00.wav", "duration": 9}, 'u00.wav lasts 0.50 s, but its duration is 9 s; .*"offset": 0'),
        ({"audio_filepath": "u00.wav", "duration": "x"}, r"m.jsonl, line 1, `duration`: 'x' is not a number"),
        ({"audio_filepath": "u00.wav", "offset": 0, "duration": 0}, "ends at 0 s, before it begins"),
        ({"audio_filepath": "u00.wav", "channel": -1}, "column `channel`: -1 is no channel; channels count from 0"),
        ({"audio_filepath": "u00.wav", "channel": 3}, "channel 3 is asked for .* and it has 1"),
        ({"audio_filepath": "u00.wav", "path": "u01.wav"}, "two of its keys mean `path`"),
        ({"audio_filepath": "u00.wav", "text": 5}, "column `text`: 5 is neither text nor a number"),
        ({"audio_filepath": "u00.wav", "extra": {"a": 1}}, "column `extra`: .* is neither text nor a number"),
        (
            {"audio_filepath": "u00.wav", "turns": [["a", 2, 1]]},
            r"column `turns`: \['a', 2, 1\] is not \[name, start, end\]",
        ),
        (
            {"audio_filepath": "u00.wav", "intent": "open"},
            r"line 1, column `intent`: 'open' does not say which slot it is; write a column `intent:SLOT`",
        ),
        ({"audio_filepath": "u00.wav", "label": ["a"]}, r"column `label`: \['a'\] is neither text nor a number"),
        ({"text": "no file"}, "line 1: the path is empty"),
        (["u00.wav"], "line 1: not readable as a JSON object"),
    ],
)
def test_wrong_rows(spoken, tmp_path, row, message):
    manifest = jsonl(tmp_path / "m.jsonl", [row, {"audio_filepath": "u01.wav"}, {"audio_filepath": "u02.wav"}])
    with pytest.raises(UserError, match=message):
        FolderRecipe(spoken.folder, tmp_path / "c", manifest).prepare(workers=1)


def test_a_tsv_written_with_quotes_is_refused(spoken, tmp_path):
    (tmp_path / "m.tsv").write_text('path\ttext\nu00.wav\t"say ""hi"""\n')
    with pytest.raises(UserError, match=r"m.tsv, line 2, column `text`: .* is quoted as in CSV"):
        FolderRecipe(spoken.folder, tmp_path / "c", tmp_path / "m.tsv").prepare(workers=1)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("begin", ["start", "offset"])
def test_a_start_with_a_duration_ends(spoken, tmp_path, suffix, begin):
    path = tmp_path / f"m.{suffix}"
    rows = [{"path": f"u0{n}.wav", begin: 0.125, "duration": 0.25} for n in range(3)]
    if suffix == "jsonl":
        jsonl(path, rows)
    else:
        mark = "," if suffix == "csv" else "\t"
        path.write_text("".join(f"{mark.join(map(str, row))}\n" for row in [rows[0], *(r.values() for r in rows)]))
    options = ["--out", str(tmp_path / "c"), "--manifest", str(path), "--workers", "1"]
    main(["prepare", "folder", str(spoken.folder), *options])
    corpus = Corpus.open(tmp_path / "c")
    lengths = [int(samples) for split in corpus.splits for samples in corpus.split(split).samples]
    assert len(lengths) == 3 and set(lengths) <= {4000, 4001}, "of 0.25 s; one file has another rate"
