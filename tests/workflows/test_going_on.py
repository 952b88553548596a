"""Going on with a run (`--ckpt_path`): what decides on the weights stays, another value is refused by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from quiet import quiet_trainer

from wavlm_lightning.callbacks.checkpoints import Newest
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, TaskData
from wavlm_lightning.training.schedules import Schedule
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.fit import fit
from wavlm_lightning.workflows.fit import test as score
from wavlm_lightning.workflows.fit.command_line import _is_of
from wavlm_lightning.workflows.fit.going_on import MAY_CHANGE, check_going_on

QUICK = [
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.precision", "32-true", "--threads", "1"),
    *("--trainer.enable_progress_bar", "false", "--trainer.num_sanity_val_steps", "0"),
]


def ks(tiny: Path, run: Path) -> list[str]:
    words = ["-c", "configs/superb/mini/ks.yaml", "--model.upstream", "Fbank", "--data.corpus", str(tiny / "ks")]
    words += ["--data.cache", "null", "--data.batch_size", "8", *QUICK, "--trainer.val_check_interval", "2"]
    return [*words, "--trainer.default_root_dir", str(run)]


def pretraining(tiny: Path, run: Path) -> list[str]:
    words = [
        "-c",
        "configs/pretrain/tiny_waveform.yaml",
        "--data.corpus",
        str(tiny / "pretrain"),
        "--data.batch_seconds",
        "4",
    ]
    words += ["--model.encoder_overrides.layers", "1", "--trainer.limit_val_batches", "1", *QUICK]
    return [*words, "--trainer.val_check_interval", "2", "--trainer.default_root_dir", str(run)]


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Options and folders of a head and of an encoder, two updates long."""
    root = tmp_path_factory.mktemp("runs")
    made = {"head": ks(tiny, root / "head"), "encoder": pretraining(tiny, root / "encoder")}
    for words in made.values():
        fit(*words, "--trainer.max_steps", "2")
    return made, root


