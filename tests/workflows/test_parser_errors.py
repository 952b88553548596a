"""One sentence, with a cure, from jsonargparse's nested complaints."""

from __future__ import annotations

import pytest

from wavlm_lightning.cli import main
from wavlm_lightning.workflows.fit.command_line import command_line
from wavlm_lightning.workflows.fit.parser_errors import one_sentence

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'wavlm_lightning.tasks.KeywordSpotting':
        Parser key "upstream":
          Problem with given class_path 'wavlm_lightning.upstreams.WavLMUpstream':
            Option 'sorce' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>"""
KS = ["-c", "configs/superb/mini/ks.yaml"]
TINY = ["-c", "configs/pretrain/tiny_waveform.yaml"]
NOISE = "wavlm_lightning.augment.transforms.AddNoise"
MOVES = "class_path: wavlm_lightning.callbacks.MoveValue, init_args: {name: m, start: 0, end: 1, from_update: 5, to_update: 2}"
TRAINED = ["--model.upstream", "WavLMUpstream", "--model.upstream.source", "tiny", "--model.upstream.frozen", "false"]


def test_the_innermost_complaint_with_its_place_and_cure():
    said = one_sentence(NESTED, [])
    assert (
        said
        == "model (KeywordSpotting), upstream (WavLMUpstream): Option 'sorce' is not accepted; did you mean 'source'?"
    )


def test_a_message_that_is_already_plain_stays():
    assert one_sentence("something else is wrong", []) == "something else is wrong"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "data, model missing; name a YAML with -c FILE"),
        (["-c", "configs/superb/mini/kss.yaml"], "kss.yaml: no such file; did you mean 'configs/superb/mini/ks.yaml'?"),
        (["-c", "own.yml"], "own.yml: no such file; did you mean 'own.yaml'?"),
        ([*KS, "--modle", "KeywordSpotting"], "did you mean 'model'?"),
        ([*KS, "--chekpoint_every", "3"], "did you mean 'checkpoint_every'?"),
        ([*KS, "--print_confg"], "did you mean 'print_config'?"),
        ([*KS, "--trainer.max_step", "3"], "did you mean 'max_steps'?"),
        ([*KS, "--data.corpsu", "x"], "data (TaskData): Option 'corpsu' is not accepted; did you mean 'corpus'?"),
        ([*KS, "--model", "KeywordSpoting"], "model: no class KeywordSpoting; did you mean 'KeywordSpotting'?"),
        ([*KS, "--model", "wavlm_lightning.tasks.KeywordSpoting"], "did you mean 'KeywordSpotting'?"),
        ([*KS, "--model", "wavlm_lightning.taks.KeywordSpotting"], "did you mean 'tasks'?"),
        ([*KS, "--model", "my_haed.MyHead"], "no module my_haed beside the YAML"),
        ([*KS, "--model", "json.JSONDecoder"], "model: json.JSONDecoder is not a subclass of LightningModule"),
        ([*KS, "--model.upstream", "Fbnk"], "model (KeywordSpotting), upstream: no class Fbnk; did you mean 'Fbank'?"),
        ([*KS, "--model.protocol", "superbb"], "one of 'superb', 'fixed', not superbb; did you mean 'superb'?"),
        ([*KS, "--model.learning_rate", "fast"], "learning_rate: expected float, not fast"),
        ([*KS, "--data.batch_size", "x"], "batch_size: expected int, not x"),
        ([*KS, "--trainer.callbacks", "EarlyStoping"], "did you mean 'EarlyStopping'?"),
        ([*KS, "--trainer.logger", "WandbLoger"], "did you mean 'WandbLogger'?"),
        ([*TINY, "--model.masking.probabilty", "0.3"], "did you mean 'probability'?"),
        ([*TINY, "--model.objectives+", "MaskdPrediction"], "did you mean 'MaskedPrediction'?"),
        (["--model", "KeywordSpotting"], "model (KeywordSpotting): upstream missing"),
        (
            [*KS, "--data.transforms", f"[{{class_path: {NOISE}, init_args: {{snr_db: loud}}}}]"],
            "snr_db: expected tuple",
        ),
        ([*KS, "--data.transforms", f"[{{class_path: {NOISE}, init_args: {{snr: [0, 5]}}}}]"], "Option 'snr' is not"),
        ([*KS, "--model.schedule.shape", "linea"], "schedule (Schedule), shape: expected one of 'constant', 'linear'"),
    ],
)
def test_a_mistyped_command_is_one_line(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("seed_everything: 1\n")
    (tmp_path / "my_head.py").touch()
    assert main(["fit", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("wavlm fit: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--data.transforms", f"[{{class_path: {NOISE}, init_args: {{snr_db: [20, 0]}}}}]"],
            "AddNoise.snr_db: [20, 0] is not",
        ),
        (
            ["--data.eval_transforms+", f"{{class_path: {NOISE}, init_args: {{probability: 5}}}}"],
            "AddNoise.probability must lie",
        ),
        (
            [*TRAINED, "--model.upstream.fine_tuning.layer_decay", "3"],
            "upstream.fine_tuning.layer_decay must be above 0",
        ),
        (
            ["--model.schedule.shape", "linear", "--model.schedule.warmup", "-3"],
            "schedule: warmup and hold must not be",
        ),
        (["--trainer.callbacks", f"[{{{MOVES}}}]"], "MoveValue m: to_update (2) must be"),
        (["--trainer.callbacks", f"{{{MOVES}}}"], "MoveValue m: to_update (2) must be"),  # of a union, the second type
    ],
)
def test_a_wrong_value_is_said_by_what_checks_it(options, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["--model.upstream.source", "tiny", "--data.cache", "null", "--trainer.accelerator", "cpu"]
    assert main(["fit", *KS, *small, *options]) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith(f"wavlm fit: {said}")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("model:\n  class_path: [unclosed\n", "not readable at line 3"),
        ("modle: {class_path: KeywordSpotting}\n", "did you mean 'model'?"),
        ("trainer: {max_step: 3}\n", "Option 'trainer.max_step' is not accepted; did you mean 'max_steps'?"),
        ("model: {class_path: KeywordSpotting, init_arg: {seed: 1}}\n", "did you mean 'init_args'?"),
        ("model: {class_path: KeywordSpotting, init_args: {upstream: {class_path: Fbnk}}}\n", "did you mean 'Fbank'?"),
        ("trainer: {callbacks: [{class_path: EarlyStoping}]}\n", "did you mean 'EarlyStopping'?"),
    ],
)
def test_a_mistyped_yaml_is_one_line(content, said, tmp_path, capsys):
    (tmp_path / "wrong.yaml").write_text(content)
    assert main(["fit", "-c", str(tmp_path / "wrong.yaml")]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_nested_null_is_null():
    """jsonargparse passes it on as the word `None`, which an option of text would keep."""
    options = ["-c", "configs/finetune/ks.yaml", "--model.upstream.source", "random:tiny", "--data.corpus", "x"]
    options += ["--model.upstream.label", "mine", "--model.upstream.overrides", "{dim: 32, heads: 2}"]
    names = ("fine_tuning", "label", "overrides")
    given = command_line(options, run=False).config.model.init_args.upstream.init_args
    assert all(given[name] is not None for name in names)
    options += [word for name in names for word in (f"--model.upstream.{name}", "null")]
    given = command_line(options, run=False).config.model.init_args.upstream.init_args
    assert all(given[name] is None for name in names) and given.source == "random:tiny"


def test_the_options_that_are_suggested_are_those_there_are():
    from wavlm_lightning.cli.completion import training_parser
    from wavlm_lightning.system.name_hints import OPTIONS

    offered = {string.lstrip("-") for action in training_parser()._actions for string in action.option_strings}
    assert set(OPTIONS) - {"trainer", "verbose", "return_predictions"} <= offered
