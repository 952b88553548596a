"""Nothing that a file or a server says makes us work, wait or remember without bound."""

from __future__ import annotations

import os
import threading
import time

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.data.foreign.dataset_card import read_card
from wavlm_lightning.encoder.checkpoints.tensor_files import CheckpointError, read_pickle, read_tensors
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import check_file, read_text
from wavlm_lightning.system.run_folder import read_run_config
from wavlm_lightning.system.yaml_files import Multiplying, parse_yaml, read_yaml
from wavlm_lightning.tasks.components.beam_search import LanguageModel
from wavlm_lightning.workflows.sweep.file import MOST_TRIALS, read_sweep
from wavlm_lightning.workflows.sweep.runs import commands

LEVELS = 9
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, LEVELS)
)
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 9))
LONG = f"a: &a {'x' * 5000}\nb: [{', '.join(['*a'] * 2000)}]\n"
SWEEP = (
    "method: {method}\nmetric: {{name: valid/loss, goal: minimize}}\ncommand: [wavlm, fit, '${{args}}']\nparameters:\n"
)


@pytest.fixture(autouse=True)
def at_once():
    """Each of these answers within a second or two; without the bounds they take minutes, or for ever."""
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < 8


@pytest.mark.parametrize("text", [BOMB, MERGES, LONG, "a: &a [*a]"], ids=["lists", "merges", "long", "itself"])
def test_aliases_that_multiply_are_refused_before_anything_is_made_of_them(tmp_path, text):
    with pytest.raises(Multiplying):
        parse_yaml(text)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=rf"{path}: .*alias"):
        read_yaml(path, "a configuration")
    assert read_run_config(tmp_path) == {}
    with pytest.raises(UserError, match="alias"):
        read_sweep(str(path))


def test_language_models_and_cards_of_data_sets_are_bounded_too(tmp_path):
    model, card = tmp_path / "language_model.yaml", tmp_path / "README.md"
    model.write_text(BOMB)
    card.write_text(f"---\n{BOMB}---\n")
    for read, path in ((LanguageModel.read, model), (lambda path: read_card(path.parent), card)):
        with pytest.raises(UserError, match=rf"^{path}: its aliases "):
            read(path)


def test_ordinary_aliases_are_read_as_ever():
    text = "base: &base {lr: 1, layers: [1, 2]}\na: {<<: *base, lr: 2}\nb: [*base, *base]\nname: R&D *now*\n"
    assert parse_yaml(text) == yaml.safe_load(text)