MOVE = {
    "class_path": "wavlm_lightning.callbacks.MoveValue",
    "init_args": {"name": "factor", "start": 0.0, "end": 1.0, "to_update": 9},
}
HEAD = [
    (["--model.learning_rate", "1e-6"], "model.learning_rate is 1e-06 here and 0.001 in"),
    (["--model.betas", "[0.8,0.9]"], "model.betas.0 is 0.8 here and 0.9 in"),
    (["--model.schedule.shape", "linear"], "model.schedule is {"),
    (["--model", "SpeakerIdentification"], "model.class_path is wavlm_lightning.tasks."),
    (["--model.upstream.cmvn", "false"], "model.upstream.cmvn is False here and True in"),
    (["--model.start_from", "elsewhere"], "model.start_from is elsewhere here and null in"),
    (["--seed_everything", "3"], "seed_everything is 3 here and 1337 in"),
    (["--trainer.precision", "bf16-mixed"], "trainer.precision is bf16-mixed here and 32-true in"),
    (["--trainer.callbacks", json.dumps([MOVE])], "trainer.callbacks is [{"),
    (["--data.batch_size", "4"], "data.batch_size is 4 here and 8 in"),
    (["--data.balance", "null"], "data.balance is null here and keyword in"),
]  # fmt: skip
ENCODER = [
    (["--model.masking.span", "4"], "model.masking.span is 4 here"),
    (["--model.voices.formants", "0.1"], "model.voices is {"),
    (["--model.encoder_overrides.dropout", "0.3"], "model.encoder_overrides.dropout is 0.3 here and not set in"),
    (["--data.max_seconds", "3"], "data.max_seconds is 3.0 here"),
]
# What differs from the cases above by its key alone is compared without parsing it.
COMPARED = [
    ("head", "model.init_args.weight_decay", 0.1, "model.weight_decay is 0.1 here and 0.0 in"),
    ("head", "model.init_args.eps", 1e-5, "model.eps is 1e-05 here"),
    ("head", "model.init_args.seed", 3, "model.seed is 3 here and 1337 in"),
    ("head", "model.init_args.hidden", 7, "model.hidden is 7 here and 256 in"),
    ("head", "trainer.gradient_clip_val", 9, "trainer.gradient_clip_val is 9 here and 1.0 in"),
    ("head", "trainer.accumulate_grad_batches", 2, "trainer.accumulate_grad_batches is 2 here and 1 in"),
    ("head", "data.init_args.gain_db", -3.0, "data.gain_db is -3.0 here and 0.0 in"),
    ("head", "data.init_args.seed", 3, "data.seed is 3 here and 1337 in"),
    ("head", "data.init_args.valid_split", "test", "data.valid_split is test here and valid in"),
    ("encoder", "model.init_args.learning_rate", 1e-6, "model.learning_rate is 1e-06 here"),
    ("encoder", "model.init_args.weight_decay", 0.0, "model.weight_decay is 0.0 here and 0.01 in"),
    ("encoder", "model.init_args.warmup", 0.5, "model.warmup is 0.5 here"),
    ("encoder", "model.init_args.seed", 9, "model.seed is 9 here and 0 in"),
    ("encoder", "data.init_args.min_seconds", 1.0, "data.min_seconds is 1.0 here"),
]


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [("head", *case) for case in HEAD] + [("encoder", *case) for case in ENCODER],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_what_decides_on_the_weights_is_refused_by_name(runs, kind, changed, said):
    made, root = runs
    before = (root / kind / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=re.escape(said)) as error:
        fit(*made[kind], "--trainer.max_steps", "4", *changed, "--ckpt_path", "last")
    assert "\n" not in str(error.value) and "without --ckpt_path" in str(error.value)
    assert (root / kind / "config.yaml").read_bytes() == before
    assert torch.load(root / kind / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 2


@pytest.mark.parametrize(("kind", "key", "value", "said"), COMPARED, ids=lambda value: str(value)[:40])
def test_every_other_value_that_decides_is_compared(runs, kind, key, value, said):
    _, root = runs
    before, asked = (yaml.safe_load((root / kind / "config.yaml").read_text()) for _ in range(2))
    check_going_on(asked, before, root / kind)
    *above, name = key.split(".")
    section = asked
    for each in above:
        section = section[each]
    assert name in section
    section[name] = value
    with pytest.raises(UserError, match=re.escape(said)):
        check_going_on(asked, before, root / kind)


def test_the_rest_may_change_and_is_used_and_recorded(tiny, runs, tmp_path, capsys):
    made, root = runs
    run = tmp_path / "head"
    shutil.copytree(root / "head", run)
    corpus = tmp_path / "moved"
    corpus.symlink_to(tiny / "ks")
    changed = ["--trainer.max_steps", "3", "--trainer.val_check_interval", "1", "--data.num_workers", "0"]
    changed += ["--data.corpus", str(corpus), "--trainer.log_every_n_steps", "1", "--checkpoint_every", "7"]
    changed += ["--data.cache", str(tmp_path / "cache"), "--data.eval_batch_seconds", "20"]
    fit(*made["head"], *changed, "--trainer.default_root_dir", str(run), "--ckpt_path", "last")
    content = yaml.safe_load((run / "config.yaml").read_text())
    assert content["trainer"]["max_steps"] == 3 and content["checkpoint_every"] == 7
    assert content["model"]["init_args"]["learning_rate"] == 1e-3
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 3 and state["optimizer_states"][0]["param_groups"][0]["lr"] == 1e-3
    assert "follows trainer.max_steps" not in capsys.readouterr().err


def test_another_end_of_the_schedule_is_said(runs, tmp_path, capsys):
    made, root = runs
    run = tmp_path / "encoder"
    shutil.copytree(root / "encoder", run)
    words = [*made["encoder"], "--trainer.default_root_dir", str(run), "--ckpt_path", "last"]
    fit(*words, "--trainer.max_steps", "3")
    assert "the learning rate follows trainer.max_steps, which is 3 and was 2" in capsys.readouterr().err


def test_several_heads_keep_their_lists(tiny, tmp_path):
    words = [*ks(tiny, tmp_path / "run"), "--trainer.max_steps", "2"]
    fit(*words, "--model.learning_rate", "[1e-2,1e-3]")
    again = [*words, "--trainer.max_steps", "3", "--ckpt_path", "last"]
    with pytest.raises(UserError, match=re.escape("model.learning_rate.1 is 0.0001 here and 0.001 in")):
        fit(*again, "--model.learning_rate", "[1e-2,1e-4]")
    with pytest.raises(UserError, match=re.escape("model.learning_rate is 0.01 here and [0.01, 0.001] in")):
        fit(*again, "--model.learning_rate", "1e-2")
    fit(*again, "--model.learning_rate", "[1e-2,1e-3]")


def test_start_from_is_kept_in_the_record(tiny, runs, tmp_path):
    made, root = runs
    words = [*made["head"], "--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_steps"]
    fit(*words, "2", "--model.start_from", str(root / "head"))
    fit(*words, "3", "--ckpt_path", "last")
    recorded = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["model"]["init_args"]
    assert recorded["start_from"] == str(root / "head")


def test_a_moved_run_keeps_its_best_checkpoint(runs, tmp_path):
    made, root = runs
    run = tmp_path / "head"
    shutil.copytree(root / "head", run)
    newest = run / "checkpoints" / "last.ckpt"
    content = torch.load(newest, weights_only=True)
    (chosen,) = (state for key, state in content["callbacks"].items() if key.startswith("ModelCheckpoint{"))
    chosen["best_k_models"] = {path: torch.tensor(2.0) for path in chosen["best_k_models"]}  # which nothing can beat
    torch.save(content, newest)
    words = [*made["head"], "--trainer.default_root_dir", str(run), "--trainer.val_check_interval", "1"]
    fit(*words, "--trainer.max_steps", "3", "--ckpt_path", "last")
    assert torch.load(newest, weights_only=True)["global_step"] == 3
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 2


def test_a_branch_that_ends_before_its_first_validation_has_a_best_checkpoint(runs, tmp_path):
    made, root = runs
    words = [*made["head"], "--trainer.default_root_dir", str(tmp_path / "branch"), "--trainer.val_check_interval", "9"]
    fit(*words, "--trainer.max_steps", "3", "--ckpt_path", str(root / "head" / "checkpoints" / "last.ckpt"))
    assert torch.load(tmp_path / "branch" / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] == 3


@pytest.mark.parametrize("of", ["head", "label"])  # the folder itself, or that of one of several heads in it
def test_a_checkpoint_of_another_run_does_not_overwrite_a_run(tiny, runs, tmp_path, of):
    made, root = runs
    run = tmp_path / "other"
    held = run if of == "head" else run / "learning-rate-0.01"
    shutil.copytree(root / "head" / "checkpoints", held / "checkpoints")
    there = (held / "checkpoints" / "best.ckpt").read_bytes()
    words = [*made["head"], "--trainer.default_root_dir", str(run), "--trainer.max_steps", "4"]
    if of == "label":
        words += ["--model.learning_rate", "[1e-2,1e-3]"]
    with pytest.raises(UserError, match=rf"{held.name} already holds a run"):
        fit(*words, "--ckpt_path", str(root / "head" / "checkpoints" / "last.ckpt"))
    assert (held / "checkpoints" / "best.ckpt").read_bytes() == there and not (run / "config.yaml").exists()


def test_which_checkpoints_are_of_a_run(tmp_path):
    run, disk = tmp_path / "run", tmp_path / "disk"
    kept = run / "curves" / "version_0" / "checkpoints"
    for folder in (kept, run / "inner" / "checkpoints", disk / "checkpoints"):
        folder.mkdir(parents=True)
    for folder in (run, run / "inner"):
        (folder / "config.yaml").touch()
    (run / "checkpoints").symlink_to(disk / "checkpoints")
    (tmp_path / "link").symlink_to(run)
    own = ["last", "best", run / "hpc_ckpt_1.ckpt", run / "checkpoints" / "update-5.ckpt", kept / "5.ckpt"]
    own += [tmp_path / "link" / "checkpoints" / "last.ckpt", disk / "checkpoints" / "last.ckpt"]
    others = [run / "inner" / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "last.ckpt", disk / "last.ckpt"]
    for folder in (run, tmp_path / "link"):
        assert [_is_of(str(path), folder) for path in [*own, *others]] == [True] * len(own) + [False] * len(others)


def slurm(monkeypatch, **further: str) -> None:
    place = {"SLURM_NTASKS": "1", "SLURM_NNODES": "1", "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "fit", **further}
    for name, value in {**place, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}.items():
        monkeypatch.setenv(name, value)


def test_a_requeued_job_that_began_from_another_run_goes_on_with_its_own(tiny, runs, tmp_path, monkeypatch):
    run = tmp_path / "branch"
    shutil.copytree(runs[1] / "head", run)
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "hpc_ckpt_1.ckpt")
    slurm(monkeypatch)
    words = [*ks(tiny, run), "--trainer.max_steps", "3", "--ckpt_path", str(runs[1] / "head/checkpoints/best.ckpt")]
    with pytest.raises(UserError, match="already holds a run"):  # a new job
        fit(*words)
    slurm(monkeypatch, SLURM_RESTART_COUNT="1")
    fit(*words)
    assert yaml.safe_load((run / "config.yaml").read_text())["ckpt_path"] == str(run / "hpc_ckpt_1.ckpt")


def test_a_requeued_job_of_slurm_is_compared_too(tiny, runs, tmp_path, monkeypatch):
    """Lightning goes on from its own `hpc_ckpt_1.ckpt` without a `--ckpt_path`."""
    run = tmp_path / "head"
    shutil.copytree(runs[1] / "head", run)
    (run / "checkpoints" / "last.ckpt").rename(run / "hpc_ckpt_1.ckpt")
    shutil.rmtree(run / "checkpoints")
    slurm(monkeypatch)
    with pytest.raises(UserError, match=r"model\.learning_rate is 1e-06 here and 0\.001 in"):
        fit(*ks(tiny, run), "--trainer.max_steps", "4", "--model.learning_rate", "1e-6")
    fit(*ks(tiny, run), "--trainer.max_steps", "4")
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
    fit(*ks(tiny, run), "--trainer.max_steps", "5")  # from `last.ckpt`, which is newer
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 5
    resumed = yaml.safe_load((run / "config.yaml").read_text())
    assert resumed["ckpt_path"].endswith("last.ckpt")


def test_without_a_record_the_checkpoint_is_compared(runs, tmp_path, capsys):
    made, root = runs
    for kind in ("head", "encoder"):
        run = tmp_path / kind
        shutil.copytree(root / kind, run)
        (run / "config.yaml").unlink()
        words = [*made[kind], "--trainer.default_root_dir", str(run), "--trainer.max_steps", "4", "--ckpt_path", "last"]
        with pytest.raises(UserError, match=r"model.learning_rate is 1e-06 here and .* in the checkpoint"):
            fit(*words, "--model.learning_rate", "1e-6")
        assert "config.yaml is missing or not readable" in capsys.readouterr().err
        assert not (run / "config.yaml").exists()  # options that are refused are not recorded
        with pytest.raises(UserError, match=r"seed .*is 77 here and .* in the checkpoint"):
            fit(*words, "--model.seed", "77")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"learning_rate": 1e-5}, "model.learning_rate is 1e-05 here and 0.01 in the checkpoint"),
        ({"weight_decay": 0.1}, "model.weight_decay is 0.1 here and 0.0 in the checkpoint"),
        ({"betas": (0.5, 0.9)}, "model.betas is"),
        ({"eps": 1e-4}, "model.eps is 0.0001 here"),
        ({"schedule": Schedule("linear")}, "this run has a learning-rate schedule, the checkpoint another"),
        ({"seed": 5}, "the seed of KS is 5 here and 1337 in the checkpoint"),
    ],
)
def test_from_python_the_optimiser_is_compared(tiny, tmp_path, changed, said):
    data = {"corpus": str(tiny / "ks"), "batch_size": 8}

    def train(steps: int, path: Path | None = None, **settings) -> None:
        head = KeywordSpotting(Fbank(), **{"learning_rate": 1e-2, **settings})
        trainer = quiet_trainer(max_steps=steps, limit_val_batches=0, callbacks=[Newest(tmp_path, every=100)])
        trainer.fit(head, TaskData(**data), ckpt_path=path, weights_only=True)

    train(1)
    with pytest.raises(UserError, match=re.escape(said)):
        train(2, tmp_path / "last.ckpt", **changed)
    train(2, tmp_path / "last.ckpt")


