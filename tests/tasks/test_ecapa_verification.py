"""SV-ECAPA: its scores against a computation of their own, what the checkpoint keeps, further lists, what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from quiet import quiet_trainer
from ranks import together
from shaped import Shaped

from wavlm_lightning.augment.transforms import AddNoise, ChangeSpeed
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.metrics.calibration import cohort_statistics
from wavlm_lightning.metrics.verification import equal_error_rate, minimum_detection_cost
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import EcapaVerification, TaskData
from wavlm_lightning.tasks.components.trial_scoring import Background, draw_training_trials
from wavlm_lightning.upstreams import Fbank

SMALL = {"channels": 16, "embedding": 12, "calibration_trials": 40, "cohort_top": 2}


@pytest.fixture(scope="module")
def voices(tiny, tmp_path_factory):
    """Two corpora: `whole` with three utterances of each training speaker, `trials` with a test split and a list `e` alone."""
    corpus = Corpus.open(tiny / "sv")
    heard = {name: [Utterance(*row) for row in corpus.split(name).utterances()] for name in ("valid", "test")}
    trials = corpus.trials("test")
    speakers = sorted({utterance.meta["speaker"] for utterance in heard["test"]})
    folder = tmp_path_factory.mktemp("voices")
    whole = CorpusWriter(folder / "whole", "whole", "CC0", {})
    for split, name in (("train", "test"), ("valid", "valid"), ("test", "test")):
        whole.write_split(split, heard[name])
    whole.finish({"speakers": {"train": speakers}}, {"valid": corpus.trials("valid"), "test": trials})
    lists = CorpusWriter(folder / "trials", "trials", "CC0", {"trial_lists": {"test": ["e"]}})
    lists.write_split("test", heard["test"])
    lists.finish({}, {"test": trials, "test_e": [trials[-1], *trials[:5]]})
    return folder


def fitted_head(voices, **data):
    head = EcapaVerification(Fbank(cmvn=False), 1e-2, **SMALL)
    source = TaskData(str(voices / "whole"), batch_size=4, **data)
    trainer = quiet_trainer(max_steps=3)
    trainer.fit(head, source)
    return head, source, trainer


def alone(head, voices, split):
    """The embedding of each utterance, heard alone, with its seconds and its metadata."""
    head.eval()
    found = {}
    for key, waveform, meta in Corpus.open(voices / "whole").split(split).utterances():
        with torch.no_grad():
            found[key] = head(Waveforms.pad([waveform]))[0][0].double().numpy(), len(waveform) / 16e3, meta
    return found


def cosine(a, b):
    return float(a @ b / math.sqrt(a @ a) / math.sqrt(b @ b))


def independent_scores(rows, trials, mean, cohort, calibration):
    """Cosine, AS-norm and QMF of trials, from embeddings and seconds by key; plain loops."""
    near = {key: sorted(cosine(row - mean, voice) for voice in cohort)[-2:] for key, (row, _) in rows.items()}
    scores = {"": [], "_as_norm": [], "_qmf": []}
    for _, a, b in trials:
        plain = cosine(rows[a][0] - mean, rows[b][0] - mean)
        normed = sum((plain - np.mean(near[key])) / np.std(near[key]) for key in (a, b)) / 2
        inputs = [normed]
        qualities = (
            [min(rows[key][1], 20) for key in (a, b)],
            [math.sqrt(rows[key][0] @ rows[key][0]) for key in (a, b)],
            [np.mean(near[key]) for key in (a, b)],
        )
        for low, high in map(sorted, qualities):
            inputs += [low, high, high - low, high / low]
        calibrated = np.dot(calibration["weights"], inputs) + calibration["bias"]
        for name, value in zip(scores, (plain, normed, calibrated), strict=True):
            scores[name].append(float(value))
    return scores


def test_scores_are_those_of_an_independent_computation(voices, monkeypatch):
    # The cohort is heard whole and clean, whatever training hears.
    noisy = [ChangeSpeed(speeds=[1.0, 0.9], new_speakers=True), AddNoise(snr_db=(0, 5))]
    head, source, trainer = fitted_head(voices, transforms=noisy, max_seconds=1.0, min_seconds=0.5)
    assert len(head.labels) == 8 and head.fitted_tensors["cohort"].shape == (4, 12)
    made, asked = {}, {}
    score = Background.scores

    def kept(self, embeddings, seconds, pairs):
        asked.update(embeddings=embeddings, pairs=pairs)
        made.update(score(self, embeddings, seconds, pairs))
        return made

    monkeypatch.setattr(Background, "scores", kept)
    (values,) = trainer.test(head, source, verbose=False)
    # Mean and cohort are those of the training utterances, each heard alone.
    train = alone(head, voices, "train")
    mean = sum(row for row, _, _ in train.values()) / len(train)
    names = sorted({meta["speaker"] for *_, meta in train.values()})
    own = [[row for row, _, meta in train.values() if meta["speaker"] == name] for name in names]
    found = head.fitted_tensors["mean"].numpy(), head.fitted_tensors["cohort"].numpy()
    np.testing.assert_allclose(found[0], mean, atol=1e-4)
    np.testing.assert_allclose(found[1], [sum(rows) / len(rows) - mean for rows in own], atol=1e-4)
    # The scores are those of the embeddings that the task has, whose last digits depend on their batch.
    trials, tested = Corpus.open(voices / "whole").trials("test"), alone(head, voices, "test")
    rows = {}
    for (_, *keys), numbers in zip(trials, asked["pairs"], strict=True):
        rows |= {key: (asked["embeddings"][at], tested[key][1]) for key, at in zip(keys, numbers, strict=True)}
    for key, (row, _) in rows.items():
        np.testing.assert_allclose(row, tested[key][0], atol=1e-4)
    wanted = independent_scores(rows, trials, *found, head.fitted["calibration"])
    same = [same for same, *_ in trials]
    assert made.keys() == wanted.keys()
    for end, scores in wanted.items():
        np.testing.assert_allclose(made[end], scores, rtol=1e-6, atol=1e-6)
        assert values[f"test/eer{end}"] == pytest.approx(equal_error_rate(made[end], same)[0], abs=1e-6)
        cost = minimum_detection_cost(made[end], same, 0.01)[0]
        assert values[f"test/min_dcf{end}"] == pytest.approx(cost, abs=1e-6)
    assert head.scored.trials.scores == pytest.approx(wanted[""], abs=1e-6)
    assert head.details["target_probability"] == 0.01 and head.unit("min_dcf_qmf").text(0.5) == "0.5000 (P 0.01)"
    embedding = torch.tensor(head.readable(torch.randn(1, 12), torch.tensor([1]))[0]["embedding"])
    assert embedding.norm() == pytest.approx(1, abs=1e-4)


def test_a_checkpoint_scores_other_lists_without_the_training_speakers(voices, tmp_path):
    head, source, trainer = fitted_head(voices)
    (before,) = trainer.test(head, source, verbose=False)
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    again = EcapaVerification(Fbank(cmvn=False), 1e-2, **SMALL)
    other = TaskData(str(voices / "trials"), batch_size=4)
    (values,) = quiet_trainer().test(again, other, ckpt_path=tmp_path / "kept.ckpt", weights_only=True, verbose=False)
    assert again.fitted == head.fitted
    assert torch.equal(again.fitted_tensors["cohort"], head.fitted_tensors["cohort"])
    for name, value in before.items():
        assert values[name] == pytest.approx(value, abs=1e-6)
    assert {"test/eer_e", "test/min_dcf_qmf_e"} < values.keys() and again.directions["eer_as_norm_e"] == "lower"
    assert again.details["trials_e"] == 6
    never = EcapaVerification(Fbank(cmvn=False), 1e-2, **SMALL)
    never.build(head.labels)
    with pytest.raises(UserError, match="never validated, so it has no cohort"):
        quiet_trainer().test(never, other, verbose=False)


def test_without_normalisation_there_are_cosines_alone(voices):
    head = EcapaVerification(Fbank(cmvn=False), channels=16, embedding=12, cohort_top=0, calibration_trials=0)
    (values,) = quiet_trainer().test(head, TaskData(str(voices / "whole")), verbose=False)
    assert values.keys() == {"test/eer", "test/min_dcf"} == {f"test/{name}" for name in head.directions}


def test_one_utterance_of_a_speaker_gives_no_calibration(tiny):
    head = EcapaVerification(Fbank(cmvn=False), **SMALL)
    with pytest.raises(UserError, match=r"8 training speakers, 8 utterances\); set model.calibration_trials: 0"):
        quiet_trainer().test(head, TaskData(str(tiny / "sv")), verbose=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"channels": 20}, "no multiple of 8"),
        ({"centres": 0}, "model.centres"),
        ({"cohort_top": 1}, "model.cohort_top must be 0 or at least 2"),
        ({"cohort_top": 0}, "calibration_trials: 0 beside cohort_top: 0"),
        ({"cohort_utterances": 1}, "model.cohort_utterances to 2"),
        ({"target_probability": 1.0}, "between 0 and 1"),
        ({"protocol": "superb"}, "no task of SUPERB"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        EcapaVerification(Fbank(cmvn=False), **settings)


def test_the_head_is_built_of_its_keys_and_hears_one_utterance():
    head = EcapaVerification(
        Shaped(2, 16),
        0.5,
        channels=16,
        embedding=12,
        centres=3,
        hardest=4,
        margin=0.0,
        optimizer="sgd",
        weight_decay=1e-4,
    )
    head.build(list("ABCDEFGH"))
    head.margin = 0.3
    assert (head.objective.margin, head.objective.hardest, head.objective.weight.shape) == (0.3, 4, (24, 12))
    optimizer = head.configure_optimizers()
    assert isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["nesterov"]
    assert optimizer.param_groups[0]["weight_decay"] == 1e-4 and optimizer.param_groups[0]["lr"] == 0.5
    head.train()
    assert head.outputs(torch.randn(1, 30, 16), torch.tensor([30])).isfinite().all()


def test_training_trials():
    speakers = np.repeat(np.arange(6), 5)
    seconds = np.tile([2.0, 3.0, 7.0, 8.0, 9.0], 6)
    pairs, same = draw_training_trials(speakers, seconds, 600, seed=1)
    assert same.sum() == 300 and (pairs[:, 0] != pairs[:, 1]).all()
    assert ((speakers[pairs[:, 0]] == speakers[pairs[:, 1]]) == same).all()
    long = (seconds[pairs] > 6).sum(1)
    assert [int((long == number).sum()) for number in range(3)] == [200, 200, 200]
    # One short utterance a speaker is no pair of two short ones; their share goes to the others.
    pairs, same = draw_training_trials(speakers, np.tile([2.0, 7.0, 7.0, 8.0, 9.0], 6), 600, seed=1)
    assert sorted(set((seconds[pairs] > 6).sum(1).tolist())) and len(pairs) == 600
    with pytest.raises(ValueError, match="two training speakers"):
        draw_training_trials(np.zeros(4, dtype=int), np.ones(4), 10, seed=1)


def test_an_utterance_does_not_meet_its_own_voice_in_the_cohort():
    rng = np.random.default_rng(0)
    rows, cohort, own = rng.normal(size=(5, 8)), rng.normal(size=(4, 8)), np.array([0, 3, 1, 1, 2])
    found = cohort_statistics(rows, cohort, 2, own)
    for row, voice in enumerate(own):
        alone = cohort_statistics(rows[row : row + 1], np.delete(cohort, voice, axis=0), 2)
        assert (found.mean[row], found.deviation[row]) == pytest.approx((alone.mean[0], alone.deviation[0]))


class AtBatchEnd(pl.Callback):
    """Keeps what a checkpoint callback would write."""

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.statistics = {name: value.clone() for name, value in pl_module.state_dict().items() if "running" in name}


def statistics_of_two(corpus: str, folder: str) -> None:
    kept = AtBatchEnd()
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0, devices=2, strategy="ddp", callbacks=[kept])
    trainer.fit(EcapaVerification(Fbank(cmvn=False), 1e-2, **SMALL), TaskData(corpus, batch_size=2, seed=0))
    torch.save(kept.statistics, Path(folder) / f"{trainer.global_rank}.pt")


@pytest.mark.slow
def test_a_checkpoint_has_the_batch_norms_of_all_processes(tiny, tmp_path):
    together(2, tmp_path / "log.txt", statistics_of_two, str(tiny / "sv"), str(tmp_path))
    zero, one = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert zero and zero.keys() == one.keys()
    for name in zero:
        assert torch.equal(zero[name], one[name]), name
