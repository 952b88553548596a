"""`wavlm test RUN` and `validate RUN`: the figures of the long form, from a folder that has moved; the last lines on screen."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
import yaml
from same_runs import options

from wavlm_lightning.cli import main
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system import command
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.fit.closing import result_line
from wavlm_lightning.workflows.fit.run_source import check_surroundings, folder_of_figures, options_of_run


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory) -> Path:
    """A KS head on FBANK that was trained and tested by all its options."""
    folder = tmp_path_factory.mktemp("source") / "ks"
    words = [*options(tiny, "ks", "--data.cache", "null"), "--trainer.default_root_dir", str(folder)]
    assert main(["fit", *words]) == 0
    assert main(["test", *words, "--ckpt_path", "best"]) == 0
    return folder


def facts(folder: Path) -> dict:
    card = json.loads((folder / "card.json").read_text())
    return {name: value for name, value in card.items() if name not in ("command", "created", "runtime_seconds")}


def test_the_short_form_gives_the_card_of_the_long_one(run, tmp_path, capsys):
    wanted = facts(run)
    moved = tmp_path / "another name"
    shutil.copytree(run, moved)
    (moved / "card.json").unlink()
    capsys.readouterr()
    assert main(["test", str(moved)]) == 0
    assert facts(moved) == wanted
    printed = capsys.readouterr()
    card = ResultCard.read(moved)
    assert card.command == shlex.join(["wavlm", "test", str(moved)])
    last = printed.out.strip().splitlines()[-1]
    assert card.interval is not None
    ends = f"{card.interval['low']:.2f} to {card.interval['high']:.2f}"
    assert last == f"KS: accuracy {card.value:.2f} % (95 %: {ends}), in {moved / 'card.json'}"
    assert printed.err.strip().splitlines()[-1] == f"next: wavlm report '{moved}' -o '{moved / 'report'}'"


def test_a_checkpoint_and_another_folder_for_the_card(run, tmp_path):
    """The weights are those of the run that is named, wherever its card goes, and whatever folder a YAML names."""
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"trainer": {"default_root_dir": str(tmp_path / "of the yaml")}}))
    last = run / "checkpoints" / "last.ckpt"
    words, source = options_of_run(["test", str(last), "-c", str(other)])
    assert source == run and words[-4:] == ["--trainer.default_root_dir", str(run), "--ckpt_path", str(last)]
    elsewhere = tmp_path / "elsewhere"
    assert main(["test", str(run), "--trainer.default_root_dir", str(elsewhere), "--ckpt_path", "last"]) == 0
    assert json.loads((elsewhere / "card.json").read_text())["steps"] == 6
    before = (run / "card.json").read_bytes()
    assert main(["validate", str(run), "-c", str(other)]) == 0
    assert (run / "card.json").read_bytes() == before and not (tmp_path / "of the yaml").exists()


def test_figures_of_other_data_leave_those_of_the_run(run, tiny, tmp_path, capsys):
    """They have a folder in that of the run, also in the long form, and every file of the run's own test stays."""
    own = tmp_path / "ks"
    shutil.copytree(run, own)
    before = {path: path.read_bytes() for path in own.rglob("*") if path.is_file()}
    for words in (
        [str(own)],
        ["-c", str(own / "config.yaml"), "--trainer.default_root_dir", str(own), "--ckpt_path=best"],
    ):
        capsys.readouterr()
        assert main(["test", *words, "--data.test_split", "valid"]) == 0
        said = capsys.readouterr()
        assert f"in {own}/test-valid/card.json" in said.out and "the figures go to a folder test-valid" in said.err
        assert said.err.strip().endswith(f"next: wavlm report {own}/test-valid -o {own}/test-valid/report")
        assert ResultCard.read(own / "test-valid").corpus["split"] == "valid"
        assert {path: path.read_bytes() for path in before} == before
        shutil.rmtree(own / "test-valid")
    assert (
        main(["test", str(own), "--trainer.default_root_dir", str(tmp_path / "there"), "--data.test_split=valid"]) == 0
    )
    assert (tmp_path / "there" / "card.json").is_file() and set(own.rglob("*")) >= before.keys()


