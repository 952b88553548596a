"""Targets that are numbers or audio, further inputs, and waveform transforms whose draws no process and no break changes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from torch import nn
from torchmetrics import MeanMetric

from wavlm_lightning.augment.transforms import (
    AddNoise,
    ChangeSpeed,
    MixUtterances,
    OneOf,
    RandomCrop,
    WaveformTransform,
)
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    KeywordSpotting,
    SpeakerDiarization,
    SpeakerIdentification,
    SpeechRecognition,
    Task,
    TaskData,
)
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.upstreams import Fbank

RATE = 100.0  # frames a second of `Fbank`


class Plain(Task):
    """All that a task must have; what it reads is up to the subclass."""

    name, metric, better = "PLAIN", "mean", "lower"

    def read_labels(self, corpus):
        return []

    def read_target(self, meta):
        return torch.tensor(meta["values"])

    def build_head(self, dim):
        self.linear = nn.Linear(dim, 1)

    def outputs(self, features, lengths):
        return self.linear(features)[:, :, 0]

    def loss(self, outputs, lengths, targets):
        return (outputs.mean() - targets.values.float().mean()).square()

    def build_metric(self):
        return MeanMetric()

    def update_metric(self, metric, outputs, lengths, batch):
        metric.update(outputs)

    def readable(self, outputs, lengths):
        return [{}] * len(outputs)


class Pitch(Plain):
    """A number for each frame."""

    name, answer = "PITCH", "frames"

    def read_target(self, meta):
        return torch.tensor(meta["pitch"])

    def crop_target(self, target, start, samples):
        first = round(start / 160)
        return target[first : first + round(samples / 160)]


class Denoiser(Plain):
    name, answer = "DENOISE", "waveform"
    target_audio: ClassVar = ("clean",)


class Separation(Plain):
    name = "SEP"
    target_audio: ClassVar = ("clean", "other")


class Extraction(Denoiser):
    name = "EXTRACT"
    extra_audio: ClassVar = ("enrolment",)


class Reference(Plain):
    """Its corpus has no such audio."""

    name = "REF"
    target_audio: ClassVar = ("dry",)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    """20 utterances of half to one second a split; sample and target values tell which they are."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("further")
    writer = CorpusWriter(folder, "further", "CC0", {}, shard_seconds=5.0)
    for split, count in (("train", 20), ("valid", 6), ("test", 6)):
        utterances = []
        for number in range(count):
            samples = 8000 + 400 * number
            clean, other = rng.uniform(-0.3, 0.3, (2, samples)).astype("f4")
            meta = {
                "speaker": f"s{number % 3}",
                "keyword": ("no", "yes")[number % 2],
                "values": [number + 0.5] * (1 + number % 4),
                "pitch": [frame + number / 100 for frame in range(samples // 160)],
            }
            if number % 4 == 0:
                meta["room"] = "large"
            audio = {"clean": clean, "other": other, "enrolment": rng.uniform(-1, 1, 3000 + number).astype("f4")}
            utterances.append(Utterance(f"{split}{number:02d}", clean + other, meta, audio=audio))
        writer.write_split(split, utterances)
    writer.finish({"speakers": ["s0", "s1", "s2"], "keywords": ["no", "yes"]})
    return folder


def opened(task, corpus: Path, stage: str = "fit", rank: int = 0, world: int = 1, **settings) -> TaskData:
    """The data of a task as a trainer sets them up, without one."""
    data = TaskData(str(corpus), **{"batch_size": 4, **settings})
    data.trainer = SimpleNamespace(
        lightning_module=task, datamodule=data, global_rank=rank, world_size=world, accumulate_grad_batches=1
    )
    data.setup(stage)
    task.build(task.read_labels(task.data.corpus))
    return data


def rows(loader, epoch: int = 0) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Key -> waveform, target and key number of the batches of an epoch, without padding."""
    loader.sampler.set_epoch(epoch)
    found = {}
    for batch in loader:
        for row, key in enumerate(batch.keys):
            audio = batch.inputs.audio[row, : batch.inputs.lengths[row]]
            target = batch.targets.values[row]
            found[key] = audio, target[: batch.targets.lengths[row]] if target.ndim else target
    return found


def equal(first, second) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(a, b) for key in first for a, b in zip(first[key], second[key], strict=True)
    )


def stored(corpus: Path, key: str, member: str | None = None) -> np.ndarray:
    split = Corpus.open(corpus).split(key.rstrip("0123456789"))
    shard, place = split.locate(split.keys.index(key))
    return shard.waveform(place, member=member)


# Targets and inputs.


def test_without_transforms_nothing_is_drawn_but_the_crop(corpus):
    data = opened(KeywordSpotting(Fbank(cmvn=False)), corpus, max_seconds=0.6, gain_db=-3.0)
    split = Corpus.open(corpus).split("train")
    for epoch in (0, 1):
        for key, (audio, _) in rows(data.train_dataloader(), epoch).items():
            number = split.keys.index(key)
            shard, place = split.locate(number)
            start, samples = 0, -1
            if split.samples[number] > 9600:
                rng = np.random.default_rng([1337, epoch, number])
                start, samples = int(rng.integers(split.samples[number] - 9600 + 1)), 9600
            wanted = shard.waveform(place, start, samples) * np.float32(10 ** (-3 / 20))
            assert np.array_equal(audio.numpy(), wanted)
    assert "transforms" not in data.layout()


def test_sequences_of_floats_keep_their_values(corpus):
    for key, (_, target) in rows(opened(Plain(Fbank(cmvn=False), 1e-3), corpus).train_dataloader()).items():
        number = int(key[-2:])
        assert target.dtype == torch.float32 and target.tolist() == [number + 0.5] * (1 + number % 4)


def test_frames_of_floats_are_cropped_with_the_audio(corpus):
    data = opened(Pitch(Fbank(cmvn=False), 1e-3), corpus, max_seconds=0.55)
    cropped = 0
    for key, (audio, target) in rows(data.train_dataloader()).items():
        number, first = int(key[-2:]), target[0].item()
        start = round(first - number / 100)
        whole = stored(corpus, key)
        wanted = torch.arange(start, start + len(target)) + number / 100
        torch.testing.assert_close(target, wanted.float(), atol=1e-5, rtol=0)
        if len(audio) < len(whole):
            cropped += 1
            assert len(audio) == 8800 and len(target) == 55
            begin = np.flatnonzero(
                np.convolve(whole, audio.numpy()[::-1], "valid") > 0.999 * float(audio.square().sum())
            )
            assert abs(begin[0] / 160 - start) <= 0.5
    assert cropped > 10


@pytest.mark.parametrize("gain_db", [0.0, -6.0])
def test_a_waveform_target_is_cropped_sample_by_sample(corpus, gain_db):
    factor = np.float32(10 ** (gain_db / 20))
    data = opened(Denoiser(Fbank(cmvn=False), 1e-3), corpus, max_seconds=0.55, gain_db=gain_db)
    starts = set()
    for key, (audio, target) in rows(data.train_dataloader()).items():
        noisy, clean = stored(corpus, key) * factor, stored(corpus, key, "clean") * factor
        start = next(n for n in range(len(noisy)) if np.array_equal(noisy[n : n + len(audio)], audio.numpy()))
        assert target.dtype == torch.float32 and target.shape == audio.shape
        assert np.array_equal(clean[start : start + len(audio)], target.numpy())
        starts.add(start)
    assert len(starts) > 10
    for key, (audio, target) in rows(data.val_dataloader()).items():  # whole utterances
        assert np.array_equal(target.numpy(), stored(corpus, key, "clean") * factor) and audio.shape == target.shape


def test_several_waveform_targets_and_further_audio(corpus):
    data = opened(Separation(Fbank(cmvn=False), 1e-3), corpus)
    for key, (audio, target) in rows(data.train_dataloader()).items():
        assert target.shape == (len(audio), 2)
        for column, member in enumerate(("clean", "other")):
            assert np.array_equal(target[:, column].numpy(), stored(corpus, key, member))
    extraction = opened(Extraction(Fbank(cmvn=False), 1e-3), corpus, max_seconds=0.5)
    for batch in extraction.train_dataloader():
        enrolment = batch.to("cpu").extra["enrolment"]
        assert batch.of("EXTRACT").extra.keys() == {"enrolment"}
        for row, key in enumerate(batch.keys):
            wanted = stored(corpus, key, "enrolment")
            assert np.array_equal(enrolment.audio[row, : enrolment.lengths[row]].numpy(), wanted)


def test_waveform_targets_beside_a_cache_and_other_tasks(corpus, tmp_path):
    class Cached(Denoiser):
        name, cache_level = "CACHED", "frame"

    class Values(Plain):
        name, cache_level = "VALUES", "frame"

    upstream = Fbank(cmvn=False)
    heads = ManyHeads({"a": Values(upstream, 1e-3), "b": Cached(upstream, 1e-3)})
    data = TaskData(str(corpus), batch_size=4, max_seconds=0.7, cache=str(tmp_path))
    quiet_trainer(max_steps=2, limit_val_batches=1).fit(heads, data)
    kinds = set()
    for batch in data.train_dataloader():
        kinds.add(type(batch.inputs).__name__)
        for row, key in enumerate(batch.keys):
            number = int(key[-2:])
            assert batch.targets.values[row, 0] == number + 0.5
            target = batch.of("CACHED").targets
            assert target.lengths[row] == min(11200, 8000 + 400 * number)
            if target.lengths[row] < 11200:
                found = target.values[row, : target.lengths[row]].numpy()
                assert np.array_equal(found, stored(corpus, key, "clean"))
    assert kinds >= {"Layers", "PartlyCached"} or kinds >= {"Layers", "Waveforms"}


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        (Reference, {}, r"REF: the utterances of split train have no audio 'dry'; .* or set data.transforms, whose"),
        (Reference, {"transforms": [AddNoise()]}, r"split valid have no audio 'dry'; .* set data.eval_transforms"),
        (Separation, {}, None),
        (type("Three", (Separation,), {"target_audio": ("clean", "third")}), {}, "no audio 'third'"),
        (type("Needy", (Plain,), {"extra_audio": ("face",)}), {}, "no audio 'face'"),
        (type("Long", (Plain,), {"target_audio": ("enrolment",)}), {}, "a target must be as long as its utterance"),
    ],
)
def test_audio_that_a_corpus_lacks_is_one_sentence(corpus, task, settings, said):
    if said is None:
        opened(task(Fbank(cmvn=False), 1e-3), corpus, **settings)
    else:
        with pytest.raises(UserError, match=said):
            opened(task(Fbank(cmvn=False), 1e-3), corpus, **settings)


# Transforms.


NOISY = [MixUtterances(probability=0.7), AddNoise(snr_db=(0.0, 10.0))]


def test_noise_differs_between_epochs_and_not_between_workers_and_ranks(corpus):
    task = KeywordSpotting(Fbank(cmvn=False))
    data = opened(task, corpus, transforms=NOISY, max_seconds=0.7)
    first, again, later = (rows(data.train_dataloader(), epoch) for epoch in (0, 0, 1))
    assert equal(first, again) and not any(torch.equal(first[key][0], later[key][0]) for key in first)
    assert equal(first, rows(opened(task, corpus, transforms=NOISY, max_seconds=0.7, num_workers=2).train_dataloader()))
    shares = [
        rows(
            opened(task, corpus, transforms=NOISY, max_seconds=0.7, rank=rank, world=2, batch_size=2).train_dataloader()
        )
        for rank in range(2)
    ]
    assert not shares[0].keys() & shares[1].keys() and len(shares[0]) == len(shares[1]) == 10
    assert equal({**shares[0], **shares[1]}, first)
    other = rows(opened(task, corpus, transforms=NOISY, max_seconds=0.7, seed=1).train_dataloader())
    assert not any(torch.equal(first[key][0], other[key][0]) for key in first)


def test_a_transform_that_is_appended_moves_no_draw_of_the_others(corpus):
    class Halve(AddNoise):
        def change(self, waveform, draw):
            draw.rng.random(100)
            return waveform / 2

    task = KeywordSpotting(Fbank(cmvn=False))
    one, two = (
        rows(opened(task, corpus, transforms=transforms).train_dataloader())
        for transforms in ([AddNoise()], [AddNoise(), Halve()])
    )
    assert all(torch.equal(one[key][0] / 2, two[key][0]) for key in one)


def test_evaluation_hears_the_same_every_time(corpus):
    task, settings = KeywordSpotting(Fbank(cmvn=False), protocol="fixed"), {"eval_transforms": NOISY}
    first = opened(task, corpus, **settings)
    one = rows(first.val_dataloader())
    assert not any(np.array_equal(audio.numpy(), stored(corpus, key)) for key, (audio, _) in one.items())
    assert equal(one, rows(first.val_dataloader(), 3))
    assert equal(
        one, rows(opened(task, corpus, seed=5, num_workers=1, eval_batch_seconds=1.0, **settings).val_dataloader())
    )
    # Noise alone does not depend on which other utterances there are.
    alone = {"eval_transforms": [AddNoise()], "valid_split": "valid+test"}
    whole = rows(opened(task, corpus, **alone).val_dataloader())
    part = rows(opened(task, corpus, **{**alone, "valid_split": "test"}).val_dataloader())
    assert len(whole) == 12 and equal({key: whole[key] for key in part}, part)
    clean = rows(first.train_dataloader())
    assert all(np.array_equal(audio.numpy(), stored(corpus, key)) for key, (audio, _) in clean.items())


def test_a_run_resumed_in_the_middle_draws_the_same_noise(corpus, tmp_path):
    def fit(steps: int, ckpt_path=None, transforms=NOISY):
        task = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-2)
        data = TaskData(str(corpus), batch_size=4, transforms=transforms)
        saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=7, save_top_k=-1)
        trainer = quiet_trainer(max_steps=steps, limit_val_batches=0, callbacks=[saver])
        heard = []
        step = task.training_step
        task.training_step = lambda batch, batch_idx: (heard.append(batch.inputs.audio), step(batch, batch_idx))[1]
        trainer.fit(task, data, ckpt_path=ckpt_path, weights_only=True)
        return heard, task

    whole, task = fit(12)  # five batches an epoch
    rest, resumed = fit(12, tmp_path / "step=7.ckpt")
    assert len(rest) == 5 and all(torch.equal(a, b) for a, b in zip(whole[7:], rest, strict=True))
    assert torch.equal(task.classifier.weight, resumed.classifier.weight)
    for others in (None, [AddNoise()], [NOISY[0], AddNoise(snr_db=(0.0, 11.0))]):
        with pytest.raises(UserError, match="resume: transforms of this run is"):
            fit(12, tmp_path / "step=7.ckpt", others)


def test_the_waveform_before_the_transforms_is_the_reference(corpus):
    transforms = [ChangeSpeed(speeds=[0.8, 1.25]), RandomCrop(seconds=0.4), AddNoise(snr_db=(0.0, 0.0))]
    settings = {"eval_transforms": [AddNoise(snr_db=(0.0, 0.0))]}
    data = opened(Reference(Fbank(cmvn=False), 1e-3), corpus, transforms=transforms, max_seconds=0.6, **settings)
    for audio, target in rows(data.train_dataloader()).values():
        noise = audio - target
        assert len(audio) == 6400
        # At 0 dB; a reference of another stretch or speed would make "noise" of the sum of three powers.
        assert noise.square().mean().item() == pytest.approx(target.square().mean().item(), rel=1e-3)
    for key, (_, target) in rows(data.val_dataloader()).items():
        assert np.array_equal(target.numpy(), stored(corpus, key))


def test_a_reference_of_the_corpus_changes_length_with_its_utterance(corpus):
    transforms = [ChangeSpeed(speeds=[0.9, 1.1]), RandomCrop(seconds=0.45)]
    data = opened(Separation(Fbank(cmvn=False), 1e-3), corpus, transforms=transforms)
    for audio, target in rows(data.train_dataloader()).values():
        assert target.shape == (len(audio), 2) and len(audio) == 7200
        # Both sources went through the same changes, so they still add up to the mixture.
        torch.testing.assert_close(target.sum(1), audio, atol=2e-3, rtol=0)


def test_other_speeds_are_new_speakers(corpus):
    transforms = [ChangeSpeed(speeds=[0.9, 1.0, 1.1], new_speakers=True)]
    task = SpeakerIdentification(Fbank(cmvn=False), learning_rate=1e-3)
    data = TaskData(str(corpus), batch_size=4, transforms=transforms)
    quiet_trainer(max_steps=2, limit_val_batches=1).fit(task, data)
    assert task.labels == ["s0", "s1", "s2", *(f"sp{speed}-s{n}" for speed in (0.9, 1.1) for n in range(3))]
    heard = set()
    for epoch in range(4):
        for key, (audio, target) in rows(data.train_dataloader(), epoch).items():
            speaker, ratio = f"s{int(key[-2:]) % 3}", len(audio) / len(stored(corpus, key))
            speed = min((0.9, 1.0, 1.1), key=lambda each: abs(1 / each - ratio))
            wanted = speaker if speed == 1 else f"sp{speed}-{speaker}"
            assert task.labels[int(target)] == wanted
            heard.add(wanted)
    assert len(heard) == 9
    for key, (_, target) in rows(data.val_dataloader()).items():
        assert task.labels[int(target)] == f"s{int(key[-2:]) % 3}"


def test_batches_of_seconds_hold_when_utterances_become_longer(corpus):
    task = SpeakerIdentification(Fbank(cmvn=False))
    transforms = [ChangeSpeed(speeds=[0.5])]
    data = opened(task, corpus, batch_size=None, batch_seconds=4.0, transforms=transforms, eval_transforms=transforms)
    sizes = [batch.inputs.audio.numel() / 16000 for batch in data.train_dataloader()]
    assert max(sizes) <= 4.0 and len(sizes) > len(
        list(opened(task, corpus, batch_size=None, batch_seconds=4.0).train_dataloader())
    )
    with pytest.raises(UserError, match=r"an utterance of 1\.9 s does not fit batch_seconds=1\.5"):
        opened(task, corpus, batch_size=None, batch_seconds=1.5, transforms=transforms).train_dataloader()
    held = opened(task, corpus, eval_batch_seconds=1.0, eval_transforms=transforms)
    assert max(batch.inputs.audio.numel() for batch in held.val_dataloader()) <= 2 * 10000


def test_noise_of_a_corpus_is_opened_and_part_of_the_layout(corpus, tmp_path):
    writer = CorpusWriter(tmp_path / "noise", "noise", "CC0", {})
    writer.write_split("train", [Utterance("n", np.full(40000, 0.25, "f4"), {})])
    writer.finish({})
    noise = [AddNoise(corpus=str(tmp_path / "noise"), snr_db=(0.0, 0.0))]
    data = opened(Reference(Fbank(cmvn=False), 1e-3), corpus, transforms=noise, eval_transforms=noise)
    for audio, target in rows(data.train_dataloader()).values():
        added = audio - target
        assert added.std() < 1e-4 and added.mean() > 0.1  # the recording is a constant
    assert Corpus.open(tmp_path / "noise").sha256 in data.layout()["transforms"]
    with pytest.raises(UserError, match=r"no corpus\.json here"):
        opened(Plain(Fbank(cmvn=False), 1e-3), corpus, transforms=[AddNoise(corpus=str(tmp_path / "none"))])


@dataclass(kw_only=True)
class Longer(WaveformTransform):
    """Says that it doubles at most, and triples."""

    keeps_length: ClassVar[bool] = False

    def change(self, waveform, draw):
        return np.tile(waveform, 3)

    def longest(self, samples):
        return 2 * samples


@dataclass(kw_only=True)
class Doubles(WaveformTransform):
    """Forgets float32."""

    def change(self, waveform, draw):
        return waveform.astype(np.float64)


SPEED = ChangeSpeed(speeds=[0.9])


@pytest.mark.parametrize(
    ("task", "settings", "said"),
    [
        (
            KeywordSpotting,
            {"cache": "c", "transforms": NOISY},
            r"data\.transforms: a cache holds .* of train .* data\.cache",
        ),
        (
            KeywordSpotting,
            {"cache": "c", "eval_transforms": NOISY},
            r"data\.eval_transforms: a cache holds .* of valid",
        ),
        (Pitch, {"transforms": [SPEED]}, r"data\.transforms: ChangeSpeed changes the length .* targets of PITCH"),
        (Pitch, {"transforms": [OneOf(transforms=[AddNoise(), SPEED])]}, "OneOf changes the length"),
        (Pitch, {"eval_transforms": [RandomCrop(seconds=1)]}, r"data\.eval_transforms: RandomCrop changes the length"),
        (
            SpeechRecognition,
            {"transforms": [RandomCrop(seconds=1)]},
            "RandomCrop cuts a waveform, and the targets of ASR",
        ),
        (
            SpeechRecognition,
            {"max_seconds": 0.7},
            r"data\.max_seconds 0\.7: crops 11 of 20 utterances of split train, and the targets of ASR .*batch_seconds",
        ),
        (
            KeywordSpotting,
            {"balance": "sex"},
            r"data\.balance sex: no utterance of split train has this field; they have keyword, ",
        ),
        (
            KeywordSpotting,
            {"balance": "room"},
            r"data\.balance room: 15 of 20 utterances of split train have no such field, the first of them 'train01'",
        ),
        (SpeechRecognition, {"max_frames": 90}, r"data\.max_frames 90: crops 3 of 20 utterances"),
        (SpeakerDiarization, {"transforms": NOISY}, "MixUtterances adds talkers .* targets of SD are all who speak"),
        (
            SpeakerDiarization,
            {"eval_transforms": [OneOf(transforms=NOISY)]},
            r"data\.eval_transforms: OneOf adds talkers",
        ),
        (
            Denoiser,
            {"transforms": [OneOf(transforms=[AddNoise(), SPEED])]},
            "OneOf holds transforms that .* list those",
        ),
    ],
)
def test_what_would_be_silently_wrong_is_refused_by_name(corpus, tmp_path, task, settings, said):
    settings = {name: str(tmp_path) if name == "cache" else value for name, value in settings.items()}
    with pytest.raises(UserError, match=said):
        opened(task(Fbank(cmvn=False), learning_rate=1e-3), corpus, **settings)


@pytest.mark.parametrize(("transform", "said"), [(Longer(), "1 to 16000 of them"), (Doubles(), "float32 .* float64")])
def test_a_transform_that_breaks_its_word_is_named(corpus, transform, said):
    data = opened(Plain(Fbank(cmvn=False), 1e-3), corpus, batch_size=1, transforms=[transform])
    with pytest.raises(UserError, match=rf"data\.transforms: {type(transform).__name__} must return .*{said}"):
        data.train_dataloader().dataset[[(0, 0)]]


def test_a_cache_of_what_is_not_transformed_stays_allowed(corpus, tmp_path):
    task = KeywordSpotting(Fbank(cmvn=False), learning_rate=1e-3)
    data = TaskData(str(corpus), batch_size=4, cache=str(tmp_path), transforms=NOISY)
    with pytest.raises(UserError, match="a cache holds"):
        quiet_trainer(max_steps=1).fit(task, data)
    quiet_trainer().test(task, data, verbose=False)  # test hears the corpus as it is


def test_mixing_needs_a_second_utterance(corpus):
    data = opened(KeywordSpotting(Fbank(cmvn=False)), corpus, min_seconds=0.97, transforms=[MixUtterances()])
    with pytest.raises(UserError, match=r"data\.transforms: split train has no second utterance"):
        data.train_dataloader().dataset[[(0, 0)]]


def test_train_on_so_much_audio(tiny):
    """Whole utterances, drawn once: less is within more; validation stays, and too much is refused."""
    whole = opened(KeywordSpotting(Fbank(cmvn=False)), tiny / "ks").opened
    half, third = (
        opened(KeywordSpotting(Fbank(cmvn=False)), tiny / "ks", train_seconds=share * whole["train"].seconds).opened
        for share in (1 / 2, 1 / 3)
    )
    assert set(third["train"].keys) < set(half["train"].keys) < set(whole["train"].keys)
    longest = whole["train"].samples.max() / 16_000
    assert 0 <= whole["train"].seconds / 2 - half["train"].samples.sum() / 16_000 < longest
    assert half["valid"].keys == whole["valid"].keys
    with pytest.raises(UserError, match=r"data\.train_seconds 1000000: the training split has \d+ s; set less"):
        opened(KeywordSpotting(Fbank(cmvn=False)), tiny / "ks", train_seconds=1_000_000)