def damaged(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "flipped":
        place = len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
    elif how == "text":
        path.write_text("not a checkpoint")
    else:
        state = torch.load(path, weights_only=True)
        if how == "infinite":
            state["state_dict"]["classifier.weight"][0, 0] = float("inf")
        elif how == "weights alone":
            del state["optimizer_states"]
        torch.save(state if how != "foreign" else {"model": {}}, path)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("cut", "last.ckpt is not a readable PyTorch file"),
        ("flipped", "last.ckpt was damaged after it had been written"),
        ("text", "last.ckpt"),
        ("infinite", "1 of .* values of classifier.weight are NaN or infinite"),
        ("foreign", "last.ckpt is not the checkpoint of a run"),
        ("weights alone", "holds weights and no optimiser"),
    ],
)
def test_a_damaged_checkpoint_is_one_sentence(runs, tmp_path, how, said):
    made, root = runs
    run = tmp_path / "head"
    shutil.copytree(root / "head", run)
    damaged(run / "checkpoints" / "last.ckpt", how)
    words = [*made["head"], "--trainer.default_root_dir", str(run), "--ckpt_path", "last"]
    with pytest.raises(UserError, match=said) as error:
        fit(*words, "--trainer.max_steps", "4")
    assert "\n" not in str(error.value)
    if how != "weights alone":  # a test needs no optimiser
        with pytest.raises(UserError, match=said):
            score(*words)


