"""Checkpoints where the disk is full, the kill came between two renamings, or the run folder was moved."""

from __future__ import annotations

import resource
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from quiet import quiet_trainer

from wavlm_lightning.callbacks.checkpoints import Newest, StopBetweenUpdates, WholeFiles, best, kept, with_whole_files
from wavlm_lightning.callbacks.joint_heads import BestOfHead
from wavlm_lightning.cli import main
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting
from wavlm_lightning.training.fsdp import FSDP2
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.recipe.stages import RecipeStage


@contextmanager
def little_room(size: int = 20_000) -> Iterator[None]:
    """No file may grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("numbers", [6_000, 600_000])  # the last bytes do not fit, or not even the first tensor
def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, numbers):
    path, files = tmp_path / "checkpoints" / "last.ckpt", WholeFiles()
    files.save_checkpoint({"weight": torch.ones(3)}, path)
    with (
        little_room(),
        pytest.raises(UserError, match=r"last.ckpt: not written \(File too large\), the previous one is complete"),
    ):
        files.save_checkpoint({"weight": torch.zeros(numbers)}, path)
    assert [each.name for each in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.equal(torch.load(path, weights_only=True)["weight"], torch.ones(3))


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="of the author"):
        WholeFiles().save_checkpoint({"weight": Broken()}, tmp_path / "last.ckpt")


class Broken:
    """Cannot be written."""

    def __reduce__(self):
        raise RuntimeError("of the author")


def fit(tiny: Path, folder: Path, *options: str) -> list[str]:
    words = [
        "fit",
        "-c",
        "configs/pretrain/tiny_waveform.yaml",
        "--data.corpus",
        str(tiny / "pretrain"),
        "--trainer.devices",
        "1",
    ]
    words += [
        "--trainer.default_root_dir",
        str(folder),
        "--trainer.accelerator",
        "cpu",
        "--trainer.precision",
        "32-true",
    ]
    words += ["--data.batch_seconds", "4", "--trainer.limit_val_batches", "0", "--model.encoder_overrides.layers", "1"]
    return [*words, *options]


@pytest.mark.parametrize("strategy", ["auto", "fsdp2"])
@pytest.mark.slow
def test_a_run_says_that_the_disk_is_full_and_goes_on(tiny, tmp_path, capsys, strategy):
    options = fit(tiny, tmp_path / "run", "--trainer.strategy", strategy, "--checkpoint_every", "1")
    assert main([*options, "--trainer.max_steps", "1"]) == 0
    capsys.readouterr()
    with little_room():
        assert main([*options, "--trainer.max_steps", "2", "--ckpt_path", "last"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        said.startswith("wavlm fit: ") and "last.ckpt: not written (" in said and "resume with --ckpt_path last" in said
    )
    assert main([*options, "--trainer.max_steps", "2", "--ckpt_path", "last"]) == 0


def test_what_is_not_a_tensor_finds_no_room(tmp_path, monkeypatch):
    """The last file of a sharded checkpoint, which the first process writes alone."""
    monkeypatch.setattr("lightning.pytorch.strategies.model_parallel._distributed_checkpoint_save", lambda *_: None)
    strategy = FSDP2()
    monkeypatch.setattr(FSDP2, "barrier", lambda *_: None)
    monkeypatch.setattr(FSDP2, "broadcast", lambda _, value: value)
    with little_room(), pytest.raises(UserError, match=r"last\.ckpt: not written"):
        strategy.save_checkpoint({"state_dict": {}, "loops": torch.zeros(600_000)}, tmp_path / "last.ckpt")
    assert not (tmp_path / "last.ckpt").exists()


def test_killed_between_two_renamings(tiny, tmp_path, capsys):
    """A sharded checkpoint makes room for the next one under another name; nothing is begun anew because of that."""
    folder = tmp_path / "run"
    options = fit(tiny, folder, "--trainer.strategy", "fsdp2")
    assert main([*options, "--trainer.max_steps", "1"]) == 0
    newest = folder / "checkpoints" / "last.ckpt"
    newest.rename(newest.with_name("last.ckpt.old"))
    assert RecipeStage("fit/tiny", "", ("fit",), run_folder=folder).words() == ["fit", "--ckpt_path", "last"]
    assert main([*options, "--trainer.max_steps", "2"]) == 2
    assert "already holds a run; resume it with --ckpt_path last" in capsys.readouterr().err
    newest.rename(newest.with_name("last.ckpt.old"))
    assert main([*options, "--trainer.max_steps", "2", "--ckpt_path", "last"]) == 0
    assert [each.name for each in newest.parent.iterdir()] == ["last.ckpt"]


def test_a_plugin_of_the_users_own_writes_instead(tmp_path):
    own = WholeFiles()
    assert with_whole_files(own) == [own] and with_whole_files([own]) == [own]
    assert isinstance(quiet_trainer(plugins=with_whole_files(None)).strategy.checkpoint_io, WholeFiles)


KEEPING: dict[str, tuple[Callable[[Path], ModelCheckpoint], list[str]]] = {
    "best": (lambda run: best(run / "checkpoints", "valid/loss", "min"), ["best.ckpt"]),
    "kept": (lambda run: kept(run / "checkpoints", 5, 2), ["update-5.ckpt", "update-10.ckpt"]),
    "newest": (lambda run: Newest(run / "checkpoints", 5), ["last.ckpt"]),
    "of a head": (lambda run: BestOfHead(run, "b", KeywordSpotting(Fbank())), ["best.ckpt"]),
}


@pytest.mark.parametrize("there", [True, False], ids=["moved", "branch"])
@pytest.mark.parametrize("kind", KEEPING)
def test_the_best_value_follows_the_folder(tmp_path, kind, there):
    """Lightning forgets it when the path changes, and the first validation then replaced the best file, whatever its value."""
    made, names = KEEPING[kind]
    before, after = made(tmp_path / "a"), made(tmp_path / "b")
    old, new = Path(str(before.dirpath)), Path(str(after.dirpath))
    scores = {name: torch.tensor(5.0 * number) for number, name in enumerate(names, start=1)}
    if before.monitor is not None:
        before.best_k_models = {str(old / name): score for name, score in scores.items()}
        before.kth_best_model_path, before.kth_value = str(old / names[0]), scores[names[0]]
        before.best_model_score = scores[names[-1]]
    before.best_model_path = str(old / names[-1])
    new.mkdir(parents=True)
    for name in names if there else []:
        (new / name).touch()
    after.setup(quiet_trainer(callbacks=[after]), BoringModel(), "validate")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        after.load_state_dict(before.state_dict())
    found = after.state_dict()
    if not there:
        empty = made(tmp_path / "b").state_dict()
        assert found == empty
        return
    known = {key.replace(str(old), str(new)): score for key, score in before.best_k_models.items()}
    assert found["best_k_models"] == known and found["best_model_path"] == str(new / names[-1])
    assert (found["best_model_score"], found["kth_value"]) == (before.best_model_score, before.kth_value)
    assert found["kth_best_model_path"] == before.kth_best_model_path.replace(str(old), str(new))


def test_checkpoints_of_older_versions_know_these_callbacks(tmp_path):
    own = best(tmp_path, "valid/loss", "min"), kept(tmp_path, 5, 2)
    plain = (
        ModelCheckpoint(tmp_path, monitor="valid/loss", mode="min"),
        ModelCheckpoint(tmp_path, monitor="step", mode="max", every_n_train_steps=5),
    )
    assert [each.state_key for each in own] == [each.state_key for each in plain]
    assert Newest(tmp_path, 5).state_key.startswith("Newest{")
    assert BestOfHead(tmp_path, "b", KeywordSpotting(Fbank())).state_key.startswith("BestOfHead{")


class Written:
    """The checkpoints that a run writes: name, updates, batches of the epoch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.all: list[tuple[str, int, int]] = []
        write = ModelCheckpoint._save_checkpoint

        def noted(callback: ModelCheckpoint, trainer: pl.Trainer, path: str) -> None:
            batches = trainer.fit_loop.epoch_loop.batch_progress.current.processed
            self.all.append((Path(path).stem, trainer.global_step, batches))
            write(callback, trainer, path)

        monkeypatch.setattr(ModelCheckpoint, "_save_checkpoint", noted)


