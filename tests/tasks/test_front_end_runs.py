"""Three runs of noisy speech recognition: the front-end, the head, both; what each begins with, keeps and writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import BackboneFinetuning, ModelCheckpoint
from quiet import quiet_trainer

from wavlm_lightning.augment.transforms import AddNoise
from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.transcripts import Transcripts
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    FrontEndEnhancement,
    NoisyAttentionRecognition,
    NoisyRecognition,
    SpeechRecognition,
    TaskData,
)
from wavlm_lightning.tasks.components.decoder.network import NetworkSize
from wavlm_lightning.tasks.components.decoder.search import Decoding
from wavlm_lightning.tasks.components.front_end import ConvTasNet
from wavlm_lightning.upstreams import WavLMUpstream
from wavlm_lightning.upstreams.fine_tuning import FineTuning

SHAPE = {"layers": 2, "conv_channels": [8, 8, 8, 8, 16, 16, 32], "dim": 32, "heads": 2, "ffn_dim": 64}
SMALL = {"hidden": 8, "layers": 1, "alphabet": "corpus"}


def encoder(**settings) -> WavLMUpstream:
    return WavLMUpstream("random:tiny", overrides=SHAPE, **settings)


def network(seed: int = 0, **sizes) -> ConvTasNet:
    return ConvTasNet(**{"filters": 16, "bottleneck": 8, "hidden": 12, "layers": 2, "stacks": 1, "seed": seed, **sizes})


def recognition(differentiable: bool = False, **settings) -> NoisyRecognition:
    return NoisyRecognition(encoder(differentiable=differentiable), 1e-2, **SMALL, **settings)


def joint(**settings) -> NoisyRecognition:
    """With a front-end of other initial weights than that of the first run, so that a start from that run shows."""
    return recognition(differentiable=True, **{"front_end": network(seed=5), **settings})


def fit(task, corpus: Path, folder: Path, updates: int = 2):
    data = TaskData(str(corpus), batch_size=3, transforms=[AddNoise(snr_db=(0, 10))])
    saves = ModelCheckpoint(folder / "checkpoints", filename="last", save_top_k=1, monitor=None)
    trainer = quiet_trainer(max_steps=updates, callbacks=[saves], limit_val_batches=0)
    trainer.fit(task, data)
    return trainer


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory) -> dict[str, Path]:
    """The runs of the front-end alone and of the head alone."""
    folder = tmp_path_factory.mktemp("runs")
    first, second = folder / "front_end", folder / "asr"
    fit(FrontEndEnhancement(encoder(), front_end=network()), tiny / "noisy", first)
    fit(recognition(), tiny / "noisy", second)
    return {"front_end": first, "asr": second}


def state_of(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=False)["state_dict"]


@pytest.mark.parametrize("fixed", [False, True])
def test_the_third_run_begins_with_the_first_two_and_moves_what_it_should(runs, tiny, tmp_path, fixed):
    how = {"front_end_frozen": fixed, "front_end_from": str(runs["front_end"]), "start_from": str(runs["asr"])}
    task = joint(**how)
    before: dict[str, torch.Tensor] = {}
    task.on_train_start = lambda: before.update({k: v.clone() for k, v in task.state_dict().items()})
    fit(task, tiny / "noisy", tmp_path)
    theirs = {f"upstream.{name}": value for name, value in state_of(runs["front_end"]).items() if "front_end" in name}
    heads = {name: value for name, value in state_of(runs["asr"]).items() if name.startswith("head.")}
    assert theirs and heads
    assert all(torch.equal(before[name], value) for name, value in (theirs | heads).items())
    after = task.state_dict()
    moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("upstream.encoder.") for name in moved) and moved & heads.keys()
    assert (moved & theirs.keys() == set()) if fixed else theirs.keys() <= moved
    assert task.started["with"] == "both" and "front_end" in task.started["front_end"]
    # The checkpoint holds the front-end and the head, and the encoder comes from its source.
    kept = state_of(tmp_path)
    assert theirs.keys() <= kept.keys() and not any(name.startswith("upstream.encoder.") for name in kept)


def test_a_run_is_tested_from_its_checkpoint_and_names_its_conditions(runs, tiny, tmp_path):
    task = joint(front_end_from=str(runs["front_end"]), start_from=str(runs["asr"]))
    trainer, data = fit(task, tiny / "noisy", tmp_path), TaskData(str(tiny / "noisy"), batch_size=4)
    (figures,) = trainer.test(task, data, verbose=False)
    # Neither run of the beginning is read again.
    again = joint(front_end_from="gone", start_from="gone")
    tester = quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test")])
    (found,) = tester.test(again, data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", verbose=False)
    assert found == pytest.approx(figures)
    written = ResultCard.read(tmp_path / "card.json")
    assert written.task == "NOISY-ASR-JOINT" and written.upstream["front_end"]["class"] == "ConvTasNet"
    assert written.upstream["sha256"] == encoder(differentiable=True).fingerprint()
    cells = written.details["conditions"]
    assert len(cells) == 14 and all(cell["utterances"] == 1 for cell in cells.values())
    words = sum(cell["words"] for cell in cells.values())
    assert sum(cell["wer"] * cell["words"] for cell in cells.values()) / words == pytest.approx(
        found["test/wer"], abs=1e-5
    )


@pytest.mark.parametrize("fixed", [False, True])
def test_a_run_goes_on_without_the_runs_of_its_beginning(runs, tiny, tmp_path, fixed):
    how = {"front_end_frozen": fixed}
    fit(joint(front_end_from=str(runs["front_end"]), **how), tiny / "noisy", tmp_path, updates=1)
    task = joint(front_end_from="gone", start_from="gone", **how)
    task.go_on()
    data = TaskData(str(tiny / "noisy"), batch_size=3, transforms=[AddNoise(snr_db=(0, 10))])
    trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
    trainer.fit(task, data, ckpt_path=tmp_path / "checkpoints" / "last.ckpt", weights_only=False)
    assert trainer.global_step == 2 and task.started["with"] == "front-end"
    theirs = state_of(runs["front_end"])["front_end.analysis.weight"]
    assert torch.equal(task.upstream.front_end.analysis.weight, theirs) == fixed


def test_a_front_end_is_scored_by_condition_and_not_on_its_own_reference(tiny):
    task, data = FrontEndEnhancement(encoder(), front_end=network()), TaskData(str(tiny / "noisy"), batch_size=4)
    trainer = quiet_trainer()
    (figures,) = trainer.test(task, data, verbose=False)
    cells = task.details["conditions"]
    noisy = [cell for name, cell in cells.items() if name != "clean"]
    assert len(noisy) == 13 and cells["seen_10dB"]["unprocessed"] == pytest.approx(10, abs=0.6)
    ours, theirs = (sum(cell[name] for cell in noisy) / 13 for name in ("si_sdr", "unprocessed"))
    assert figures["test/si_sdr"] == pytest.approx(ours, abs=1e-3)
    assert figures["test/si_sdri"] == pytest.approx(ours - theirs, abs=1e-3)
    assert task.utterance_results.value == pytest.approx(ours, abs=1e-3)
    assert task.details["clean_inputs"] == cells["clean"]["utterances"] == 1


def test_a_silent_answer_has_the_worst_ratio_in_every_condition(tiny):
    task, data = FrontEndEnhancement(encoder(), front_end=network()), TaskData(str(tiny / "noisy"), batch_size=4)
    torch.nn.init.zeros_(task.front_end.synthesis.weight)
    quiet_trainer().test(task, data, verbose=False)
    assert {cell["si_sdr"] for cell in task.details["conditions"].values()} == {-30.0}
    assert task.details["silent"]["answers"] == 13 and "left_out" not in task.details


def test_rates_by_condition():
    heard = Transcripts(["a", "b", "c"], ["one two", "three", "four"], {"wer": ["one", "three", "for"]}, [None] * 3)
    assert heard.rates_by(["x", "y", "x"], {"wer": "words", "cer": "letters"}) == {
        "x": {"utterances": 2, "words": 3, "wer": 0.666667, "cer": 0.454545},
        "y": {"utterances": 1, "words": 1, "wer": 0.0, "cer": 0.0},
    }


def test_plain_heads_start_noisy_ones_and_the_score_without_a_front_end_is_theirs(runs, tiny, tmp_path):
    plain = SpeechRecognition(encoder(), 1e-2, **SMALL, start_from=str(runs["asr"]))
    data = TaskData(str(tiny / "noisy"), batch_size=4)
    fit(plain, tiny / "noisy", tmp_path / "plain", updates=1)
    noisy = recognition(start_from=str(tmp_path / "plain"))
    fit(noisy, tiny / "noisy", tmp_path / "noisy", updates=1)
    assert noisy.name == "NOISY-ASR" and noisy.started["with"] == "both"
    trained = recognition(differentiable=False, start_from=str(tmp_path / "plain"))
    trainer = quiet_trainer(max_steps=0, limit_val_batches=0)
    trainer.fit(trained, data)
    (one,) = trainer.test(trained, data, verbose=False)
    (other,) = quiet_trainer().test(plain, data, verbose=False)
    assert one == pytest.approx(other)


def test_an_encoder_that_trains_behind_its_front_end_is_kept(tiny, tmp_path):
    upstream = encoder(frozen=False, fine_tuning=FineTuning(learning_rate=1e-3))
    task = NoisyRecognition(upstream, 1e-2, front_end=network(), front_end_learning_rate=1e-4, **SMALL)
    trainer = fit(task, tiny / "noisy", tmp_path)
    assert {group["name"]: group["lr"] for group in trainer.optimizers[0].param_groups} == {
        "head": 1e-2,
        "encoder": 1e-3,
        "front_end": 1e-4,
    }
    assert any(name.startswith("upstream.encoder.") for name in state_of(tmp_path))
    tester = quiet_trainer()
    tester.test(task, TaskData(str(tiny / "noisy"), batch_size=7), ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    (seen,) = task.upstream.describe()["labelled"]
    assert seen["task"] == "NOISY-ASR-JOINT" and seen["utterances"] > 0
    found = WavLMUpstream(str(tmp_path))  # the run serves as an encoder, too
    theirs = upstream.encoder.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in found.encoder.state_dict().items())


def test_what_cannot_be_done_is_refused(runs, tiny, tmp_path):
    with pytest.raises(UserError, match=r"front_end_from is set, but model\.front_end is not"):
        recognition(front_end_from="x")
    with pytest.raises(UserError, match=r"front_end_frozen is true, but model\.front_end is not"):
        recognition(front_end_frozen=True)
    with pytest.raises(UserError, match="remove one of them"):
        joint(front_end_frozen=True, front_end_learning_rate=1e-3)
    with pytest.raises(UserError, match=r"front_end_from .*asr: .*has no front-end; give a run of FrontEndEnhancement"):
        fit(joint(front_end_from=str(runs["asr"])), tiny / "noisy", tmp_path)
    with pytest.raises(UserError, match=r"its front-end does not fit: .*of shape .*give model\.front_end the class"):
        fit(joint(front_end=network(hidden=6), front_end_from=str(runs["front_end"])), tiny / "noisy", tmp_path)
    with pytest.raises(UserError, match="front_end_from nowhere: no checkpoint"):
        fit(joint(front_end_from="nowhere"), tiny / "noisy", tmp_path)
    fit(joint(), tiny / "noisy", tmp_path / "joint", updates=1)
    with pytest.raises(UserError, match="it has a front-end, which this model lacks"):
        fit(recognition(start_from=str(tmp_path / "joint")), tiny / "noisy", tmp_path)
    other = NoisyRecognition(encoder(differentiable=True, seed=3), 1e-2, front_end=network(), **SMALL)
    other.start_from = str(tmp_path / "joint")
    with pytest.raises(UserError, match="its head was trained on another encoder"):
        fit(other, tiny / "noisy", tmp_path)
    with pytest.raises(UserError, match="front_end_frozen is true, but the front-end has random weights"):
        fit(joint(front_end_frozen=True, start_from=str(runs["asr"]), start_with="head"), tiny / "noisy", tmp_path)
    with pytest.raises(UserError, match=r"front_end_learning_rate 0\.0: give a number above 0"):
        joint(front_end_learning_rate=0.0)
    with pytest.raises(UserError, match="BackboneFinetuning would train nothing"):
        task = joint()
        task.backbone = task.upstream.encoder
        quiet_trainer(max_steps=1, callbacks=[BackboneFinetuning()]).fit(task, TaskData(str(tiny / "noisy")))
    with pytest.raises(UserError, match="frozen: false trains nothing"):
        FrontEndEnhancement(encoder(frozen=False))


def test_a_front_end_before_an_encoder_decoder(runs, tiny, tmp_path):
    network_size = NetworkSize(width=16, heads=2, inner=16, encoder_layers=1, decoder_layers=1, convolutions=1)
    task = NoisyAttentionRecognition(
        encoder(differentiable=True),
        1e-2,
        network_size,
        Decoding(1, 0.3),
        alphabet="corpus",
        front_end=network(seed=5),
        front_end_from=str(runs["front_end"]),
    )
    fit(task, tiny / "noisy", tmp_path, updates=1)
    assert task.name == "NOISY-ASR-ATT-JOINT" and task.started["with"] == "front-end"
    theirs = state_of(runs["front_end"])
    moved = [not torch.equal(theirs[f"front_end.{n}"], v) for n, v in task.upstream.front_end.state_dict().items()]
    assert all(moved)
    quiet_trainer().test(task, TaskData(str(tiny / "noisy"), batch_size=7), verbose=False)
    assert len(task.details["conditions"]) == 14