def test_the_docs_say_what_may_change():
    text = Path("docs/stages.md").read_text()
    table = text[text.index("| may change |") :].split("\n\n")[0]
    rows = {cells[1].strip(): cells[2] for cells in (line.split("|") for line in table.splitlines()[2:])}
    assert list(rows) == list(MAY_CHANGE)
    for what, patterns in MAY_CHANGE.items():
        named = re.findall(r"`([^`]+)`", rows[what])
        assert named == list(patterns), what


def test_what_one_version_lacks_is_not_compared():
    before = {"model": {"class_path": "A", "init_args": {"rate": 1, "gone": 2}}, "trainer": {"precision": 32}}
    asked = {"model": {"class_path": "A", "init_args": {"rate": 1, "new": 3}}, "trainer": {"precision": "32-true"}}
    check_going_on(asked, before, Path("run"))
    with pytest.raises(UserError, match=r"model.rate is 2 here and 1 in run"):
        check_going_on({**asked, "model": {"class_path": "A", "init_args": {"rate": 2}}}, before, Path("run"))


@pytest.mark.parametrize(
    "asked",
    [
        {"masking": {"probability": 0.65, "span": 10, "lengths": "uniform"}},
        {"masking": {"probability": 0.65, "span": 10, "share": 0.5}},
        {"muon": {"learning_rate": None}},
        {"copies": {"copies": 4}},
    ],
)
def test_an_option_that_is_newer_than_the_run_had_its_default(asked):
    before = {"encoder": "tiny", "masking": {"probability": 0.65, "span": 10}, "encoder_overrides": None}
    now = {**before, "masking": {**before["masking"], "lengths": "fixed", "share": None}, "muon": None, "copies": None}

    def of(arguments):
        return {"model": {"class_path": "wavlm_lightning.pretraining.WavLMPretraining", "init_args": arguments}}

    check_going_on(of(now), of(before), Path("run"))
    with pytest.raises(UserError, match=rf"model\.{next(iter(asked))}"):
        check_going_on(of({**now, **asked}), of(before), Path("run"))
