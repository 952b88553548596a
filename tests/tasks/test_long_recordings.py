"""Windows of a long recording against the recording heard whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    IntentClassification,
    KeywordSpotting,
    PhonemeRecognition,
    SpeakerDiarization,
    SpeakerVerification,
    SpeechRecognition,
    WaveformTask,
)
from wavlm_lightning.tasks.windows import long_outputs, windows
from wavlm_lightning.upstreams import Fbank, WavLMUpstream

LABELS: dict[type, Any] = {
    KeywordSpotting: ["yes", "no", "up"],
    IntentClassification: {"action": ["on", "off"], "object": ["lamp", "heat"]},
    PhonemeRecognition: ["<pad>", "<eos>", "<unk>", "AA", "B"],
    SpeechRecognition: ["<pad>", "<eos>", "<unk>", "|", "A", "B"],
    SpeakerDiarization: ["speaker1", "speaker2"],
    SpeakerVerification: ["anna", "bert"],
}
SMALL: dict[type, dict[str, Any]] = {
    SpeakerDiarization: {"hidden": 16},
    SpeechRecognition: {"hidden": 16},
    SpeakerVerification: {"hidden": 16, "widths": (16,) * 5, "embedding": 16},
}


def make(kind: type, upstream: Any) -> Any:
    task = kind(upstream=upstream, **SMALL.get(kind, {}))
    task.build(LABELS.get(kind, ["yes", "no"]))
    return task.eval()


def noise(seconds: float) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(round(seconds * 16_000), generator=generator)


def whole(task: Any, waveform: Tensor) -> tuple[Tensor, Tensor]:
    return task(Waveforms(waveform[None], torch.tensor([len(waveform)])))


@pytest.mark.parametrize("samples", [16_000, 16_001, 100_000, 123_457, 959_999])
@pytest.mark.parametrize("hop", [160, 320])
@pytest.mark.parametrize("seconds", [1.0, 2.5, 20.0])
def test_windows_answer_for_every_frame_once(samples: int, hop: int, seconds: float):
    covered = 0
    found = list(windows(samples, hop, seconds))
    for number, (stretch, before, frames) in enumerate(found):
        assert stretch.start % hop == 0 and stretch.start // hop + before == covered
        assert stretch.stop - stretch.start <= round((seconds + 0.1) * 16_000) or len(found) == 1
        assert (frames is None) == (number == len(found) - 1)
        if frames is not None:
            covered += frames
            # What it answers for is followed by context, or by the end of the recording.
            assert stretch.stop >= min((covered + 1) * hop, samples)
    assert found[-1].samples.stop == samples


@pytest.mark.parametrize("kind", [KeywordSpotting, IntentClassification, PhonemeRecognition, SpeakerDiarization])
@pytest.mark.parametrize("seconds", [1.0, 2.3])
def test_with_a_local_upstream_windows_are_exact(kind: type, seconds: float):
    """Filter banks see 25 ms and normalise nothing here, so what is heard in windows is what is heard whole."""
    task, waveform = make(kind, Fbank(cmvn=False)), noise(7.77)
    with torch.inference_mode():
        expected, lengths = whole(task, waveform)
        outputs, frames = long_outputs(task, waveform, seconds)
    assert outputs.shape == expected.shape
    assert (outputs - expected).abs().max() < 1e-4 * max(1.0, expected.abs().max().item())
    if outputs.ndim == 3:
        assert torch.equal(frames, lengths)
    assert task.readable(outputs, frames) == task.readable(expected, lengths)


def test_a_recurrent_transcriber_hears_the_context():
    """Its LSTMs start anew in each window: near the borders it is right because it has heard what comes before."""
    task, waveform = make(SpeechRecognition, Fbank(cmvn=False)), noise(8)
    with torch.inference_mode():
        expected, lengths = whole(task, waveform)
        outputs, frames = long_outputs(task, waveform, 4.0)
    assert torch.equal(frames, lengths) and outputs.shape == expected.shape
    assert (outputs - expected).abs().max() < 1e-3


def test_an_embedding_is_the_mean_of_the_windows():
    task, waveform = make(SpeakerVerification, Fbank(cmvn=False)), noise(6)
    with torch.inference_mode():
        outputs, _ = long_outputs(task, torch.cat([waveform, waveform]), 3.0)
        expected, _ = whole(task, waveform)
    assert outputs.shape == expected.shape
    assert torch.nn.functional.cosine_similarity(outputs, expected).item() > 0.99


def test_the_encoder_hears_windows():
    """Attention and normalisation are over a window; the number of frames is that of the whole recording."""
    task, waveform = make(PhonemeRecognition, WavLMUpstream("tiny")), noise(9.99)
    with torch.inference_mode():
        expected, lengths = whole(task, waveform)
        outputs, frames = long_outputs(task, waveform, 4.0)
        one_window, _ = long_outputs(task, waveform, 60.0)
    assert outputs.shape == expected.shape and torch.equal(frames, lengths)
    assert torch.equal(one_window, expected)
    assert not torch.allclose(outputs, expected, atol=1e-6)
    correlation = torch.corrcoef(torch.stack([outputs.flatten(), expected.flatten()]))[0, 1]
    assert correlation > 0.9


class Echo(KeywordSpotting):
    """Answers with a waveform of 320 samples a frame."""

    cache_level = "frame"

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        return features[:, :, :1].repeat(1, 1, 320).flatten(1)


@pytest.mark.parametrize(("answer", "sentence"), [("waveform", "answers .* samples with"), (None, "declare `answer`")])
def test_windows_of_waveforms_are_refused_in_one_sentence(answer, sentence):
    task = make(type("Echo", (Echo,), {"answer": answer}), Fbank(cmvn=False))
    with pytest.raises(UserError, match=rf"KS: .*{sentence}.*--window 0"):
        long_outputs(task, noise(7.3), 2.0)


class Slope(WaveformTask):
    """The difference of neighbouring samples, so that a window that is cut one sample off is wrong."""

    name = "SLOPE"

    def build_head(self, dim: int) -> None:
        pass

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        return audio.audio - nn.functional.pad(audio.audio, (1, 0))[:, :-1]


class Halves(Slope):
    """Two talkers, told apart by the sign of their samples, in an order that the content of the window decides."""

    target_audio = ("s1", "s2")

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        parts = torch.stack([audio.audio.clamp(min=0), audio.audio.clamp(max=0)], 2)
        return parts.flip(2) if audio.audio.sum() > 0 else parts


def test_a_talker_stays_in_one_part_across_windows():
    waveform = noise(8)
    task = make(Halves, Fbank(cmvn=False))
    with torch.inference_mode():
        outputs, counted = long_outputs(task, waveform, 1.0)
        windows_of = {bool(waveform[n * 4000 : n * 4000 + 16_000].sum() > 0) for n in range(28)}
    assert windows_of == {True, False}  # so that the head answers in both orders
    first, second = outputs[0].unbind(1)
    assert torch.equal(first + second, waveform) and int(counted) == len(waveform)
    assert ((first >= 0).all() and (second <= 0).all()) or ((first <= 0).all() and (second >= 0).all())


class Louder(Slope):
    """Multiplies each frame of samples by a number that the head computes from its features."""

    def build_head(self, dim: int) -> None:
        self.gain = nn.Linear(dim, 1)

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        hop = round(16_000 / self.upstream.frame_rate)
        gain = self.gain(features)[:, :, 0].repeat_interleave(hop, 1)
        return audio.audio * nn.functional.pad(gain, (0, audio.audio.shape[1]))[:, : audio.audio.shape[1]]


@pytest.mark.parametrize("samples", [123_457, 124_320, 32_001])
@pytest.mark.parametrize("seconds", [1.0, 2.3])
def test_a_local_waveform_is_the_same_in_windows(samples: int, seconds: float):
    waveform = noise(8)[:samples]
    for kind, near in ((Slope, 0.0), (Louder, 1e-5)):
        task = make(kind, Fbank(cmvn=False))
        with torch.inference_mode():
            expected, lengths = whole(task, waveform)
            outputs, counted = long_outputs(task, waveform, seconds)
        assert outputs.shape == expected.shape == (1, samples) and torch.equal(counted, lengths)
        assert (outputs - expected).abs().max() <= near
        assert task.readable(outputs, counted) == task.readable(expected, lengths)


def test_the_encoder_of_a_waveform_task_hears_windows_with_context():
    task, waveform = make(Louder, WavLMUpstream("tiny")), noise(9.99)
    with torch.inference_mode():
        expected, _ = whole(task, waveform)
        outputs, _ = long_outputs(task, waveform, 4.0)
        one_window, _ = long_outputs(task, waveform, 60.0)
    assert torch.equal(one_window, expected) and outputs.shape == expected.shape
    assert torch.corrcoef(torch.cat([outputs, expected]))[0, 1] > 0.99


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (KeywordSpotting, "label"),
        (PhonemeRecognition, "labels"),
        (SpeechRecognition, "labels"),
        (SpeakerDiarization, "frames"),
        (SpeakerVerification, "vector"),
        (WaveformTask, "waveform"),
    ],
)
def test_every_task_declares_its_answer(kind, answer):
    assert kind.answer == answer
