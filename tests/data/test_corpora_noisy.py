"""`wavlm prepare voicebank_demand` and `chime4` on miniatures of the published folders."""

from __future__ import annotations

import pytest
from miniature import prepare, refusal, sound

from wavlm_lightning.data.corpora.noisy.chime4 import CELLS, PLACES, dot_text
from wavlm_lightning.data.corpus import Corpus

VOICEBANK = {"trainset_28spk": ["p226_001", "p287_002", "p227_001", "p228_003"], "testset": ["p232_001", "p257_010"]}


@pytest.fixture
def voicebank(tmp_path):
    for part, names in VOICEBANK.items():
        for name in names:
            for kind, level in (("noisy", 0.4), ("clean", 0.1)):
                sound(tmp_path / f"{kind}_{part}_wav" / f"{name}.wav", level=level)
    (tmp_path / "testset_txt").mkdir()
    (tmp_path / "testset_txt" / "p232_001.txt").write_text("Please call Stella.\n")
    (tmp_path / "log_testset.txt").write_text("p232_001 bus 17.5\np257_010 cafe 2.5\n")
    return tmp_path


def test_two_speakers_validate_and_every_utterance_has_its_clean_speech(voicebank, capsys):
    assert "train has 2 utterances instead of 10,802, valid has 2 utterances instead of 770" in refusal(
        capsys, "voicebank_demand", voicebank, voicebank / "c"
    )
    assert prepare("voicebank_demand", voicebank, voicebank / "c", "--allow-partial") == 0
    corpus = Corpus.open(voicebank / "c")
    assert corpus.split("valid").keys == ["p226_001", "p287_002"] and corpus.split("train").keys == [
        "p227_001",
        "p228_003",
    ]
    test = corpus.split("test")
    assert test.metas()[0] == {
        "speaker": "p232",
        "language": "en",
        "noise": "bus",
        "snr_db": 17.5,
        "text": "Please call Stella.",
    }
    assert "text" not in test.metas()[1]
    for split in corpus.splits:
        corpus.split(split).check_audio("clean", aligned=True)
    (waveform,) = [shard.waveform(0) for shard in test.shards]
    (clean,) = [shard.further_audio(0)["clean"] for shard in test.shards]
    assert abs(waveform).max() > 3 * abs(clean).max()  # the noisy one is the input


def test_resampled_folders_come_first_and_gaps_are_refused(voicebank, capsys):
    for part, names in VOICEBANK.items():
        for name in names:
            for kind in ("noisy", "clean"):
                sound(voicebank / f"{kind}_{part}_wav_16k" / f"{name}.wav", seconds=0.5)
    assert prepare("voicebank_demand", voicebank, voicebank / "c", "--allow-partial") == 0
    assert set(Corpus.open(voicebank / "c").split("test").samples) == {8000}
    (voicebank / "log_testset.txt").write_text("p232_001 bus\n")
    message = refusal(capsys, "voicebank_demand", voicebank, voicebank / "d", "--allow-partial")
    assert "log_testset.txt: line 1 is not an utterance, a noise and a ratio" in message
    (voicebank / "clean_testset_wav_16k" / "p257_010.wav").unlink()
    (voicebank / "log_testset.txt").unlink()
    message = refusal(capsys, "voicebank_demand", voicebank, voicebank / "d", "--allow-partial")
    assert "p257_010.wav: no such file; it should be the clean speech" in message


@pytest.fixture
def chime(tmp_path):
    root = tmp_path / "CHiME3"
    audio, texts = root / "data" / "audio" / "16kHz", root / "data" / "transcriptions"
    texts.mkdir(parents=True)
    for cell in ("tr05_real", "tr05_simu", *CELLS):
        data, kind = cell.split("_")
        lines = []
        for number, place in enumerate(PLACES):
            sentence = f"22GC01{number}A" if cell != "tr05_simu" else f"01TC020{number}"
            name = f"F01_{sentence}_{place.upper()}"
            lines.append(f"THE TEXT {cell.upper().replace('_', ' ')} <NOISE> ({name})\n")
            if cell.startswith("tr05"):
                for channel in range(1, 7):
                    sound(audio / "isolated" / f"{data}_{place}_{kind}" / f"{name}.CH{channel}.wav", 0.2 + channel / 10)
            else:
                sound(audio / "isolated_1ch_track" / f"{data}_{place}_{kind}" / f"{name}.wav")
        if cell != "tr05_simu":
            (texts / f"{cell}.dot_all").write_text("".join(lines))
    return root


def test_the_four_cells_are_splits_with_their_condition(chime, tmp_path, capsys):
    assert "tr05_real has 4 utterances instead of 1,600" in refusal(capsys, "chime4", chime, tmp_path / "c")
    assert prepare("chime4", chime, tmp_path / "c", "--allow-partial") == 0
    corpus = Corpus.open(tmp_path / "c")
    assert [*corpus.splits] == ["train", *CELLS]
    for cell in CELLS:
        metas = corpus.split(cell).metas()
        assert {meta["condition"] for meta in metas} == {cell} and [meta["noise"] for meta in metas] == [*PLACES]
        assert {meta["text"] for meta in metas} == {f"THE TEXT {cell.upper().replace('_', ' ')}"}
    train = corpus.split("train")
    assert len(train.keys) == 4 and train.samples[0] == pytest.approx(0.7 * 16_000, abs=2)  # channel 5
    assert corpus.split("dt05_real").keys[0] == "F01_22GC010A_BUS_REAL"


def test_simulated_training_takes_the_texts_of_wsj0(chime, tmp_path, capsys):
    dots = tmp_path / "wsj0" / "transcrp" / "dots" / "si_tr_s" / "01t"
    dots.mkdir(parents=True)
    (dots / "01tc0200.dot").write_text("".join(f"Sentence {n} ,COMMA says it (01tc020{n})\n" for n in range(3)))
    options = ["--wsj0", tmp_path / "wsj0", "--allow-partial", "--channel", 1]
    message = refusal(capsys, "chime4", chime, tmp_path / "c", *options)
    assert "F01_01TC0203_STR.CH1.wav: has no text in the transcriptions" in message
    with (dots / "01tc0200.dot").open("a") as file:
        file.write("Sentence 3 ends (01tc0203)\n")
    assert prepare("chime4", chime, tmp_path / "c", *options) == 0
    train = Corpus.open(tmp_path / "c").split("train")
    found = {meta["condition"]: meta["text"] for meta in train.metas() if meta["noise"] == "bus"}
    assert found == {"tr05_real": "THE TEXT TR05 REAL", "tr05_simu": "SENTENCE 0 COMMA SAYS IT"}
    (chime / "data" / "transcriptions" / "et05_real.dot_all").write_text("NO NAME\n")
    assert "et05_real.dot_all: line 1 does not end with an utterance" in refusal(
        capsys, "chime4", chime, tmp_path / "d"
    )


@pytest.mark.parametrize(
    ("detailed", "spoken"),
    [
        ("[loud_breath] it's <door_slam> \\*FINE .", "IT'S FINE"),
        ("FIVE .POINT SIX %PERCENT -DASH 'TIS", "FIVE POINT SIX PERCENT DASH 'TIS"),
        ("~ U. S. THE MARK!ET", "U S THE MARKET"),
        ("[<door_slam] he <was> is [phone_ring/] <don't>", "HE WAS IS DON'T"),  # said in error, but said
    ],
)
def test_detailed_transcripts(detailed, spoken):
    assert dot_text(detailed) == spoken