def test_where_figures_go(run, tiny, tmp_path):
    """A corpus that has moved is no other one; one of another content is, whatever its name."""
    content = yaml.safe_load((run / "config.yaml").read_text())

    def place(data: dict, **trainer) -> str:
        changed = {**content["data"], "init_args": {**content["data"]["init_args"], **data}}
        return folder_of_figures(run, {**content, "data": changed, "trainer": {**content["trainer"], **trainer}})

    def weights(path: object) -> str:
        return folder_of_figures(run, {**content, "ckpt_path": str(path)})

    shutil.copytree(tiny / "ks", tmp_path / "ks")
    assert place({}) == place({"corpus": str(tmp_path / "ks")}) == place({"num_workers": 3}, devices=2) == ""
    assert place({"corpus": "not/there"}) == place({"eval_transforms": []}, limit_test_batches=1.0) == ""
    assert place({"test_split": "valid"}, limit_test_batches=1) == "test-valid-batches-1"
    body = json.loads((tmp_path / "ks" / "corpus.json").read_text())
    body["splits"]["test"], body["splits"]["valid"] = body["splits"]["valid"], body["splits"]["test"]
    (tmp_path / "ks" / "corpus.json").write_text(json.dumps(body))
    other, noisy = place({"corpus": str(tmp_path / "ks")}), place({"eval_transforms": [{"class_path": "AddNoise"}]})
    assert other.startswith("test-ks-") and noisy.startswith("test-transformed-")
    assert folder_of_figures(tmp_path / "new", content) == ""
    assert weights("best") == weights(run / "checkpoints" / "best.ckpt") == ""
    assert weights("last") == weights(run / "checkpoints" / "last.ckpt") == "test-last"
    assert weights(tmp_path / "last.ckpt").startswith("test-last-")


def test_all_heads_of_a_run_with_a_list(tiny, tmp_path, capsys):
    words = [*options(tiny, "ks", "--data.cache", "null"), "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main(["fit", *words, "--model.learning_rate", "[1e-2, 1e-3]"]) == 0
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-2].startswith(f"run: {tmp_path / 'run'}, 6 updates, best accuracy on validation: learning-rate-0.01 ")
    assert said[-1] == f"next: wavlm test {tmp_path / 'run'}"
    (tmp_path / "run").rename(tmp_path / "moved")
    assert main(["test", str(tmp_path / "moved")]) == 0
    labels = ["learning-rate-0.01", "learning-rate-0.001"]
    cards = {label: facts(tmp_path / "moved" / label) for label in labels}
    assert [cards[label]["learning_rate"] for label in labels] == [1e-2, 1e-3]
    assert len([line for line in capsys.readouterr().out.splitlines() if line.startswith("KS: accuracy")]) == 2
    assert main(["test", str(tmp_path / "moved"), "--data.test_split", "valid"]) == 0
    for label in labels:  # inside the folder of each head, so that reports take them for further tests
        assert facts(tmp_path / "moved" / label / "test-valid")["corpus"]["split"] == "valid"
        assert facts(tmp_path / "moved" / label) == cards[label]
    assert main(["test", str(tmp_path / "moved" / labels[1])]) == 0
    assert facts(tmp_path / "moved" / labels[1]) == cards[labels[1]]


def test_what_is_pre_trained_has_no_test(tiny, tmp_path, capsys):
    folder = tmp_path / "encoder"
    words = [
        "-c",
        "configs/pretrain/tiny_waveform.yaml",
        "--data.corpus",
        str(tiny / "pretrain"),
        "--data.labels",
        "mfcc100",
    ]
    words += ["--data.batch_seconds", "5", "--trainer.max_steps", "1", "--trainer.val_check_interval", "1"]
    words += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(folder)]
    assert main(["fit", *words]) == 0
    said = capsys.readouterr().err.strip().splitlines()
    assert said[-2].startswith(f"run: {folder}, 1 updates, best valid/loss ") and "valid/masked_accuracy" in said[-2]
    assert said[-1] == f"next: wavlm superb {folder} --data mini --output {folder}-superb"
    assert main(["test", str(folder)]) == 2
    assert f"WavLMPretraining has no test; `wavlm validate {folder}` gives its loss" in capsys.readouterr().err
    assert main(["validate", str(folder)]) == 0


def test_what_is_no_run_is_named(run, tmp_path, capsys):
    for place in ("ks-base", "pr/fbank"):
        (tmp_path / "superb" / place).mkdir(parents=True)
        (tmp_path / "superb" / place / "config.yaml").touch()
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "config.json").write_text("{}")
    (tmp_path / "qbe").mkdir()
    (tmp_path / "qbe" / "card.json").write_text(json.dumps({"command": "wavlm test -c qbe.yaml"}))
    (tmp_path / "empty").mkdir()
    for words, said in {
        ("test", "superb"): "name one of them: {0}/superb/ks-base, {0}/superb/pr/fbank",
        ("validate", "head"): "does not say on which corpus to validate",
        ("test", "qbe"): "nothing was trained there; repeat its command: wavlm test -c qbe.yaml",
        ("test", "empty"): "no config.yaml here",
        ("test", "emty"): "no such run folder; did you mean 'empty'?",
        ("test", "some.yaml"): "write `wavlm test -c {0}/some.yaml`",
        ("fit", "superb/ks-base"): "it goes on with `wavlm fit -c {0}/superb/ks-base/config.yaml",
        ("fit", "some.yaml"): "`wavlm fit -c {0}/some.yaml`",
        ("fit", "empty"): "`wavlm fit` takes a configuration",
    }.items():
        assert main([words[0], str(tmp_path / words[1])]) == 2
        assert said.format(tmp_path) in capsys.readouterr().err, words
    assert main(["test", "--trainer.accelerator", "cpu", str(run)]) == 2
    assert "a run folder comes first, as in `wavlm test RUN --trainer.accelerator cpu`" in capsys.readouterr().err