def accumulating(folder: Path, steps: int, ckpt_path: Path | None = None, callbacks=(), every: int = 2) -> None:
    """Epochs of six batches, two to an update, and a validation after every third batch."""
    trainer = quiet_trainer(
        max_steps=steps,
        accumulate_grad_batches=every,
        limit_train_batches=6,
        limit_val_batches=1,
        val_check_interval=3,
        check_val_every_n_epoch=None,
        callbacks=[*callbacks, kept(folder, 1, 9), Newest(folder, 1)],
    )
    trainer.fit(BoringModel(), ckpt_path=ckpt_path, weights_only=True)


def test_no_checkpoint_is_of_the_middle_of_an_update(tmp_path, monkeypatch):
    """It would lack the gradients of the batches that it counts as heard: not at a validation, not where a run goes on."""
    written = Written(monkeypatch)
    accumulating(tmp_path, 4)
    accumulating(tmp_path, 5, tmp_path / "last.ckpt")
    assert {batches for _, _, batches in written.all} == {2, 4, 6}
    assert [(name, step) for name, step, _ in written.all if name.startswith("update")] == [
        (f"update-{step}", step) for step in range(1, 6)
    ]


@pytest.mark.parametrize("every", [1, 2])
def test_a_checkpoint_at_the_end_of_an_epoch_is_kept(tmp_path, every):
    accumulating(tmp_path, 7, every=every)
    assert sorted(path.name for path in tmp_path.glob("update-*")) == [f"update-{step}.ckpt" for step in range(1, 8)]
    if every == 1:  # a validation follows it, and is made up where a run goes on from here
        state = torch.load(tmp_path / "update-3.ckpt", weights_only=True)["callbacks"]
        assert next(value for key, value in state.items() if key.startswith("Newest"))["awaits_validation"]


class Asks(pl.Callback):
    """Presses Ctrl-C in the first validation, which is in the middle of an update."""

    def on_validation_batch_start(self, *_: object) -> None:
        if not getattr(self, "asked", False):
            self.asked = True
            signal.raise_signal(signal.SIGINT)


def test_a_stop_in_a_validation_in_the_middle_of_an_update_waits_for_it(tmp_path, monkeypatch):
    written = Written(monkeypatch)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(SystemExit):
            accumulating(tmp_path, 6, callbacks=[Asks(), StopBetweenUpdates()])
    finally:
        signal.signal(signal.SIGINT, before)
    assert written.all[-1] == ("last", 2, 4)
