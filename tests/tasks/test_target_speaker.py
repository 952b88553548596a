"""Tasks about one speaker among others: the enrolment, padding, measures against the tools, caches and predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml
from quiet import quiet_trainer
from sklearn.metrics import average_precision_score
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from wavlm_lightning.callbacks.examples import KeepExamples
from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.cli import main
from wavlm_lightning.data.batch import Targets, Waveforms
from wavlm_lightning.encoder import Layers
from wavlm_lightning.metrics.enhancement import EnhancementMeasures, ExtractionMeasures, is_installed
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.examples import read_examples
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import PersonalActivity, TargetExtraction, TargetRecognition, TaskData
from wavlm_lightning.tasks.components.enrolment import SpeakerVector
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.tasks.speaker.personal_activity import CLASSES, FrameAveragePrecision
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.from_python import load_head

SMALL = {
    TargetExtraction: {"hidden": 8, "layers": 2, "dropout": 0.0, "spectrum": True},
    TargetRecognition: {"hidden": 8, "layers": 1, "alphabet": "corpus"},
    PersonalActivity: {"hidden": 8},
}
LABELS = {TargetExtraction: ["clean"], TargetRecognition: [*map(str, range(5)), *"AB"], PersonalActivity: [*CLASSES]}


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def built(kind):
    task = kind(Fbank(cmvn=False), **SMALL[kind])
    task.build(LABELS[kind])
    return task.eval()


def waveforms(*lengths: int, seed: int = 0) -> Waveforms:
    return Waveforms.pad([noise(length, seed=seed + length).numpy() for length in lengths])


@torch.no_grad()
@pytest.mark.parametrize("kind", SMALL)
def test_an_answer_depends_on_its_enrolment_and_on_no_other_row(kind):
    task, inputs, enrolments = built(kind), waveforms(9000, 7000), waveforms(6000, 8000, seed=1)
    with task.beside({"enrolment": enrolments}):
        answers = task.answer_rows(*task(inputs))
    for row, answer in enumerate(answers):
        one, voice = (
            Waveforms(w.audio[row : row + 1, : w.lengths[row]], w.lengths[row : row + 1]) for w in (inputs, enrolments)
        )
        with task.beside({"enrolment": voice}):
            (alone,) = task.answer_rows(*task(one))
        assert torch.allclose(alone, answer, atol=1e-5)
        other = Waveforms(voice.audio.flip(1) ** 2, voice.lengths)
        with task.beside({"enrolment": other}):
            assert not torch.allclose(task.answer_rows(*task(one))[0], answer, atol=1e-4)
    with pytest.raises(UserError, match="no enrolment says"):
        task(inputs)


@torch.no_grad()
def test_the_vector_is_attention_over_the_valid_frames():
    module, layers = SpeakerVector(3, 6, 5, heads=2, compression=4), noise(3, 2, 7, 6)
    lengths = torch.tensor([7, 4])
    found = module(Layers(layers, lengths, 50.0))
    for row, frames in enumerate(lengths.tolist()):
        mean = layers[:, row, :frames].mean(0)  # the weights of the layers are equal at the start
        weights = module.attention(module.keys(mean)).softmax(0)
        pooled = [sum(weights[t, head] * module.values(mean)[t] for t in range(frames)) for head in range(2)]
        assert torch.allclose(module.output(torch.cat(pooled)), found[row], atol=1e-5)
    assert found.mean() == pytest.approx(1, abs=0.3)


def test_training_hears_a_stretch_of_the_enrolment():
    task = PersonalActivity(Fbank(cmvn=False), hidden=8, enrolment_seconds=0.1)
    given = Waveforms.pad([np.arange(5000, dtype="f4"), np.arange(1000, dtype="f4"), np.arange(3000, dtype="f4")])
    torch.manual_seed(1)
    heard = task._stretch(given)
    assert heard.lengths.tolist() == [1600, 1000, 1600] and heard.audio.shape == (3, 1600)
    for row, length in enumerate(heard.lengths.tolist()):
        assert torch.equal(heard.audio[row, :length], heard.audio[row, 0] + torch.arange(length))
        assert not heard.audio[row, length:].any()
    assert heard.audio[0, 0] > 0 and heard.audio[1, 0] == 0
    assert task.eval()._stretch(given) is given
    with pytest.raises(UserError, match="an enrolment has 10 samples"):
        task._stretch(Waveforms.pad([np.ones(10, "f4")]))
    with pytest.raises(UserError, match="enrolment_seconds"):
        PersonalActivity(Fbank(cmvn=False), enrolment_seconds=0.001)


# Extraction.


def test_the_loss_is_the_negative_si_sdr_without_padding():
    task, lengths = built(TargetExtraction), torch.tensor([9000, 7000, 8000])
    target, answer = noise(3, 9000, seed=1), noise(3, 9000, seed=2)
    answer = target + 0.3 * answer + 0.02
    silent = target.clone()
    silent[2] = 0
    expected = [
        scale_invariant_signal_distortion_ratio(answer[row, :n], target[row, :n], zero_mean=True)
        for row, n in enumerate(lengths.tolist())
    ]
    # The limit of 30 dB takes 10 log10(1 + 10^((x - 30) / 10)) off a ratio of x.
    limited = [float(x - 10 * torch.log10(1 + 10 ** ((x - 30) / 10))) for x in expected]
    assert task.loss(answer, lengths, Targets(target, lengths)) == pytest.approx(-np.mean(limited), abs=1e-2)
    assert task.loss(answer, lengths, Targets(silent, lengths)) == pytest.approx(-np.mean(limited[:2]), abs=1e-2)
    assert task.loss(3 * answer, lengths, Targets(target, lengths)) == pytest.approx(-np.mean(limited), abs=1e-2)
    quiet = answer.clone().requires_grad_()
    loss = task.loss(quiet * 0, lengths, Targets(target * 0, lengths))
    loss.backward()
    assert loss == 0 and torch.isfinite(quiet.grad).all()


def test_measures_count_confusions_and_refuse_a_silent_target():
    target, other = noise(16000, seed=3), noise(16000, seed=4)
    metric = ExtractionMeasures(["si_sdr", "si_sdri"])
    for share in (0.9, 0.6, 0.2):
        metric.update(share * target + (1 - share) * other, target, target + other, target)
    metric.update(target, target, target, target)  # nobody else is there
    values = metric.compute()
    assert values["confusion"] == pytest.approx(1 / 3) and values["oracle/si_sdr"] > 60
    metric.update(0 * target, target, target + other, target)  # an answer without sound has not found the target
    assert metric.compute()["confusion"] == 0.5
    with pytest.raises(UserError, match="silent"):
        metric.update(target, 0 * target, other)


@pytest.mark.skipif(not is_installed("pesq"), reason="pesq is not installed")
def test_pesq_of_a_silent_answer_is_the_lowest_and_of_a_silent_reference_left_out():
    metric = ExtractionMeasures(["pesq"])
    speech = noise(16000, seed=5) * (torch.arange(16000) % 4000 < 2000)
    metric.update(speech, speech, speech + noise(16000))
    metric.update(0 * speech, speech, speech + noise(16000))
    values = metric.compute()
    assert values["pesq"] == pytest.approx((4.64 + 1.04) / 2, abs=0.01) and "left_out/pesq" not in values
    plain = EnhancementMeasures(["pesq"])
    plain.update(speech, 0 * speech, speech)
    assert plain.compute()["left_out/pesq"] == 1


@torch.no_grad()
def test_the_oracle_mask_is_the_identity_without_others_and_better_than_any_share():
    task, target, other = built(TargetExtraction), noise(8000, seed=6), noise(8000, seed=7)
    assert torch.allclose(task.oracle(target, target), target, atol=1e-4)
    best = task.oracle(target + other, target)
    assert (best - target).square().sum() < 0.6 * other.square().sum()


# Activity.


def test_average_precision_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    scores = torch.tensor(rng.dirichlet(np.ones(4), 500), dtype=torch.float32)
    scores = (scores * 20).round() / 20  # ties
    classes = torch.tensor(rng.integers(0, 4, 500))
    for wanted in (classes, classes.clamp(max=2)):  # in the second, one class does not occur
        metric = FrameAveragePrecision()
        for part in range(2):
            metric.update(scores[part::2], wanted[part::2])
        there = sorted(set(wanted.tolist()))
        each = [average_precision_score(wanted == n, scores[:, n]) for n in there]
        three = torch.stack([scores[:, 0], scores[:, 1], scores[:, 2:].sum(1)], 1)
        pooled = average_precision_score(np.eye(3)[wanted.clamp(max=2)], three, average="micro")
        values = metric.compute()
        assert values["map"] == pytest.approx(np.mean(each), abs=1e-5)
        assert values["map_micro"] == pytest.approx(pooled, abs=1e-5)
        assert [values[f"ap/{CLASSES[n]}"] for n in there] == pytest.approx(each, abs=1e-5)


def test_frames_are_labelled_by_who_speaks():
    task = PersonalActivity(Fbank(cmvn=False))
    turns = [["a", 0.02, 0.05], ["b", 0.04, 0.08], ["c", 0.07, 0.09], ["a", 0.10, 0.11]]
    assert task.read_target({"speaker": "a", "turns": turns}).tolist() == [0, 0, 3, 3, 2, 1, 1, 1, 1, 0, 3]
    assert task.read_target({"speaker": "x", "turns": turns}).max() == 1 and not len(
        task.read_target({"speaker": "x", "turns": []})
    )
    assert task.crop_target(torch.arange(11), 320, 800).tolist() == [2, 3, 4, 5, 6]
    for wrong in ({"turns": turns}, {"speaker": "a"}, {"speaker": "a", "turns": [["a", 2, 1]]}):
        with pytest.raises(UserError, match="PVAD"):
            task.read_target(wrong)
    logits = torch.nn.functional.one_hot(torch.tensor([[0, 3, 3, 2, 1]]), 4).float()
    assert task.readable(logits, torch.tensor([4])) == [
        {"turns": [["target_alone", 0.01, 0.03], ["target_overlapped", 0.03, 0.04]]}
    ]


@pytest.mark.parametrize(("shares", "chance"), [([0.1, 0.2, 0.3, 0.4], 1 / 4), ([0.1, 0.5, 0.0, 0.4], 1 / 3)])
def test_without_information_the_score_is_chance(shares, chance):
    task, rng = PersonalActivity(Fbank(cmvn=False)), np.random.default_rng(1)
    assert task.chance == 1 / 4
    metric = FrameAveragePrecision()
    metric.update(torch.tensor(rng.dirichlet(np.ones(4), 20000)), torch.tensor(rng.choice(4, 20000, p=shares)))
    assert task.score(metric, "test")["map"] == pytest.approx(chance, abs=0.01)
    assert task.chance == pytest.approx(chance)


# From the data module on.


@pytest.mark.parametrize("kind", [TargetRecognition, PersonalActivity])
def test_a_cache_changes_no_score(kind, tiny, tmp_path):
    scores = []
    for cache in (None, str(tmp_path)):
        task, trainer = kind(Fbank(cmvn=False), **SMALL[kind]), quiet_trainer(max_steps=2, limit_val_batches=1)
        trainer.fit(task, TaskData(str(tiny / "target"), batch_size=3, cache=cache))
        scores.append(trainer.callback_metrics)
    assert {name: float(v) for name, v in scores[0].items()} == pytest.approx(
        {name: float(v) for name, v in scores[1].items()}, abs=1e-3
    )


def test_extraction_refuses_a_cache_and_company(tiny, tmp_path):
    task = TargetExtraction(Fbank(cmvn=False), **SMALL[TargetExtraction])
    with pytest.raises(UserError, match=r"set data\.cache: null"):
        quiet_trainer(max_steps=1).fit(task, TaskData(str(tiny / "target"), cache=str(tmp_path)))
    with pytest.raises(UserError, match="run it alone"):
        ManyHeads({"a": TargetExtraction(task.upstream), "b": TargetExtraction(task.upstream)})
    with pytest.raises(UserError, match="no audio 'enrolment'"):
        quiet_trainer(max_steps=1).fit(PersonalActivity(task.upstream), TaskData(str(tiny / "sd")))


def test_the_card_of_an_extraction_has_the_mixture_and_the_oracle(tiny, tmp_path):
    task = TargetExtraction(Fbank(cmvn=False), **SMALL[TargetExtraction])
    trainer = quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test"), KeepExamples(tmp_path)])
    trainer.test(task, TaskData(str(tiny / "target")), verbose=False)
    card = ResultCard.read(tmp_path)
    details = card.details
    oracle, before = details["oracle"]["si_sdr"], details["unprocessed"]["si_sdr"]
    assert oracle > before + 3 and card.value - before == pytest.approx(card.metrics["si_sdri"]["value"], abs=1e-3)
    assert card.metrics["si_sdr"]["unit"] == "dB" and card.metrics["confusion"]["better"] == "lower"
    assert ("pesq" in card.metrics) == is_installed("pesq") != ("pesq" in details.get("not_measured", {}))
    assert card.metrics["stoi"]["unit"] == "%" and len(read_examples(tmp_path)) == 2


# Predictions.


@pytest.fixture
def run(tmp_path):
    """A run folder of an extraction head as `wavlm fit` leaves it, and recordings of two voices."""
    settings = SMALL[TargetExtraction]
    task, folder = built(TargetExtraction), tmp_path / "run"
    kept = {"name": "TSE", "labels": ["clean"], "protocol": "superb", "upstream_sha256": task.upstream.fingerprint()}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": task.state_dict(), "task": kept}, folder / "checkpoints" / "best.ckpt")
    upstream = {"class_path": "wavlm_lightning.upstreams.Fbank", "init_args": {"cmvn": False}}
    model = {"class_path": "wavlm_lightning.tasks.TargetExtraction", "init_args": {"upstream": upstream, **settings}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": {"init_args": {}}}))
    for name, seed in (("mix.wav", 1), ("mix2.wav", 2), ("ann.wav", 3), ("bob.wav", 4)):
        soundfile.write(
            tmp_path / name, noise(24000, seed=seed) * (1 if seed != 4 else torch.linspace(0, 1, 24000)), 16000
        )
    return tmp_path


def test_predict_hears_whom_the_enrolment_names(run, capsys):
    files = [str(run / name) for name in ("mix.wav", "mix2.wav")]

    def said(enrolment, out, *paths):
        command = ["predict", str(run / "run"), *paths, "--out", str(run / out), "--device", "cpu"]
        assert main([*command, "--enrolment", str(run / enrolment)]) == 0
        return [soundfile.read(run / out / Path(path).name)[0] for path in paths]

    ann, bob = said("ann.wav", "a", *files), said("bob.wav", "b", *files)
    assert not np.allclose(ann[0], bob[0], atol=1e-3)
    (run / "who.csv").write_text("path,audio:enrolment\nmix.wav,ann.wav\nmix2.wav,bob.wav\n")
    both = said("who.csv", "both", *files)
    assert np.allclose(both[0], ann[0], atol=1e-4) and np.allclose(both[1], bob[1], atol=1e-4)
    heard = load_head(run / "run", "cpu")(files[0], enrolment=run / "ann.wav")["audio"]
    assert np.allclose(heard, ann[0], atol=1e-4)
    # Windows hear the same enrolment, and a run that was interrupted with another enrolment is not resumed.
    command = ["predict", str(run / "run"), files[0], "--out", str(run / "w"), "--window", "1", "--enrolment"]
    assert main([*command, str(run / "ann.wav")]) == 0 and len(soundfile.read(run / "w" / "mix.wav")[0]) == 24000
    capsys.readouterr()
    for given, words in (
        ([], "--enrolment FILE"),
        (["--enrolment", str(run / "nobody.wav")], "nobody.wav"),
        (["--enrolment", str(run / "wrong.csv")], "no column `audio:enrolment`"),
    ):
        (run / "wrong.csv").write_text("path,speaker\nmix.wav,ann\n")
        assert main(["predict", str(run / "run"), files[0], *given]) == 2
        assert words in capsys.readouterr().err
    (run / "who.csv").write_text("path,audio:enrolment\nmix.wav,ann.wav\n")
    assert main(["predict", str(run / "run"), files[1], "--enrolment", str(run / "who.csv")]) == 2
    assert "has no row with its path" in capsys.readouterr().err
