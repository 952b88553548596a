"""`--also FILE`: further tasks on the corpus of the first; every task's folder is that of a run of its own."""

from __future__ import annotations

import json

import numpy as np
import pytest
import soundfile
import torch
import yaml
from same_runs import assert_same_run, options, same

from wavlm_lightning.cli import main
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.workflows.fit.joint_heads import AlsoTask, HeadLists, added_up

ASR = "configs/superb/mini/asr.yaml"


def shipped(task: str) -> dict:
    return yaml.safe_load((configs_folder() / "superb" / "mini" / f"{task}.yaml").read_text())


def written(path, content) -> str:
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_each_task_is_as_if_alone(tiny, tmp_path, capsys, cached):
    common = options(tiny, "pr", "--data.cache", str(tmp_path / "cache") if cached else "null")
    root = tmp_path / "run"
    place = ["--trainer.default_root_dir", str(root)]
    assert main(["fit", *common, "--also", ASR, *place]) == 0
    assert (
        "note: --also configs/superb/mini/asr.yaml: trainer.max_steps is 6 for all, not 800" in capsys.readouterr().err
    )
    assert main(["test", *common, "--also", ASR, *place, "--ckpt_path", "best"]) == 0
    assert "for all, not" not in capsys.readouterr().err
    assert main(["validate", *common, "--also", ASR, *place, "--ckpt_path", "best"]) == 0
    assert {path.name for path in root.iterdir()} == {"pr", "asr", "config.yaml", "checkpoints"}
    assert [path.name for path in (root / "checkpoints").iterdir()] == ["last.ckpt"]
    for task in ("pr", "asr"):
        # With its own `model` block, and the data and trainer of the first.
        config = written(tmp_path / f"{task}.yaml", {**shipped("pr"), "model": shipped(task)["model"]})
        alone = ["-c", config, *common[2:], "--trainer.default_root_dir", str(tmp_path / task)]
        assert main(["fit", *alone]) == 0
        assert main(["test", *alone, "--ckpt_path", "best"]) == 0
        assert_same_run(root / task, tmp_path / task)
        # A task's folder is a run: any command takes it.
        before = json.loads((root / task / "card.json").read_text())
        assert before["task"] == task.upper()
        assert main(["test", "-c", str(root / task / "config.yaml"), "--ckpt_path", "best"]) == 0
        after = json.loads((root / task / "card.json").read_text())
        assert after["metrics"] == before["metrics"] and after["created"] >= before["created"]
        assert after["command"] != before["command"]


@pytest.mark.slow
def test_the_root_configuration_lists_and_an_interrupted_run(tiny, tmp_path, capsys):
    """The `config.yaml` of the whole run needs no other file, and goes on where an interrupted one stopped."""
    asr = shipped("asr")
    asr["model"]["init_args"]["learning_rate"] = [1e-2, 1e-3]
    asr["model"]["init_args"]["dropout"] = 0.5
    file = written(tmp_path / "asr.yaml", asr)
    labels, ends = ["pr-seed-1", "pr-seed-2", "asr-learning-rate-0.01", "asr-learning-rate-0.001"], []
    for name, legs in {"once": [6], "twice": [3, 6]}.items():
        root = tmp_path / name
        arguments = options(tiny, "pr", "--data.cache", "null", "--model.seed", "[1, 2]", "--also", file)
        arguments += ["--trainer.default_root_dir", str(root)]
        for number, updates in enumerate(legs):
            if number:
                arguments = ["-c", str(root / "config.yaml"), "--ckpt_path", "last"]
            assert main(["fit", *arguments, "--trainer.max_steps", str(updates)]) == 0
        said = yaml.safe_load((root / "config.yaml").read_text())
        assert said["model"]["init_args"]["seed"] == [1, 2]
        (block,) = said["also"]
        assert block["init_args"]["learning_rate"] == [1e-2, 1e-3] and "upstream" not in block["init_args"]
        end = torch.load(root / "checkpoints" / "last.ckpt", weights_only=True)
        best = [torch.load(root / label / "checkpoints" / "best.ckpt", weights_only=True) for label in labels]
        ends.append([end["state_dict"], end["optimizer_states"], *(b["state_dict"] for b in best)])
        ends[-1] += [{**b["task"], "steps": None} for b in best]
    for one, other in zip(*ends, strict=True):
        assert same(one, other)
    assert main(["test", "-c", str(root / "config.yaml"), "--ckpt_path", "best"]) == 0
    for label in labels:
        assert json.loads((root / label / "card.json").read_text())["task"] == label.split("-")[0].upper()
        alone = yaml.safe_load((root / label / "config.yaml").read_text())
        assert alone["also"] is None and "upstream" in alone["model"]["init_args"]
    capsys.readouterr()
    plain = options(tiny, "pr", "--data.cache", "null", "--trainer.default_root_dir", str(root))
    for more, said in (
        (
            ["fit", *plain, "--also", ASR, "--ckpt_path", "last"],
            "without --ckpt_path and with another --trainer.default_root_dir",
        ),
        (["fit", *plain, "--also", file, "--model.seed", "[1, 2]"], "already holds a run"),
        (["predict", *plain, "--also", ASR, "--ckpt_path", "best"], "takes one head"),
    ):
        assert main(more) == 2
        assert said in capsys.readouterr().err


