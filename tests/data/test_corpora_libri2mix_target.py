"""`wavlm prepare libri2mix_target` on a miniature of what LibriMix and SpeakerBeam publish."""

import numpy as np
import pytest
import soundfile

from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus

MIXTURES = {
    "train-100": ["1-1-0001_2-2-0001", "1-1-0002_3-3-0001", "2-2-0002_3-3-0002", "4-4-0001_1-1-0003"],
    "dev": ["5-5-0001_6-6-0001", "6-6-0002_5-5-0002"],
    "test": ["7-7-0001_8-8-0001", "8-8-0002_7-7-0002"],
}
LIBRISPEECH = {"train-100": "train-clean-100", "dev": "dev-clean", "test": "test-clean"}


def level(utterance):
    """What an utterance consists of: a constant that tells which one it is."""
    reader, _, number = map(int, utterance.split("-"))
    return (10 * reader + number) / 1000


@pytest.fixture
def published(tmp_path):
    for subset, mixtures in MIXTURES.items():
        folder = tmp_path / "Libri2Mix" / "wav16k" / "max" / subset
        for mixture in mixtures:
            levels = [level(utterance) for utterance in mixture.split("_")]
            for name, value in zip(("mix_clean", "s1", "s2"), (sum(levels), *levels), strict=True):
                (folder / name).mkdir(parents=True, exist_ok=True)
                # The mode max pads a source to the length of the longer reader.
                padded = np.concatenate([np.full(7000, value), np.zeros(1000)])
                soundfile.write(folder / name / f"{mixture}.wav", padded, 16000)
            for utterance in mixture.split("_"):
                reader, chapter, _ = utterance.split("-")
                texts = (
                    tmp_path / "LibriSpeech" / LIBRISPEECH[subset] / reader / chapter / f"{reader}-{chapter}.trans.txt"
                )
                texts.parent.mkdir(parents=True, exist_ok=True)
                with texts.open("a") as file:
                    file.write(f"{utterance} READER {reader} SAYS {utterance[-1]}\n")
        if subset != "train-100":
            first, second = mixtures
            (a, b), (c, d) = first.split("_"), second.split("_")
            lines = [
                f"{first} {a} s2/{second}",
                f"{first} {b} s1/{second}",
                f"{second} {c} s2/{first}",
                f"{second} {d} s1/{first}",
            ]
            (tmp_path / "lists" / subset).mkdir(parents=True)
            (tmp_path / "lists" / subset / "map_mixture2enrollment").write_text("\n".join(lines) + "\n")
    return tmp_path


def prepare(folder, *more):
    options = ["--enrolments", str(folder / "lists"), "--workers", "1", *more]
    return main(["prepare", "libri2mix_target", str(folder), "--out", str(folder / "c"), *options])


def test_each_reader_is_asked_for_once_with_another_utterance(published, capsys):
    labels = published / "labels"
    labels.mkdir()
    for name, subset in (("train_clean_100", "train-100"), ("dev_clean", "dev"), ("test_clean", "test")):
        utterances = [each for mixture in MIXTURES[subset] for each in mixture.split("_")]
        lines = (
            f"SPEAKER {each.split('-', 1)[1]} 1 0.1 0.2 <NA> <NA> {each.split('-')[0]} <NA> <NA>" for each in utterances
        )
        (labels / f"{name}.rttm").write_text("\n".join(lines) + "\n")
    more = ("--librispeech", str(published / "LibriSpeech"), "--labels", str(labels), "--allow-partial")
    assert prepare(published, *more) == 0
    corpus = Corpus.open(published / "c")
    assert corpus.body["source"]["without_enrolment"] == {"train": 1}  # reader 4
    heard = 0
    for split in corpus.splits:
        part = corpus.split(split)
        part.check_audio("clean", aligned=True)
        for shard in part.shards:
            for place, key in enumerate(shard.keys):
                meta, audio = shard.meta(place), shard.further_audio(place)
                mixture, source = key.rsplit("-", 1)
                target = mixture.split("_")[("s1", "s2").index(source)]
                assert meta["speaker"] == target.split("-")[0] != meta["interferer"]
                assert meta["text"] == f"READER {meta['speaker']} SAYS {target[-1]}"
                assert {name for name, *_ in meta["turns"]} == {meta["speaker"], meta["interferer"]}
                assert len(audio["clean"]) == 8000 and len(audio["enrolment"]) == 7000  # nobody speaks in the padding
                assert audio["clean"][:7000].mean() == pytest.approx(level(target), abs=1e-3)
                enrolled = round(1000 * float(audio["enrolment"].mean()))
                assert enrolled // 10 == int(meta["speaker"]) and enrolled != round(1000 * level(target))
                heard += 1
    assert heard == 15
    assert prepare(published, *more[:2], "--mode", "min") == 2 and "use max" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("5-5-0001 s2", "5-5-0001 s1"), "of another reader"),
        (lambda text: text.partition("\n")[2], "has no enrolment for 5-5-0001"),
        (lambda text: text.replace(" ", "_", 1), "line 1"),
    ],
)
def test_a_wrong_list_is_refused(published, capsys, change, said):
    path = published / "lists" / "dev" / "map_mixture2enrollment"
    path.write_text(change(path.read_text()))
    assert prepare(published, "--allow-partial") == 2
    assert said in capsys.readouterr().err