def test_the_sentence_on_going_on_holds(run, tmp_path, capsys):
    """`wavlm fit RUN` prints a command; that command goes on with the run."""
    shutil.copytree(run, tmp_path / "run")
    assert main(["fit", str(tmp_path / "run")]) == 2
    printed = capsys.readouterr().err.split("`")[3]
    words = shlex.split(printed.replace("max_steps N", "max_steps 8"))
    assert main(words[1:]) == 0
    assert "8 updates" in capsys.readouterr().err.splitlines()[-2]


def test_a_corpus_that_has_moved(run, tiny, tmp_path, capsys, monkeypatch):
    content = yaml.safe_load((run / "config.yaml").read_text())
    content["data"]["init_args"]["corpus"] = "data/ks"
    content["trainer"]["default_root_dir"] = "runs/ks"
    shutil.copytree(run, tmp_path / "runs" / "ks")
    (tmp_path / "runs" / "ks" / "config.yaml").write_text(yaml.safe_dump(content))
    place = tmp_path / "runs" / "ks"
    assert main(["test", str(place)]) == 2
    said = capsys.readouterr().err
    assert (
        f"its corpus data/ks is not there (the run was started in {tmp_path}," in said and "--data.corpus DIR" in said
    )
    assert main(["test", str(place), "--data.corpus", str(tiny / "ks")]) == 0
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "ks").symlink_to(tiny / "ks")
    assert main(["test", "runs/ks"]) == 0
    assert facts(place)["metrics"] == facts(run)["metrics"]


def test_an_encoder_or_a_device_that_is_not_here(tmp_path, monkeypatch):
    inner, trainer = {"source": "runs/gone"}, {"accelerator": "auto"}
    upstream = {"class_path": "ChosenLayers", "init_args": {"upstream": {"init_args": inner}}}
    config = {"model": {"init_args": {"upstream": upstream}}, "trainer": trainer}
    with pytest.raises(UserError, match=r"its encoder runs/gone is not there; give --model.upstream.source PATH"):
        check_surroundings(tmp_path, config)
    for source in ("base", "hf:a/b", "s3://bucket/encoder"):
        inner["source"] = source
        check_surroundings(tmp_path, config)
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    trainer["accelerator"] = "cuda"
    with pytest.raises(UserError, match=r"give --trainer\.accelerator auto"):
        check_surroundings(tmp_path, config)


def test_without_a_best_checkpoint(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "best.ckpt").unlink()
    assert main(["test", str(tmp_path / "run")]) == 2
    assert "no such checkpoint; give --ckpt_path last, which is there" in capsys.readouterr().err


def test_an_interval_is_said_behind_its_figure(run):
    card = ResultCard.read(run)
    card.interval = {"low": 3.25, "high": 41.5, "level": 0.95}  # type: ignore[attr-defined, typeddict-item, unused-ignore]
    said = result_line(card, Path("runs/ks/card.json"))
    assert said == f"KS: accuracy {card.value:.2f} % (95 %: 3.25 to 41.50), in runs/ks/card.json"


def test_a_command_is_begun_as_this_one_was(monkeypatch):
    monkeypatch.setattr("sys.orig_argv", ["/opt/env/bin/python", "-P", "-m", "wavlm_lightning", "test", "a run"])
    assert command.as_called("report", Path("a run")) == "/opt/env/bin/python -P -m wavlm_lightning report 'a run'"
    monkeypatch.setattr("sys.orig_argv", ["/opt/env/bin/python", "/opt/env/bin/wavlm", "test"])
    monkeypatch.setattr("sys.argv", ["/opt/env/bin/wavlm", "test"])
    monkeypatch.setenv("PATH", "")
    assert command.as_called("doctor") == "/opt/env/bin/wavlm doctor"


def test_a_stage_of_another_command_gives_no_advice(run, capsys, monkeypatch):
    monkeypatch.setenv(command.INSIDE, "1")
    assert main(["test", str(run)]) == 0
    assert "next:" not in capsys.readouterr().err