@pytest.mark.parametrize("how", ["-c", "--also", "text", "value"])
def test_a_command_refuses_an_alias_bomb_before_jsonargparse_copies_it(tmp_path, capsys, how):
    path = tmp_path / "bomb.yaml"
    path.write_text(BOMB)
    config = "configs/superb/mini/ks.yaml"
    words = {
        "-c": ["-c", str(path)],
        "--also": ["-c", config, "--model.upstream.source", "tiny", "--also", str(path)],
        "text": ["-c", BOMB],
        "value": ["-c", config, "--model.upstream", "{" + ", ".join(BOMB.strip().splitlines()) + "}"],
    }[how]
    assert main(["fit", *words, "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("wavlm fit:") and (
        "its aliases (*name) stand for more than" in said or how in ("text", "value")
    )
    if how == "-c":
        assert f"{path}: its aliases" in said


def sweep(tmp_path, parameters: str, method: str = "grid"):
    path = tmp_path / "sweep.yaml"
    path.write_text(SWEEP.format(method=method) + parameters)
    return read_sweep(str(path))


TWELVE = "".join(f"  p{n}: {{values: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]}}\n" for n in range(12))


@pytest.mark.parametrize(
    "parameters", [TWELVE, "  p: {min: 0, max: 10000000000}\n", "  p: {min: 0, max: 1" + "0" * 30 + "}\n"]
)
def test_a_grid_is_listed_as_far_as_it_is_wanted(tmp_path, parameters):
    file = sweep(tmp_path, parameters)
    listed = commands(file, trials=3)
    assert len(listed) == 3 and listed[2].endswith("=2") and len(set(listed)) == 3
    with pytest.raises(UserError, match=f"trials, and a sweep has at most {MOST_TRIALS:,}"):
        commands(file)
    assert file.grid()[10**9] != file.grid()[10**9 - 1]


def test_a_small_grid_is_the_product_in_order(tmp_path):
    file = sweep(tmp_path, "  a: {values: [1, 2]}\n  b: {min: 5, max: 7}\n  c: {value: x}\n")
    assert [tuple(values.values()) for values in file.grid()] == [(a, b, "x") for a in (1, 2) for b in (5, 6, 7)]
    assert list(file.grid()[0]) == ["a", "b", "c"] and file.trial_count(None) == 6 and len(commands(file)) == 6


@pytest.mark.parametrize(
    ("parameters", "method", "says"),
    [
        ("  p: {distribution: log_uniform, min: 0, max: 1000}\n", "random", "natural logarithm"),
        ("  p: {min: 0.0, max: .inf}\n", "random", "out of range"),
        ("  p: {min: 0.0, max: 1.0, distribution: q_uniform, q: x}\n", "random", "q must be above 0"),
        ("  p: {values: [1]}\nrun_cap: 1000000000000\n", "random", "at most"),
        (
            "  p: {values: [1]}\nearly_terminate: {type: hyperband, max_iter: 27, s: 1000000000}\n",
            "random",
            "s of at most",
        ),
    ],
)
def test_numbers_that_would_take_for_ever(tmp_path, parameters, method, says):
    with pytest.raises(UserError, match=says):
        commands(sweep(tmp_path, parameters, method))


@pytest.fixture(params=["pipe", "device", "folder"])
def no_file(request, tmp_path):
    path = tmp_path / "no_file"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    return path


def test_readers_refuse_what_is_no_file(no_file, tmp_path):
    with pytest.raises(UserError, match="not a file but a"):
        check_file(no_file)
    with pytest.raises(UserError, match="not a file but a"):
        read_text(no_file)
    for read in (read_pickle, read_tensors):
        with pytest.raises(CheckpointError, match="is not a file"):
            read(no_file)
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "card.json").symlink_to(no_file)
    with pytest.raises(UserError, match="not a file but a"):
        ResultCard.read(tmp_path / "card")


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "-c", "{}"],
        ["fit", "-c={}"],
        ["fit", "-c", "configs/superb/mini/ks.yaml", "--also", "{}"],
        ["fit", "-c", "configs/superb/mini/ks.yaml", "--ckpt_path", "{}"],
        ["fit", "-c", "configs/superb/mini/ks.yaml", "--model.upstream.source={}"],
        ["prepare", "folder", "x", "--manifest", "{}", "--out", "y"],
        ["sweep", "{}", "--dry-run"],
        ["recipe", "{}"],
        ["plan", "{}"],
        ["report", "{}"],
        ["export", "{}", "--out", "y"],
        ["predict", "{}", "x.wav"],
        ["data", "check", "{}"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_options_refuse_pipes_and_devices(tmp_path, capsys, words, kind):
    path = tmp_path / "it"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    assert main([word.format(path) for word in words]) == 2
    said = capsys.readouterr().err
    assert f"{path}: not a file but a {kind}" in said and said.count("\n") == 1


def test_a_pipe_that_a_configuration_names(tmp_path, capsys):
    """jsonargparse reads `model: other.yaml` by itself."""
    os.mkfifo(tmp_path / "other.yaml")
    config = tmp_path / "config.yaml"
    config.write_text(f"model: {tmp_path / 'other.yaml'}\ndata: TaskData\n")
    assert main(["fit", "-c", str(config), "--trainer.default_root_dir", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("wavlm fit:")


def test_a_folder_in_place_of_a_configuration(tmp_path, capsys):
    assert main(["fit", "-c", str(tmp_path)]) == 2
    assert f"{tmp_path}: not a file but a folder" in capsys.readouterr().err


def test_a_pipe_that_somebody_writes_to_is_refused_as_well(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text("x: 1"), daemon=True)
    writer.start()
    with pytest.raises(UserError, match="a pipe"):
        read_yaml(path, "a configuration")
    path.read_text()  # lets the writer go
    writer.join(2)