def test_a_task_from_beside_its_file(tiny, tmp_path, capsys):
    """Means of utterances, from a cache; a class of the user's own, which only the further file names."""
    (tmp_path / "pitch_head.py").write_text(
        "from wavlm_lightning.tasks import UtteranceClassification\n\n\n"
        "class Pitch(UtteranceClassification):\n"
        '    name, field, inventory = "Voice Pitch", "pitch_class", "pitch classes"\n\n'
        "    def read_labels(self, corpus):\n"
        '        return ["low", "mid", "high"]\n'
    )
    model = {"class_path": "pitch_head.Pitch", "init_args": {"hidden": 8}}
    file = written(tmp_path / "pitch.yaml", {"model": model})
    place = ["--trainer.default_root_dir", str(tmp_path / "run"), "--data.cache", str(tmp_path / "cache")]
    arguments = [*options(tiny, "ic", *place), f"--also={file}"]
    assert main(["fit", *arguments]) == 0
    assert main(["test", *arguments, "--ckpt_path", "best"]) == 0
    for folder, task in {"ic": "IC", "voice-pitch": "Voice Pitch"}.items():
        assert json.loads((tmp_path / "run" / folder / "card.json").read_text())["task"] == task
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.slow
def test_what_cannot_be_is_said_in_one_sentence(tiny, tmp_path, capsys):
    def file(name: str, content) -> str:
        return written(tmp_path / name, content)

    er, asr = shipped("er"), shipped("asr")
    wrong = file("wrong.yaml", {"model": {**asr["model"], "init_args": {"hiden": 3}}})
    encoder = yaml.safe_load((configs_folder() / "pretrain" / "tiny.yaml").read_text())
    broken = file("broken.yaml", "model: [")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00model")
    trained = ["--model.upstream=WavLMUpstream", "--model.upstream.source=tiny", "--model.upstream.frozen=false"]
    cases = (
        (["configs/superb/mini/ars.yaml"], "configs/superb/mini/ars.yaml: no such file; did you mean"),
        ([broken], "not readable as YAML"),
        ([str(tmp_path / "bytes.yaml")], "not text in UTF-8"),
        ([file("empty.yaml", "")], "not a mapping"),
        ([file("data.yaml", {"data": asr["data"]})], "has no `model`"),
        ([file("odd.yaml", {"model": {"init_args": {}}})], "has no class_path"),
        ([wrong], "Option 'hiden' is not accepted; did you mean 'hidden'?"),
        (
            [file("encoder.yaml", encoder)],
            "encoder.yaml: model: wavlm_lightning.pretraining.WavLMPretraining is not a subclass of Task",
        ),
        ([file("unknown.yaml", {"model": "SpeachRecognition"})], "did you mean 'SpeechRecognition'?"),
        (["configs/superb/mini/pr.yaml"], "the first task trains PR, too; lists of learning rates and seeds"),
        ([ASR, ASR], f"--also {ASR}: --also {ASR} trains ASR, too"),
        ([file("er.yaml", er)], "its data are FoldData, those of the first task TaskData"),
        (["configs/superb/mini/sid.yaml"], "cache: SID takes means over time and PR every frame"),
        (["configs/superb/mini/ic.yaml", "--data.cache", "null"], "no 'intents' labels"),
        (["configs/superb/mini/qbe.yaml"], "QbE: has no head that could share"),
        ([ASR, "--trainer.devices", "2"], "set trainer.devices: 1"),
        ([ASR, *trained], "model.upstream.frozen: false"),
        ([ASR, "--trainer.callbacks+=EarlyStopping", "--trainer.callbacks.monitor=valid/per"], "EarlyStopping"),
        ([ASR, "--model.learning_rate", "[]"], "must name at least one value"),
    )
    for number, (also, said) in enumerate(cases):
        named = [word for one in also[:2] if one.endswith(".yaml") for word in ("--also", one)]
        rest = also[len(named) // 2 :]
        place = ["--trainer.default_root_dir", str(tmp_path / f"run{number}"), "--data.cache", str(tmp_path / "cache")]
        assert main(["fit", *options(tiny, "pr", *place), *named, *rest]) == 2, also
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith("wavlm fit: ") and said in line, (line, said)
    pretraining = ["-c", "configs/pretrain/tiny_waveform.yaml", "--data.corpus", str(tiny / "pretrain"), "--also", ASR]
    assert main(["fit", *pretraining]) == 2
    assert f"--also {ASR}: that asks for several heads, but WavLMPretraining is not a task" in capsys.readouterr().err
    assert main(["fit", *options(tiny, "pr"), "--allso", ASR]) == 2
    assert "did you mean 'also'?" in capsys.readouterr().err


def test_verbs_of_one_head_name_the_heads_of_the_folder(tmp_path, capsys):
    """The folder of the whole run has no best checkpoint, and nothing that it lacks will be made there."""
    root, audio = tmp_path / "texts", tmp_path / "one.wav"
    soundfile.write(audio, np.zeros(16000), 16000)
    for folder, name in ((root, "last"), (root / "pr", "best"), (root / "asr", "best")):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / f"{name}.ckpt").touch()
        (folder / "config.yaml").write_text("model: {}")
    out = str(tmp_path / "out")
    for words in (["score"], ["export", out], ["predict", str(audio)], ["average", "--out", out]):
        assert main([words[0], str(root), *words[1:]]) == 2
        said = capsys.readouterr().err
        assert f"{root}: a run of several heads; give the folder of one of them: {root}/asr, {root}/pr" in said, words


