"""Synthesisers, alignment and effects one by one."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.mini import grammar, prepare_mini, rooms
from wavlm_lightning.data.mini.effects import Conditions, frequency_response, noise, record, set_level
from wavlm_lightning.data.mini.scripted_utterance import padded, placed, trimmed
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.espeak import EspeakProcess, EspeakUnavailableError, resample
from wavlm_lightning.data.mini.synthesis.formant_synth import FormantSynthesiser
from wavlm_lightning.data.mini.synthesis.phones import PHONES, fold
from wavlm_lightning.data.mini.synthesis.speech import SpeechRequest, Synthesiser
from wavlm_lightning.data.mini.synthesis.voices import ACCENTS
from wavlm_lightning.system.errors import UserError

RATE = 16_000
espeak_needed = pytest.mark.skipif(importlib.util.find_spec("espeakng_loader") is None, reason="extra [corpus] missing")
TEXT = "The lazy fox admired a yellow vase. Why did she go?"


def request(**changes: object) -> SpeechRequest:
    settings: dict[str, object] = {"rate": 160, "pitch": 50, "pitch_range": 50, "seed": 3} | changes
    return SpeechRequest(str(settings.pop("text", TEXT)), "en-US", "m3", **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module", params=["buzz", pytest.param("espeak", marks=espeak_needed)])
def voice(request: pytest.FixtureRequest):
    synthesiser: Synthesiser = FormantSynthesiser() if request.param == "buzz" else EspeakProcess()
    yield synthesiser
    synthesiser.close()


def test_the_same_request_gives_the_same_samples_whatever_came_before(voice: Synthesiser) -> None:
    first = voice.speak(request())
    voice.speak(request(text="Something else entirely!", pitch=80))
    again = voice.speak(request())
    assert np.array_equal(first.waveform, again.waveform) and first.phones == again.phones


def test_a_shorter_tract_raises_the_spectrum_and_keeps_the_tempo(voice: Synthesiser) -> None:
    def centroid_and_seconds(tract: float) -> tuple[float, float]:
        speech = voice.speak(request(tract=tract))
        power = np.abs(np.fft.rfft(speech.waveform)) ** 2
        hertz = np.fft.rfftfreq(len(speech.waveform), 1 / RATE)
        band = hertz < 4000
        return float((power[band] * hertz[band]).sum() / power[band].sum()), speech.seconds

    (low, long), (high, short) = centroid_and_seconds(0.88), centroid_and_seconds(1.14)
    assert 1.08 < high / low < 1.6
    assert 0.85 < short / long < 1.18


def test_speech_starts_and_ends_with_its_phones_after_trimming(voice: Synthesiser) -> None:
    speech = trimmed(voice.speak(request()))
    assert speech.phones[0].name != "SIL" != speech.phones[-1].name
    assert speech.phones[0].start == pytest.approx(0, abs=1e-4)
    assert speech.phones[-1].end == pytest.approx(speech.seconds, abs=1e-3)
    assert "SIL" in {phone.name for phone in speech.phones}, "there is a pause between the sentences"
    assert " ".join(word.name for word in speech.words) == "the lazy fox admired a yellow vase why did she go"


def test_padding_moves_all_times(voice: Synthesiser) -> None:
    speech = trimmed(voice.speak(request()))
    moved = padded(speech, 0.25, 0.5)
    assert moved.seconds == pytest.approx(speech.seconds + 0.75)
    assert moved.words[2].start == pytest.approx(speech.words[2].start + 0.25)
    assert [p.name for p in moved.phones] == ["SIL", *[p.name for p in speech.phones], "SIL"]
    assert np.array_equal(moved.waveform[4000 : 4000 + len(speech.waveform)], speech.waveform)
    with pytest.raises(ValueError, match="does not fit"):
        placed(speech, 0.5, generator(0))


@espeak_needed
@pytest.mark.slow
def test_every_word_in_every_accent_folds_to_the_39_phones_and_all_occur() -> None:
    voice, heard = EspeakProcess(), set()
    words = grammar.vocabulary()
    assert 350 < len(words) < 650
    for accent in ACCENTS:
        for i in range(0, len(words), 12):
            # Rate and voice do not matter here; an unknown name raises KeyError.
            speech = voice.speak(SpeechRequest(" ".join(words[i : i + 12]), accent, "m3", 300, 50, 50))
            heard |= {phone.name for phone in speech.phones}
    voice.close()
    assert heard - {"SIL"} == set(PHONES)


@espeak_needed
def test_words_without_a_boundary_of_their_own_are_one_entry() -> None:
    voice = EspeakProcess()
    speech = voice.speak(request(text="He sat in the garden for the day."))
    voice.close()
    names = [word.name for word in speech.words]
    assert "in the" in names and " ".join(names) == "he sat in the garden for the day"


@espeak_needed
def test_an_unknown_voice_is_reported_and_the_process_lives_on() -> None:
    voice = EspeakProcess()
    with pytest.raises(RuntimeError, match="no voice"):
        voice.speak(SpeechRequest("Hello.", "xx-nowhere", "m3", 160, 50, 50))
    assert voice.speak(request()).seconds > 1
    voice.close()


@espeak_needed
def test_a_dead_process_is_reported() -> None:
    voice = EspeakProcess()
    voice._process.kill()
    voice._process.wait()
    with pytest.raises(RuntimeError, match="ended unexpectedly"):
        voice.speak(request())
    voice.close()


def test_phones_fold_stress_marks_pauses_and_diphones() -> None:
    assert fold("'aI") == ("AY",) and fold(",i@3") == ("IH", "R") and fold("@L") == ("AH", "L")
    assert fold("_:") == fold("") == ("SIL",)
    assert fold(";") == (), "a palatal glide, not a pause"
    with pytest.raises(KeyError):
        fold("no such phone")


def test_importing_the_package_loads_neither_espeak_nor_torch() -> None:
    code = "import sys, wavlm_lightning.data.mini; assert not {'espeakng_loader', 'torch', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_espeak_a_buzz_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(EspeakUnavailableError):
        EspeakProcess()
    prepare_mini(tmp_path, size="tiny", datasets=["ks", "qbe"], workers=2, progress=False)
    assert "warning" in capsys.readouterr().err
    corpus = Corpus.open(tmp_path / "ks")
    assert corpus.body["source"]["synthesiser"] == "buzz"
    assert all(len(wave) == RATE and np.abs(wave).max() > 1e-3 for _, wave, _ in corpus.split("train").utterances())
    # Nothing to fix while espeak-ng is missing; a clear sentence once it is there.
    prepare_mini(tmp_path, size="tiny", datasets=["ks"], progress=False)
    monkeypatch.delitem(sys.modules, "espeakng_loader")
    if importlib.util.find_spec("espeakng_loader"):
        with pytest.raises(UserError, match="without espeak-ng"):
            prepare_mini(tmp_path, size="tiny", datasets=["ks"], progress=False)


def test_wrong_requests_are_refused_in_one_sentence(tmp_path: Path) -> None:
    for arguments, words in (
        ({"size": "huge"}, "no size 'huge'"),
        ({"datasets": ["asr"]}, "no data set 'asr'"),
        ({"workers": 0}, "at least 1"),
    ):
        with pytest.raises(UserError, match=words):
            prepare_mini(tmp_path, progress=False, **arguments)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_another_corpus_in_the_way_is_never_overwritten(tmp_path: Path) -> None:
    prepare_mini(tmp_path, size="tiny", datasets=["qbe"], workers=2, progress=False)
    with pytest.raises(UserError, match=r"seed 0.*seed 1.*delete it"):
        prepare_mini(tmp_path, size="tiny", datasets=["qbe"], seed=1, progress=False)


def test_resampling_moves_a_tone_by_the_rate_and_keeps_its_level() -> None:
    time = np.arange(22050) / 22050
    raw = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    waveform, rate = resample(raw, 22050 * 1.1)
    assert rate == pytest.approx(22050 * 1.1, rel=0.01)
    assert len(waveform) == pytest.approx(22050 / rate * RATE, abs=1)
    power = np.abs(np.fft.rfft(waveform))
    peak = np.fft.rfftfreq(len(waveform), 1 / RATE)[power.argmax()]
    assert peak == pytest.approx(1000 * rate / 22050, abs=2)
    assert np.std(waveform[500:-500]) == pytest.approx(np.std(raw), rel=0.01)


def test_rooms_keep_alignment_and_differ_between_splits() -> None:
    train, test = rooms.pool(0, "train"), rooms.pool(0, "test")
    assert np.allclose(np.linalg.norm(train, axis=1), 1, atol=1e-4)
    assert (np.abs(train).argmax(axis=1) < 200).all() and (np.abs(train[:, 0]) > 0).all()
    assert not np.array_equal(train, test)
    # Energy decays: a room, not a comb.
    tail = (train[:, 2000:] ** 2).sum(axis=1)
    assert (tail < 0.35).all() and (tail > 0).all()


def test_noise_has_the_ratio_asked_for() -> None:
    time = np.arange(3 * RATE) / RATE
    clean = (0.1 * np.sin(2 * np.pi * 440 * time)).astype(np.float32)
    conditions = Conditions(room=0, noise=1, snr=(10, 10), equaliser=0, gain_db=0, colour=(0, 0))
    recorded, done = record(clean, conditions, rooms.pool(0, "train"), generator(1))
    assert done == {"room": False, "snr_db": 10.0, "level_db": -26.0}
    gain = np.dot(recorded, clean) / np.dot(clean, clean)
    rest = recorded - gain * clean
    assert 10 * np.log10((gain * clean).var() / rest.var()) == pytest.approx(10, abs=0.3)


def test_levels_never_clip_and_silence_is_refused() -> None:
    spike = np.zeros(16000, dtype=np.float32)
    spike[100] = 1.0
    assert np.abs(set_level(spike, 0.0)[0]).max() <= 0.9501
    assert 20 * np.log10(noise(16000, 1.0, -40.0, generator(2)).std()) == pytest.approx(-40, abs=0.1)
    with pytest.raises(ValueError, match="no level"):
        set_level(np.zeros(10, dtype=np.float32), -20)


def test_frequency_response_stays_within_its_limits_and_varies() -> None:
    curves = 20 * np.log10([frequency_response(4000, 8.0, generator(i)) for i in range(50)])
    assert np.abs(curves).max() <= 8.01 and curves.std(axis=0).min() > 2
