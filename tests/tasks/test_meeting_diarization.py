"""DIAR: targets, the loss over all orders of speakers, a head that knows the truth, what validation fits, embeddings of a run."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pytest
import soundfile
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from shaped import Shaped
from torch import nn

from wavlm_lightning.cli import main
from wavlm_lightning.data.batch import Targets, Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.metrics import diarization_errors, parse_rttm
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import MeetingDiarization, TaskData
from wavlm_lightning.tasks.speaker.meeting_diarization import PIPELINES, Pipeline, true_people
from wavlm_lightning.tasks.speaker.speaker_segmentation import activity_of
from wavlm_lightning.tasks.speaker.voice_embeddings import clean_seconds, heard_frames
from wavlm_lightning.upstreams import Fbank

SMALL = {"hidden": 8, "layers": 1, "window": 2.0, "step": 0.5}


def built(kind=MeetingDiarization, **settings) -> MeetingDiarization:
    head = kind(settings.pop("upstream", None) or Shaped(1, 4), **{**SMALL, **settings})
    head.build(head.read_labels(None))
    return head.eval()


class Telling(Shaped):
    """An upstream that hears in the level of each frame who speaks: one feature for each of four speakers."""

    def layers(self, waveforms, lengths):
        frames = (lengths - 400) // 320 + 1
        bits = (waveforms[:, 160::320][:, : int(frames.max())] * 16).round().long()
        found = activity_of(torch.cat([bits, torch.full((len(bits), 1), 15)], 1))[:, :-1].float()
        return Layers(found[None], frames, 50.0)


class Knowing(MeetingDiarization):
    """Answers with the truth, its speakers in another order in every window."""

    def outputs(self, features, lengths):
        windows = []
        for window in features:
            order = torch.randperm(4, generator=self.drawn)
            windows.append(self.powerset.classes(window[:, order]))
        return 20.0 * nn.functional.one_hot(torch.stack(windows), len(self.powerset)).float()


def knowing(**settings) -> Knowing:
    head = built(Knowing, upstream=Telling(1, 4), speakers=4, **settings)
    head.drawn = torch.Generator().manual_seed(0)
    return head


def conversation(
    seconds: float, speakers: int, seed: int
) -> tuple[torch.Tensor, list[tuple[str, float, float]], torch.Tensor]:
    """Audio for `Telling`, its turns, and its target: speakers in turn, of whom two sometimes overlap."""
    rng = np.random.default_rng(seed)
    frames, place, turns = int(seconds * 50), 10, []
    bits = torch.zeros(frames, dtype=torch.int64)
    for number in range(1000):
        length = int(rng.integers(40, 100))
        if place + length > frames - 5:
            break
        who = number % speakers
        bits[place : place + length] |= 1 << who
        turns.append((f"s{who}", place / 50, (place + length) / 50))
        place += length + int(rng.integers(-15 if speakers > 1 else 5, 15))
    return (bits / 16).repeat_interleave(320), turns, bits


def test_turns_become_bits():
    head = built()
    # As SD: 0.33 s is frame 16.5, which rounds to the even 16; 0.35 s is 17.5, which rounds to 18.
    turns = [["ben", 0.20, 0.33], ["anna", 0.0, 0.04], ["anna", 0.30, 0.35], ["anna", 0.02, 0.06]]
    target = head.read_target({"turns": turns})
    assert target.dtype == torch.int64
    assert target.tolist() == [1] * 3 + [0] * 7 + [2] * 5 + [3] + [1] * 2
    assert activity_of(target)[15].tolist() == [1, 1]
    assert head.read_target({"turns": []}).shape == (0,)
    assert head.crop_target(torch.arange(200), 3200, 6400).tolist() == list(range(10, 30))
    many = [[f"s{number:02}", number, number + 1] for number in range(62)]
    assert activity_of(head.read_target({"turns": many})).sum(0).tolist() == [50] * 62
    with pytest.raises(UserError, match="more than 62"):
        head.read_target({"turns": [*many, ["t", 0, 1]]})
    with pytest.raises(UserError, match="no turns"):
        head.read_target({})
    with pytest.raises(UserError, match="ends before it begins"):
        head.read_target({"turns": [["a", 2, 1]]})


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_takes_the_order_of_speakers_that_fits_the_best_classes(seed):
    drawn = torch.Generator().manual_seed(seed)
    head = built(speakers=3)
    logits, lengths = 3 * torch.randn(3, 60, 7, generator=drawn), torch.tensor([60, 53, 31])
    bits = torch.randint(0, 8, (3, 50), generator=drawn)  # labels end before the sound does
    alone = []
    for row, length in enumerate(lengths.tolist()):
        truth = activity_of(nn.functional.pad(bits[row], (0, 10)))[:length]
        guess = head.powerset.activity(logits[row, :length])
        tried: dict[int, list[float]] = {}
        for order in map(list, permutations(range(3))):
            classes = head.powerset.classes(truth[:, order])
            entropy = nn.functional.cross_entropy(logits[row, :length], classes)
            tried.setdefault(int((guess != truth[:, order]).sum()), []).append(float(entropy))
        one = slice(row, row + 1)
        alone.append(float(head.loss(logits[one], lengths[one], Targets(bits[one], torch.tensor([50])))))
        # Where orders tie, which one is the solver's choice.
        assert min(abs(alone[-1] - each) for each in tried[min(tried)]) < 1e-5
        assert len(tried[min(tried)]) < 6
    loss = head.loss(logits, lengths, Targets(bits, torch.tensor([50] * 3)))
    frames = lengths.tolist()
    expected = sum(each * length for each, length in zip(alone, frames, strict=True)) / sum(frames)
    assert float(loss) == pytest.approx(expected, rel=1e-5)
    silence = head.loss(logits, lengths, Targets(torch.zeros(3, 0, dtype=torch.int64), torch.tensor([0] * 3)))
    valid = torch.arange(60) < lengths[:, None]
    assert float(silence) == pytest.approx(float(-logits.log_softmax(2)[:, :, 0][valid].mean()), rel=1e-5)


@pytest.mark.parametrize("speakers", [1, 2, 4])
def test_a_head_that_knows_the_truth_makes_no_error(speakers):
    """The windows name speakers anew, and stitching puts every frame in its place; the number of speakers is found."""
    head = knowing()
    head.fitted = {"pipeline": Pipeline(0.5, 1, 0.0, 0.0)._asdict()}
    audio, turns, bits = conversation(23.0, speakers, seed=speakers)
    outputs, lengths = head.heard(Waveforms(audio[None], torch.tensor([len(audio)])), 0.0)
    (row,) = head.readable(outputs, lengths)
    assert len({who for who, *_ in row["turns"]}) == speakers and row["turns"][0][0] == "speaker1"
    assert diarization_errors(turns, row["turns"]).rate < 1e-9
    heard = head.hear(audio, keep_logits=True)
    reference = head.reference_windows(bits, heard.starts, heard.activity.shape[1])
    assert head.window_errors(torch.from_numpy(heard.activity).float(), reference).rate == 0
    people = true_people(heard, bits, speakers)
    assert diarization_errors(turns, head.segments(head.active(heard, people, head.pipeline))).rate < 1e-9


def test_a_known_number_of_speakers_is_kept():
    audio, _, _ = conversation(23.0, 3, seed=0)
    for count, found in ((1, 1), (2, 2), ([1, 2], 2), ([2, 4], 3)):
        head = knowing(count=count)
        head.fitted = {"pipeline": Pipeline(0.5, 1, 0.0, 0.0)._asdict()}
        outputs, lengths = head.heard(Waveforms(audio[None], torch.tensor([len(audio)])), 0.0)
        assert len({who for who, *_ in head.readable(outputs, lengths)[0]["turns"]}) == found
    for wrong in (0, [3, 2], [1]):
        with pytest.raises(UserError, match="count of speakers"):
            knowing(count=wrong)


def test_silence_and_recordings_shorter_than_a_window():
    head = knowing()
    for seconds in (0.5, 1.99, 2.0, 7.3):
        silence = torch.zeros(round(seconds * 16_000))
        outputs, lengths = head.heard(Waveforms(silence[None], torch.tensor([len(silence)])), 0.0)
        assert head.readable(outputs, lengths) == [{"turns": []}]
        assert abs(int(lengths[0]) / 50 - seconds) < 0.05


@pytest.mark.parametrize("before", [True, False])
def test_a_long_silence_before_or_between_turns_changes_nothing(before):
    """Longer than the windows of one forward pass, so that a pass hears nobody."""
    head = knowing()
    head.fitted = {"pipeline": Pipeline(0.5, 1, 0.0, 0.0)._asdict()}
    (first, one, _), (second, other, _) = (conversation(8.0, 2, seed=seed) for seed in (0, 1))
    silence = torch.zeros(15 * 16_000)
    audio = torch.cat([silence, first, second] if before else [first, silence, second])
    turns = [(who, start + 15.0 * before, end + 15.0 * before) for who, start, end in one]
    turns += [(who, start + 23.0, end + 23.0) for who, start, end in other]
    outputs, lengths = head.heard(Waveforms(audio[None], torch.tensor([len(audio)])), 0.0)
    assert diarization_errors(turns, head.readable(outputs, lengths)[0]["turns"]).rate < 1e-9


def test_an_embedding_hears_frames_where_nobody_else_speaks():
    activity = np.zeros((50, 2), dtype=bool)
    activity[10:30, 0], activity[20:40, 1] = True, True
    assert heard_frames(activity, 0, 50.0, 50.0, 49).tolist() == list(range(10, 20))
    assert heard_frames(activity, 1, 50.0, 100.0, 99).tolist() == list(range(60, 80))  # FBANK's frames
    activity[12:20, 1] = True  # two frames alone are too few
    assert heard_frames(activity, 0, 50.0, 50.0, 49).tolist() == list(range(10, 30))
    activity[:, 0] = np.arange(50) == 49  # beyond the last frame of an upstream with fewer
    assert heard_frames(activity, 0, 50.0, 25.0, 24).tolist() == [23]
    assert clean_seconds(activity[None], 320)[0].tolist() == pytest.approx([0.02, 0.56])


def test_what_cannot_be_is_refused():
    with pytest.raises(UserError, match="no task of SUPERB"):
        built(protocol="superb")
    with pytest.raises(UserError, match=r"model\.step 3 must"):
        built(step=3.0)
    with pytest.raises(UserError, match=r"windows of 2 s must overlap"):
        built(step=2.0)
    with pytest.raises(UserError, match="names 'turns'"):
        built(oracles=["turns"])
    with pytest.raises(UserError, match=r"data\.cache: null"):
        built().heard(Layers(torch.zeros(1, 1, 5, 4), torch.tensor([5]), 50.0), 0.0)
    with pytest.raises(UserError, match="no such file"):
        built(embeddings="nowhere").hear(torch.zeros(32_000))


def test_validation_fits_the_pipeline_and_the_checkpoint_keeps_it(tiny, tmp_path):
    data = TaskData(str(tiny / "sd"), batch_size=2, max_seconds=2.0)
    head = MeetingDiarization(Fbank(), 1e-2, oracles=["segmentation", "clustering", "count"], **SMALL)
    trainer = quiet_trainer(max_steps=4, callbacks=[ModelCheckpoint(tmp_path)])
    trainer.fit(head, data)
    assert Pipeline(**head.fitted["pipeline"]) in PIPELINES
    fitted = float(trainer.callback_metrics["valid/der"])
    again = MeetingDiarization(Fbank(), **SMALL)
    path = next(tmp_path.glob("*.ckpt"))
    (values,) = quiet_trainer().validate(again, data, ckpt_path=str(path), verbose=False)
    assert values["valid/der"] == pytest.approx(fitted)
    (tested,) = trainer.test(head, data, verbose=False)
    assert head.pipeline == Pipeline(**head.fitted["pipeline"]) and head.details["pipeline_chosen_on"] == "valid"
    assert set(tested) >= {"test/der", "test/jer", "test/window_der", "test/der_oracle_count"}
    assert head.utterance_results is not None and head.scored.missing == ""
    parts = sum(head.details[part] for part in ("missed", "false_alarm", "confusion"))
    assert parts == pytest.approx(tested["test/der"], abs=1e-5)


@pytest.mark.slow
def test_from_two_runs_to_rttm_and_its_score(tiny, tmp_path, capsys):
    """A verification run, a diarization run that names it, a test with oracles, RTTM of recordings, and its score."""
    cpu = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "4", "--trainer.val_check_interval", "2"]
    fbank = ["--model.upstream", "wavlm_lightning.upstreams.Fbank"]

    def fit(config, corpus, run, *more):
        where = ["--data.corpus", str(tiny / corpus), "--trainer.default_root_dir", str(tmp_path / run)]
        return main(["fit", "-c", f"configs/{config}.yaml", *fbank, *where, *cpu, *more])

    assert fit("superb/mini/sv", "sv", "sv", "--data.cache", "null", "--data.batch_size", "4") == 0
    sv = ["--model.embeddings", str(tmp_path / "sv")]
    assert (
        fit("fullstack/mini/diarization", "sd", "diar", *sv, "--data.batch_size", "1", "--data.max_seconds", "2") == 0
    )
    assert fit("fullstack/mini/diarization", "sd", "louder", *sv, "--data.gain_db", "3") == 2
    assert "set data.gain_db: 0" in capsys.readouterr().err
    assert main(["test", str(tmp_path / "diar")]) == 0
    card = json.loads((tmp_path / "diar" / "card.json").read_text())
    assert len(card["fitted"]["embeddings"]) == 16 and "der_oracle_count" in card["metrics"]
    (shard,) = Corpus.open(tiny / "sd").split("test").shards
    soundfile.write(tmp_path / "talk.wav", shard.waveform(0), 16_000)
    capsys.readouterr()
    out = tmp_path / "out"
    assert (
        main(["predict", str(tmp_path / "diar"), str(tmp_path / "talk.wav"), "--out", str(out), "--speakers", "2"]) == 0
    )
    lines = (out / "predictions.rttm").read_text().splitlines()
    assert len({speaker for speaker, *_ in parse_rttm(lines)["talk"]}) <= 2
    assert main(["score", "sd", str(out / "predictions.rttm"), str(out / "predictions.rttm")]) == 0
    assert "DER 0.00 %" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "sv"), str(tmp_path / "talk.wav"), "--speakers", "2"]) == 2
    assert "counts no speakers" in capsys.readouterr().err