def test_help_and_print_config_show_it(tiny, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    assert "--also" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["fit", *options(tiny, "pr"), "--also", ASR, "--print_config"])
    shown = yaml.safe_load(capsys.readouterr().out)
    assert [one.endswith(ASR) for one in shown["also"]] == [True]
    config = written(tmp_path / "printed.yaml", {**shown, "also": [ASR]})
    assert main(["fit", "-c", config, "--trainer.default_root_dir", str(tmp_path / "run"), "--data.cache", "null"]) == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"pr", "asr", "config.yaml", "checkpoints"}


def test_a_block_and_a_path(tmp_path):
    block = {"class_path": "X", "learning_rate": [1, 2], "init_args": {"seed": 3, "upstream": {"class_path": "Y"}}}
    read = AlsoTask.read(block)
    assert read.model == {"class_path": "X", "init_args": {"learning_rate": 1.0, "seed": 3}}
    assert read.lists == HeadLists({"learning_rate": [1.0, 2.0]})
    assert block["learning_rate"] == [1, 2]  # what was parsed stays
    assert AlsoTask.read(written(tmp_path / "a.yaml", "model: X\n")).model == {"class_path": "X", "init_args": {}}
    with pytest.raises(UserError, match="has no class_path"):
        AlsoTask.read({"init_args": {}})
    words = ["fit", "--also", "a", "--also=b", "--also+", "c", "--alsoo", "--model", "--also-not"]
    assert added_up(words) == ["fit", "--also+", "a", "--also+=b", "--also+", "c", "--alsoo", "--model", "--also-not"]
