"""Runs that begin with the weights of another run, and what is fitted on the validation split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from quiet import quiet_trainer
from torch import nn

from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.cli import main
from wavlm_lightning.metrics.diarization_rate import SETTINGS
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    KeywordSpotting,
    SpeakerDiarization,
    SpeakerIdentification,
    SpeechRecognition,
    TargetRecognition,
    TaskData,
)
from wavlm_lightning.tasks.joint.many_heads import ManyHeads
from wavlm_lightning.tasks.trained_run import run_of_key
from wavlm_lightning.upstreams import Fbank, WavLMUpstream

VALIDATED = {"check_val_every_n_epoch": None, "val_check_interval": 2, "limit_val_batches": 2}


class First(pl.Callback):
    """The weights before the first update."""

    def on_train_start(self, trainer, pl_module):
        self.state = {name: value.clone() for name, value in pl_module.state_dict().items()}


def saver(run: Path, name: str = "best") -> ModelCheckpoint:
    return ModelCheckpoint(run / "checkpoints", filename=name, every_n_train_steps=1, enable_version_counter=False)


def fit(task, corpus: Path, run: Path, updates: int = 2, ckpt_path: Path | None = None, **settings) -> First:
    first = First()
    callbacks = [first, *settings.pop("callbacks", []), saver(run)]
    trainer = quiet_trainer(max_steps=updates, callbacks=callbacks, **{"limit_val_batches": 0, **settings})
    trainer.fit(task, TaskData(str(corpus), batch_size=4), ckpt_path=ckpt_path, weights_only=True)
    return first


def kept(run: Path, name: str = "best") -> dict:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)


def same(ours: dict, theirs: dict, prefix: str = "") -> bool:
    names = [name for name in theirs if name.startswith(prefix)]
    return bool(names) and all(torch.equal(ours[name], theirs[name]) for name in names)


def ks(rate: float = 1e-2, **settings) -> KeywordSpotting:
    return KeywordSpotting(Fbank(cmvn=False), rate, **settings)


@pytest.fixture(scope="module")
def stage_one(tiny, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("one")
    fit(ks(), tiny / "ks", run)
    return run


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory) -> Path:
    """A run that trained its encoder."""
    run = tmp_path_factory.mktemp("trained")
    fit(KeywordSpotting(WavLMUpstream("tiny", frozen=False), 1e-3), tiny / "ks", run, 1)
    return run


@pytest.mark.parametrize("part", ["head", "both"])
def test_a_head_goes_on_in_a_new_run(tiny, tmp_path, stage_one, part):
    weights = kept(stage_one)["state_dict"]
    task = ks(seed=7, start_from=str(stage_one), start_with=part)
    assert same(fit(task, tiny / "ks", tmp_path).state, weights)
    assert not same(fit(ks(seed=7), tiny / "ks", tmp_path / "plain").state, weights)
    place = {"checkpoint": str(stage_one / "checkpoints" / "best.ckpt"), "with": part, "step": 2}
    assert kept(tmp_path)["task"]["started"] == place


def test_a_resumed_run_does_not_start_again(tiny, tmp_path, stage_one):
    one = tmp_path / "one"
    shutil.copytree(stage_one, one)
    fit(ks(start_from=str(one)), tiny / "ks", tmp_path / "whole", 5)
    fit(ks(start_from=str(one)), tiny / "ks", tmp_path / "parts", 3)
    path = tmp_path / "parts" / "checkpoints" / "best.ckpt"
    again = ks(start_from=str(one))
    resumed = fit(again, tiny / "ks", tmp_path / "parts", 5, path)
    assert not same(resumed.state, kept(one)["state_dict"])
    assert same(kept(tmp_path / "parts")["state_dict"], kept(tmp_path / "whole")["state_dict"])
    assert kept(tmp_path / "parts")["task"]["started"]["step"] == 2
    # A second fit of the same object goes on as well.
    before = {name: value.clone() for name, value in again.state_dict().items()}
    assert same(fit(again, tiny / "ks", tmp_path / "more", 6).state, before)


def test_last_is_taken_where_there_is_no_best_and_a_file_is_taken_as_it_is(tiny, tmp_path, stage_one):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(stage_one / "checkpoints" / "best.ckpt", tmp_path / "checkpoints" / "last.ckpt")
    for run in (tmp_path, tmp_path / "checkpoints" / "last.ckpt"):
        task = ks(seed=7, start_from=str(run))
        assert same(fit(task, tiny / "ks", tmp_path / f"of-{run.name}").state, kept(stage_one)["state_dict"])


def test_an_encoder_goes_on_under_another_task(tiny, tmp_path, trained):
    upstream = WavLMUpstream("tiny", seed=3, frozen=False)
    task = SpeakerIdentification(upstream, 1e-3, start_from=str(trained), start_with="encoder")
    found = fit(task, tiny / "sid", tmp_path, 1).state
    assert same(found, kept(trained)["state_dict"], "upstream.")
    assert not torch.equal(found["projector.weight"], kept(trained)["state_dict"]["projector.weight"])


def test_several_heads_start_alike(tiny, tmp_path, stage_one):
    upstream = Fbank(cmvn=False)
    heads = {f"rate-{rate}": KeywordSpotting(upstream, rate, start_from=str(stage_one)) for rate in (1e-2, 1e-3)}
    found = fit(ManyHeads(heads), tiny / "ks", tmp_path, 1).state
    for place in range(2):
        own = {name.removeprefix(f"members.{place}."): value for name, value in found.items()}
        assert same(own, kept(stage_one)["state_dict"])
    assert set(kept(tmp_path)["state_dict"]) == {
        f"heads.{place}.{name}" for place in range(2) for name in kept(stage_one)["state_dict"]
    }


def test_a_command_resumes_without_the_first_run(tiny, tmp_path, stage_one):
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(stage_one, one)
    options = ["--model", "KeywordSpotting", "--model.upstream", "Fbank", "--model.upstream.cmvn", "false"]
    options += ["--model.start_from", str(one), "--model.learning_rate", "[1e-2,1e-3]", "--data", "TaskData"]
    options += ["--data.corpus", str(tiny / "ks"), "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "0"]
    options += ["--trainer.default_root_dir", str(two)]
    assert main(["fit", *options, "--trainer.max_steps", "1"]) == 0
    shutil.rmtree(one)
    assert main(["fit", *options, "--trainer.max_steps", "2", "--ckpt_path", "last"]) == 0
    config = yaml.safe_load((two / "config.yaml").read_text())["model"]["init_args"]
    assert (config["start_from"], config["start_with"]) == (str(one), "both")
    assert {head["task"]["started"]["step"] for head in kept(two, "last")["heads"].values()} == {2}


def test_a_task_that_adds_a_part_starts_from_the_head_of_one_that_lacks_it(tiny, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    size = {"hidden": 8, "layers": 1}
    fit(SpeechRecognition(Fbank(cmvn=False), 1e-2, **size), tiny / "pr", one)
    voice = "speaker_vector."
    plain = fit(TargetRecognition(Fbank(cmvn=False), 1e-2, **size), tiny / "target", tmp_path / "plain").state
    begun = fit(TargetRecognition(Fbank(cmvn=False), 1e-2, **size, start_from=str(one)), tiny / "target", two).state
    assert same(begun, kept(one)["state_dict"]) and same(begun, plain, voice)
    assert not same(plain, kept(one)["state_dict"])
    # The added part goes on, too, where the other run has it, and is not dropped without a word.
    task = TargetRecognition(Fbank(cmvn=False), 1e-2, **size, start_from=str(two))
    assert same(fit(task, tiny / "target", tmp_path / "three").state, kept(two)["state_dict"])
    assert not same(kept(two)["state_dict"], plain, voice)
    with pytest.raises(UserError, match=r"has speaker_vector\..*, which this model lacks"):
        fit(SpeechRecognition(Fbank(cmvn=False), 1e-2, **size, start_from=str(two)), tiny / "pr", tmp_path / "four")


def tiny_ks(frozen: bool, start: Path | str, part: str = "both", **settings) -> KeywordSpotting:
    return KeywordSpotting(
        WavLMUpstream("tiny", frozen=frozen, **settings), 1e-3, start_from=str(start), start_with=part
    )


def test_what_does_not_fit_is_refused_in_one_sentence(tiny, tmp_path, stage_one, trained):
    several = tmp_path / "several"
    fit(ManyHeads({"a": ks()}), tiny / "ks", several, 1)
    pretraining = tmp_path / "pretraining"
    (pretraining / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {}, "global_step": 1}, pretraining / "checkpoints" / "last.ckpt")
    cases = [
        (ks(start_from="nowhere"), "ks", r"start_from nowhere: no checkpoint .*best.ckpt; give the folder"),
        (ks(start_from=str(several)), "ks", "several; give the folder of one of its heads"),
        (ks(start_from=str(pretraining)), "ks", r"a pre-training; set model\.upstream\.source"),
        (ks(start_from=str(stage_one), start_with="encoder"), "ks", r"was frozen, .* model\.start_with: head"),
        (
            ks(hidden=8, start_from=str(stage_one)),
            "ks",
            r"projector\.weight of shape \(256, 240\), this model of \(8, ",
        ),
        (
            tiny_ks(True, trained),
            "ks",
            r"a frozen one cannot start .* model\.upstream\.source .* model\.start_with: head, or set",
        ),
        (tiny_ks(False, stage_one), "ks", "was frozen"),
        (tiny_ks(False, trained, overrides={"ffn_dim": 8}), "ks", "its encoder does not fit"),
        (
            SpeakerIdentification(Fbank(cmvn=False), start_from=str(stage_one)),
            "sid",
            r"labels differ \(\d+ there, \d+ here\), .* model\.start_with: encoder",
        ),
    ]
    for number, (task, corpus, said) in enumerate(cases):
        with pytest.raises(UserError, match=said):
            fit(task, tiny / corpus, tmp_path / str(number))


def test_a_test_does_not_start(tiny, tmp_path, stage_one):
    """Its weights come from its checkpoint; the other run may be gone."""
    fit(ks(start_from=str(stage_one)), tiny / "ks", tmp_path)
    trainer = quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test")])
    path = tmp_path / "checkpoints" / "best.ckpt"
    task = ks(start_from="gone")
    trainer.test(task, TaskData(str(tiny / "ks")), ckpt_path=path, weights_only=True, verbose=False)
    assert ResultCard.read(tmp_path).started["with"] == "both"


def test_a_layer_named_like_a_method_is_refused(tiny, tmp_path):
    class Named(KeywordSpotting):
        def build_head(self, dim):
            super().build_head(dim)
            self.heads = nn.Linear(2, 2)

    with pytest.raises(UserError, match="a layer is called 'heads'"):
        fit(Named(Fbank()), tiny / "ks", tmp_path)


# What is fitted on validation.


class Threshold(KeywordSpotting):
    """Fits a number that tells the updates made, and shows at which values and stages it was used."""

    calls: int = 0

    def fit_on_validation(self, metric):
        self.calls += 1
        assert self.trainer.validating and metric is self.valid_metric
        return {"threshold": 0.5 + self.trainer.global_step, "order": (1, 2)}

    def score(self, metric, stage):
        self.used = self.fitted
        return super().score(metric, stage)

    def readable(self, outputs, lengths):
        return [{"threshold": self.fitted["threshold"]} for _ in lengths]


def test_what_is_fitted_is_kept_and_used(tiny, tmp_path):
    """Tested data never reach it: it is not called in a test, and other test data leave it as it is."""
    task = Threshold(Fbank(), 1e-2)
    fit(task, tiny / "ks", tmp_path, 4, **VALIDATED, num_sanity_val_steps=1)
    assert task.calls == 2  # not in the sanity check
    path, fitted = tmp_path / "checkpoints" / "best.ckpt", {"threshold": 2.5, "order": [1, 2]}
    # `saver` writes before the validation of the same update, so its file holds that after update 2.
    assert kept(tmp_path)["task"]["fitted"] == fitted
    for limit in (1, 2):
        fresh = Threshold(Fbank(), 1e-2)
        trainer = quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test")], limit_test_batches=limit)
        data = TaskData(str(tiny / "ks"), eval_batch_seconds=5.0)
        trainer.test(fresh, data, ckpt_path=path, weights_only=True, verbose=False)
        assert fresh.calls == 0 and fresh.fitted == fresh.used == fitted
        assert ResultCard.read(tmp_path).fitted == fitted
    said = trainer.predict(fresh, data, ckpt_path=path, weights_only=True)[0]["readable"]
    assert said[0] == {"threshold": 2.5}


def test_a_run_that_was_stopped_does_not_pass_as_a_whole_one(tiny, tmp_path):
    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer, *_):
            trainer.should_stop = trainer.global_step == 3

    best = ModelCheckpoint(tmp_path / "checkpoints", filename="best", monitor="valid/accuracy", mode="max")
    trainer = quiet_trainer(
        callbacks=[Stop(), saver(tmp_path, "last"), best], max_steps=9, val_check_interval=2, limit_val_batches=1.0
    )
    trainer.fit(ks(), TaskData(str(tiny / "ks"), batch_size=4))
    path = Path(best.best_model_path)
    assert torch.load(path, weights_only=True)["task"]["steps"] == 9
    trainer = quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test")])
    trainer.test(ks(), TaskData(str(tiny / "ks")), ckpt_path=path, weights_only=True, verbose=False)
    card = ResultCard.read(tmp_path)
    assert (card.steps, card.updates) == (9, 3)


def test_a_card_says_what_was_tested_and_what_chose_it(tiny, tmp_path):
    """The newest weights were not chosen, a run by epochs has updates, and a part of a test is no whole one."""
    best = ModelCheckpoint(tmp_path / "checkpoints", filename="chosen", monitor="valid/accuracy", mode="max")
    by_epochs = {
        "max_steps": -1,
        "max_epochs": 1,
        "limit_train_batches": 5,
        "val_check_interval": 3,
        "limit_val_batches": 1.0,
    }
    trainer = quiet_trainer(callbacks=[saver(tmp_path, "last"), best], **by_epochs)
    trainer.fit(ks(), TaskData(str(tiny / "ks"), batch_size=4))
    card = None
    for name, chosen in (("last", False), ("chosen", True)):
        for limit in (1, None):
            task, data = ks(), TaskData(str(tiny / "ks"), eval_batch_seconds=5.0)
            callbacks = [WriteResultCard(tmp_path, "wavlm test")]
            trainer = quiet_trainer(callbacks=callbacks, limit_test_batches=limit)
            trainer.test(
                task, data, ckpt_path=tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True, verbose=False
            )
            card, whole = ResultCard.read(tmp_path), len(data.opened["test"])
            assert (card.selection is not None) is chosen and card.best_step == (3 if chosen else 5)
            assert card.steps == card.updates == 5
            assert card.corpus["utterances"] == (whole if limit is None else len(task.tested)) and len(task.tested) > 0
            assert (card.corpus["split"] == "test") is (limit is None) and (len(task.tested) < whole) is (limit == 1)
            assert card.corpus["seconds"] == pytest.approx(card.corpus["utterances"] * 1.0)


def test_the_checkpoint_of_a_validation_holds_what_it_fitted(tiny, tmp_path):
    best = ModelCheckpoint(tmp_path / "best", filename="best", monitor="valid/accuracy", mode="max", save_top_k=-1)
    best.save_on_train_epoch_end = best._save_on_train_epoch_end = False
    fit(Threshold(Fbank(), 1e-2), tiny / "ks", tmp_path, 2, **VALIDATED, callbacks=[best])
    state = torch.load(tmp_path / "best" / "best.ckpt", weights_only=True)
    assert state["task"]["fitted"]["threshold"] == 2.5


def test_no_test_split_is_fitted_on(tiny, tmp_path):
    class OnTest(Threshold):
        def selection_split(self, valid, test):
            return test

    task = OnTest(Fbank(), 1e-2)
    fit(task, tiny / "ks", tmp_path, 2, **VALIDATED)
    assert task.calls == 0 and task.fitted == {}


@pytest.mark.parametrize("value", [torch.ones(1), float("nan")])
def test_values_that_no_card_holds_are_refused(tiny, tmp_path, value):
    class Wrong(KeywordSpotting):
        def fit_on_validation(self, metric):
            return {"threshold": value}

    with pytest.raises(UserError, match="KS: fit_on_validation gives values that a card cannot hold"):
        fit(Wrong(Fbank()), tiny / "ks", tmp_path, 2, **VALIDATED)


@pytest.mark.parametrize("protocol", ["superb", "fixed"])
def test_an_old_checkpoint_of_diarization_keeps_its_setting(tiny, tmp_path, protocol):
    """It was a buffer among the weights; of a run alone, and of one of several heads."""

    def head():
        return SpeakerDiarization(Fbank(), hidden=4, protocol=protocol)

    for name, task in (("one", head()), ("several", ManyHeads({"a": head()}))):
        fit(task, tiny / "sd", tmp_path / name, 1)
        path = tmp_path / name / "checkpoints" / "best.ckpt"
        old = torch.load(path, weights_only=True)
        old["state_dict"]["setting" if name == "one" else "heads.0.setting"] = torch.tensor(3)
        for facts in [old["task"]] if name == "one" else [old["heads"]["a"]["task"]]:
            del facts["fitted"], facts["started"]
        torch.save(old, path)
        again = head() if name == "one" else ManyHeads({"a": head()})
        fit(again, tiny / "sd", tmp_path / name, 2, path)
        (loaded,) = again.heads().values()
        assert loaded.setting == (SETTINGS[3] if protocol == "fixed" else (0.5, 11))
        assert not any("setting" in key for key in kept(tmp_path / name)["state_dict"])


# Weights that Lightning averages.


@pytest.mark.filterwarnings("ignore:You're using the WeightAveraging")
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.slow
def test_lightnings_average_is_tested_and_resumed_exactly(tiny, tmp_path, frozen):
    def head(seed: int = 0) -> KeywordSpotting:
        return KeywordSpotting(WavLMUpstream("tiny", seed=seed, frozen=frozen), 1e-3)

    def averaged(name, updates, path=None):
        fit(head(), tiny / "ks", tmp_path / name, updates, path, callbacks=[EMAWeightAveraging(decay=0.5)])
        return kept(tmp_path / name)

    whole = averaged("whole", 4)
    averaged("parts", 2)
    parts = averaged("parts", 4, tmp_path / "parts" / "checkpoints" / "best.ckpt")
    for part in ("state_dict", "current_model_state"):
        assert same(parts[part], whole[part])
        assert frozen is not any(name.startswith("upstream.") for name in whole[part])
    assert not same(whole["state_dict"], whole["current_model_state"])
    fresh = head()
    path = tmp_path / "whole" / "checkpoints" / "best.ckpt"
    quiet_trainer().test(fresh, TaskData(str(tiny / "ks")), ckpt_path=path, weights_only=True, verbose=False)
    assert same(fresh.state_dict(), whole["state_dict"])
    started = fit(
        KeywordSpotting(fresh.upstream, 1e-3, start_from=str(path)), tiny / "ks", tmp_path / "second", 1
    ).state
    assert same(started, whole["state_dict"])


def test_a_card_without_the_new_fields_reads(tiny, tmp_path, stage_one):
    trainer = quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test")])
    path = stage_one / "checkpoints" / "best.ckpt"
    trainer.test(ks(), TaskData(str(tiny / "ks")), ckpt_path=path, weights_only=True, verbose=False)
    content = json.loads((tmp_path / "card.json").read_text())
    for name in ("fitted", "started", "averaged"):
        assert not content.pop(name)
    (tmp_path / "card.json").write_text(json.dumps(content))
    assert ResultCard.read(tmp_path).fitted == {}


def test_a_key_that_names_a_run_whose_encoder_is_gone_says_so(tiny, tmp_path):
    fit(ks(), tiny / "ks", tmp_path)
    upstream = {"class_path": "wavlm_lightning.upstreams.WavLMUpstream", "init_args": {"source": "runs/away"}}
    model = {"class_path": "wavlm_lightning.tasks.KeywordSpotting", "init_args": {"upstream": upstream}}
    model["init_args"]["learning_rate"] = 0.01
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model": model}))
    with pytest.raises(UserError) as error:
        run_of_key("model.embeddings", tmp_path)
    assert str(error.value).startswith(f"model.embeddings {tmp_path}: runs/away: no such file or folder")
