"""Tasks that answer with audio: from the data module to card, examples, predictions and graph."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from safetensors.torch import load_file
from torch import Tensor, nn

from wavlm_lightning.audio import decode_flac
from wavlm_lightning.augment.transforms import WaveformTransform
from wavlm_lightning.callbacks.examples import KeepExamples
from wavlm_lightning.callbacks.results import WritePredictions, WriteResultCard
from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.encoder import Layers
from wavlm_lightning.metrics.enhancement import si_sdr
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.examples import MOST, SECONDS, read_examples
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, TaskData, WaveformTask
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.upstreams import Fbank


@dataclass(kw_only=True)
class Hum(WaveformTransform):
    """Adds a sine of 50 Hz, which a test can take off again."""

    def change(self, waveform, draw):
        return waveform + hum(len(waveform))


def hum(samples: int) -> np.ndarray:
    return 0.05 * np.sin(2 * np.pi * 50 / 16_000 * np.arange(samples)).astype(np.float32)


class Unhum(WaveformTask):
    """Takes `share` of the sine off."""

    name = "HUM"

    def build_head(self, dim: int) -> None:
        self.share = nn.Parameter(torch.tensor(0.5))

    def enhance(self, features: Tensor, lengths: Tensor, audio: Waveforms) -> Tensor:
        return audio.audio - self.share * torch.from_numpy(hum(audio.audio.shape[1]))


def batch_of(lengths: list[int]) -> tuple[TaskBatch, Tensor]:
    """Noisy input, and clean targets, padded with what must not be heard."""
    generator = torch.Generator().manual_seed(1)
    clean = torch.randn(len(lengths), max(lengths), generator=generator)
    noisy = clean + 0.3 * torch.randn(clean.shape, generator=generator)
    counts = torch.tensor(lengths)
    keys = tuple(map(str, lengths))
    return TaskBatch(keys, Waveforms(noisy, counts), Targets(clean, counts)), clean


def unhum(**settings) -> Unhum:
    task = Unhum(Fbank(cmvn=False), **settings)
    task.build(["clean"])
    return task.eval()


@torch.no_grad()
def test_padding_changes_neither_loss_nor_score():
    task, (batch, clean) = unhum(), batch_of([8000, 6000])
    outputs, lengths = task(batch.inputs)
    assert lengths.tolist() == [8000, 6000] and not outputs[1, 6000:].any()
    metric, alone, losses = task.build_metric(), task.build_metric(), []
    task.update_metric(metric, outputs, lengths, batch)
    for row, samples in enumerate((8000, 6000)):
        cut = slice(row, row + 1), slice(samples)
        one = TaskBatch(
            ("k",),
            Waveforms(batch.inputs.audio[cut], torch.tensor([samples])),
            Targets(clean[cut], torch.tensor([samples])),
        )
        answer = task(one.inputs)
        assert torch.equal(answer[0][0], outputs[cut][0])
        task.update_metric(alone, *answer, one)
        losses.append(task.loss(*answer, one.targets))
    assert task.loss(outputs, lengths, batch.targets) == pytest.approx(float(sum(losses)) / 2, abs=1e-5)
    for name, value in metric.compute().items():
        assert value == pytest.approx(float(alone.compute()[name]), abs=1e-4), name


@torch.no_grad()
def test_the_loss_fixes_the_level():
    """SI-SDR is blind to it; a perfect answer is limited to 30 dB, and silence instead of speech costs 0 dB."""
    task, (batch, clean) = unhum(), batch_of([8000, 8000])
    lengths = batch.inputs.lengths
    loss = {factor: float(task.loss(factor * clean, lengths, batch.targets)) for factor in (0.0, 0.5, 1.0, 2.0)}
    assert loss[1.0] == pytest.approx(-30, abs=1e-3) and loss[0.0] == pytest.approx(0, abs=0.01)
    assert loss[0.5] == pytest.approx(-6.0, abs=0.1) and loss[2.0] == pytest.approx(0, abs=0.01)


@pytest.fixture(scope="module")
def tested(tiny, tmp_path_factory):
    """A run folder after a test and a prediction, and its task."""
    folder, task = tmp_path_factory.mktemp("hum"), Unhum(Fbank(cmvn=False))
    data = {"eval_batch_seconds": 20.0, "eval_transforms": [Hum()]}
    trainer = quiet_trainer(callbacks=[WriteResultCard(folder, "wavlm test"), KeepExamples(folder)])
    trainer.test(task, TaskData(str(tiny / "ks"), **data), verbose=False)
    trainer = quiet_trainer(callbacks=[WritePredictions(folder)])
    trainer.predict(task, TaskData(str(tiny / "ks"), **data), return_predictions=False)
    return folder, task


def test_the_card_has_the_improvement_and_the_unprocessed_row(tested):
    card = ResultCard.read(tested[0])
    assert set(card.metrics) == {"si_sdr", "si_sdri"} and card.headline == "si_sdr"
    assert card.metrics["si_sdr"] | {"value": 0} == {
        "value": 0,
        "unit": "dB",
        "better": "higher",
        "scale": 1,
        "decimals": 2,
    }
    # Half of the sine is left: 6 dB, but for what of it looks like speech.
    assert card.metrics["si_sdri"]["value"] == pytest.approx(6.02, abs=0.1)
    unprocessed = card.details["unprocessed"]["si_sdr"]
    assert card.value - unprocessed == pytest.approx(card.metrics["si_sdri"]["value"], abs=1e-3)


def test_examples_are_what_was_heard(tested, tiny):
    folder, _ = tested
    found = read_examples(folder)
    assert len(found) == MOST == len({each.key for each in found})
    for each in found:
        heard, answer, reference = (
            torch.from_numpy(decode_flac(each.sounds[n])) for n in ("input", "answer", "reference")
        )
        assert len(heard) == len(answer) == len(reference) <= SECONDS * 16_000
        added = torch.from_numpy(hum(len(heard)))
        assert (heard - added - reference).abs().max() < 4 / 32768
        assert (answer - 0.5 * added - reference).abs().max() < 4 / 32768
        assert each.figures["answer"].startswith("SI-SDR ") and "dB, SI-SDRi" in each.figures["answer"]
        assert float(each.figures["input"].split()[1]) == pytest.approx(float(si_sdr(heard, reference)), abs=0.05)


def test_predictions_are_waveforms_without_padding(tested):
    folder, _ = tested
    rows = load_file(folder / "predictions.safetensors")
    for each in read_examples(folder):
        answer = decode_flac(each.sounds["answer"])
        assert rows[each.key].shape == answer.shape and np.abs(rows[each.key].numpy() - answer).max() < 2 / 32768


def test_nothing_is_kept_of_other_tasks(tiny, tmp_path):
    task = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-3)
    quiet_trainer(callbacks=[KeepExamples(tmp_path)]).test(task, TaskData(str(tiny / "ks")), verbose=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_it_trains(tiny):
    task = Unhum(Fbank(cmvn=False), learning_rate=0.02)
    data = TaskData(str(tiny / "ks"), transforms=[Hum()], eval_transforms=[Hum()])
    quiet_trainer(max_steps=60, limit_val_batches=1).fit(task, data)
    assert float(task.share) == pytest.approx(1.0, abs=0.05)


def test_what_cannot_be_done_is_one_sentence(tiny, tmp_path):
    class Short(Unhum):
        def enhance(self, features, lengths, audio):
            return audio.audio[:, :-1]

    task = Short(Fbank(cmvn=False))
    task.build(["clean"])
    batch, _ = batch_of([8000])
    with pytest.raises(UserError, match=r"HUM: `enhance` gives \(1, 7999\) instead of \(1, 8000\)"):
        task(batch.inputs)
    task = unhum()
    with pytest.raises(UserError, match=r"HUM: hears the audio itself.*data.cache: null"):
        task(Layers(torch.zeros(1, 1, 50, 80), torch.tensor([50]), 100.0))
    with pytest.raises(UserError, match="HUM: cannot answer from features alone"):
        task.outputs(torch.zeros(1, 50, 80), torch.tensor([50]))
    with pytest.raises(UserError, match=r"HUM: .* run it alone"):
        upstream = Fbank(cmvn=False)
        ManyHeads({"a": Unhum(upstream), "b": Unhum(upstream)})
    data = TaskData(str(tiny / "ks"), cache=str(tmp_path), transforms=[], eval_transforms=[])
    with pytest.raises(UserError, match="HUM"):
        quiet_trainer(max_steps=1).fit(Unhum(Fbank(cmvn=False)), data)


def test_a_row_says_length_and_level():
    outputs = torch.full((2, 16_000), 0.1)
    rows = unhum().readable(outputs, torch.tensor([16_000, 8_000]))
    assert rows == [{"seconds": 1.0, "level_db": -20.0}, {"seconds": 0.5, "level_db": -20.0}]
    assert json.dumps(rows)
