"""Heads, upstreams, objectives and recipes from outside the repository, in a process that is not in their folder.

All commands run in one process, which costs one import of everything, from a working directory of its own: the files are
beside their YAML, and only what is registered is on the path.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.workflows.new import KINDS, write_template

EXAMPLES = Path(__file__).resolve().parents[2] / "experiments" / "plugins"
OLD = Path(__file__).resolve().parents[1] / "compatibility" / "heads"  # written for the contract of an older version
CPU = ["--trainer.accelerator", "cpu", "--trainer.max_steps", "3", "--trainer.val_check_interval", "3"]
RUN = """
import contextlib, io, json, sys
from wavlm_lightning.cli import main
results = {}
for name, argv in json.load(open(sys.argv[1])).items():
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(argv)
        except SystemExit as stop:
            status = stop.code
    results[name] = [status, out.getvalue(), err.getvalue()]
json.dump(results, open(sys.argv[2], "w"))
"""
REGISTERED = '''
from wavlm_lightning.tasks import UtteranceClassification


class RegisteredTask(UtteranceClassification):
    """Keywords."""

    name, inventory, field = "REG", "keywords", "keyword"


class Elsewhere:
    """A class whose entry point has another name."""
'''
ENTRY_POINTS = """
[wavlm_lightning.tasks]
RegisteredTask = registered_heads:RegisteredTask
other_name = registered_heads:Elsewhere
BrokenTask = registered_nowhere:BrokenTask

[wavlm_lightning.corpora]
registered = own_corpus:OwnCorpus
"""


def make_site(folder: Path) -> None:
    """What `pip install` of a package with entry points leaves on the path."""
    information = folder / "registered-0.1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: registered\nVersion: 0.1\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    (folder / "registered_heads.py").write_text(REGISTERED)
    write_template("corpus", "own_corpus", folder)


def make_recordings(tiny: Path, folder: Path) -> None:
    """A folder a speaker, and a manifest with two languages."""
    rows = []
    corpus = Corpus.open(tiny / "sid")
    for split in corpus.splits:
        for key, waveform, meta in corpus.split(split).utterances():
            if len(rows) < 20:
                path = folder / meta["speaker"] / f"{key}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, waveform, 16_000)
                rows.append({"path": str(path.relative_to(folder)), "language": ("en", "es")[len(rows) % 2]})
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def ran(tiny, tmp_path_factory):
    """By name, (status, output, errors) of every command; and the working directory."""
    root = tmp_path_factory.mktemp("outside")
    files, site, work = root / "files", root / "site", root / "work"
    work.mkdir()
    files.mkdir()
    make_site(site)
    recordings = work / "recordings"
    make_recordings(tiny, recordings)
    for kind in KINDS:
        write_template(kind, f"own_made_{kind}", files)
    for path in [*EXAMPLES.glob("*/*"), *OLD.glob("*")]:
        if path.suffix in (".py", ".yaml"):
            shutil.copy(path, files)
    sample = str(next(recordings.glob("*/*.wav")))
    small = ["--model.upstream.source", "tiny", *CPU]
    commands: dict[str, list[str]] = {
        "prepare languages": [
            *["prepare", "folder", "recordings", "--manifest", "recordings/manifest.csv", "--split-by", "file"],
            *["--valid", "0.2", "--test", "0.2", "--out", "languages", "--workers", "1"],
        ]
    }
    corpora = {
        "own_made_task": (tiny / "ks", small),
        "language_identification": ("languages", small),
        "speech_rate": (tiny / "pr", small),
        "phone_boundaries": (tiny / "pr", small),
        "denoiser": (tiny / "pr", small),
        "own_made_upstream": (tiny / "ks", CPU),
        "old_speech_rate": (tiny / "pr", small),
        "old_phone_boundaries": (tiny / "pr", small),
    }
    for name, (corpus, options) in corpora.items():
        options = ["-c", str(files / f"{name}.yaml"), "--data.corpus", str(corpus), *options]
        commands[f"fit {name}"] = ["fit", *options]
        commands[f"test {name}"] = ["test", *options, "--ckpt_path", "best"]
        commands[f"predict {name}"] = ["predict", f"runs/{name}", sample, "--json"]
    # In a process of its own, which has imported nothing yet, and from another folder.
    elsewhere = {
        "predict elsewhere": ["predict", str(work / "runs" / "speech_rate"), sample, "--json"],
        "test elsewhere": [
            *["test", "-c", str(work / "runs" / "speech_rate" / "config.yaml"), "--ckpt_path", "best", *CPU],
            *["--trainer.default_root_dir", str(work / "runs" / "speech_rate"), "--data.cache", "null"],
        ],
    }
    commands["write denoised"] = ["predict", "runs/denoiser", sample, "--out", "denoised", "--json"]
    commands["report denoiser"] = ["report", "runs/denoiser", "-o", "page"]
    objective = ["-c", str(files / "own_made_objective.yaml"), "--data.corpus", str(tiny / "pretrain")]
    commands["fit own_made_objective"] = ["fit", *objective, *CPU, "--data.batch_seconds", "5"]
    objective = ["-c", str(files / "data2vec.yaml"), "--data.corpus", str(tiny / "pretrain")]
    commands["fit data2vec"] = ["fit", *objective, *CPU, "--data.batch_seconds", "5"]
    commands["export data2vec"] = ["export", "runs/data2vec", "encoder"]
    commands["plan data2vec"] = ["plan", str(files / "data2vec.yaml")]
    common = ["--model.upstream", "Fbank", "--model.upstream.cmvn", "false", "--data", "TaskData"]
    common += ["--data.corpus", str(tiny / "ks"), *CPU, "--trainer.check_val_every_n_epoch", "null"]
    common += ["--trainer.default_root_dir", "runs/registered"]
    commands["fit registered"] = ["fit", "--model", "RegisteredTask", *common]
    commands["fit misnamed"] = ["fit", "--model", "other_name", *common]
    commands["fit broken"] = ["fit", "--model", "BrokenTask", *common]
    own = ["recordings", "--workers", "1", "--out"]
    commands["prepare registered"] = ["prepare", "registered", *own, "registered"]
    commands["prepare dotted"] = ["prepare", "own_corpus.OwnCorpus", *own, "dotted", "--valid", "0.3"]
    commands["prepare help"] = ["prepare", "--help"]
    commands["prepare nothing"] = ["prepare", "own_corpus.Nothing", *own, "nothing"]
    commands["prepare no recipe"] = ["prepare", "json.JSONDecoder", *own, "nothing"]
    package = Path(__file__).resolve().parents[2]
    environment = {"PYTHONPATH": f"{site}:{package}", "WAVLM_CACHE": str(root / "cache")}
    results = {}
    for folder, wanted in ((work, commands), (site, elsewhere)):
        (root / "commands.json").write_text(json.dumps(wanted))
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(root / "commands.json"), str(root / "results.json")],
            cwd=folder,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results |= json.loads((root / "results.json").read_text())
    return results, work


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("own_made_task", "keyword"),
        ("own_made_upstream", "keyword"),
        ("language_identification", "language"),
        ("speech_rate", "phones_per_second"),
        ("phone_boundaries", "begins"),
        ("denoiser", "level_db"),
        ("old_speech_rate", "phones_per_second"),
        ("old_phone_boundaries", "begins"),
    ],
)
def test_fit_test_and_predict(ran, name, field):
    results, work = ran
    for verb in ("fit", "test", "predict"):
        status, _, said = results[f"{verb} {name}"]
        assert status == 0, said[-2000:]
    card = json.loads((work / "runs" / name / "card.json").read_text())
    assert card["steps"] == 3 and card["headline"] in card["metrics"]
    assert field in json.loads(results[f"predict {name}"][1])


@pytest.mark.slow
def test_a_run_is_opened_from_any_folder(ran):
    """Its class lies beside the YAML that trained it, which is neither beside the run nor in the working directory."""
    results, _ = ran
    for verb in ("predict", "test"):
        assert results[f"{verb} elsewhere"][0] == 0, results[f"{verb} elsewhere"][2][-2000:]
    assert results["predict elsewhere"][1] == results["predict speech_rate"][1]


@pytest.mark.slow
def test_a_denoiser_writes_files_and_the_report_plays_it(ran):
    results, work = ran
    for name in ("write denoised", "report denoiser"):
        assert results[name][0] == 0, results[name][2][-2000:]
    row = json.loads(results["write denoised"][1])
    heard, rate = soundfile.read(row["file"])
    written, written_rate = soundfile.read(work / "denoised" / row["audio"])
    assert (written_rate, len(written)) == (16_000, len(heard)) and rate == 16_000 and abs(written).max() > 0.001
    card = json.loads((work / "runs" / "denoiser" / "card.json").read_text())
    assert {"si_sdr", "si_sdri", "stoi"} == set(card["metrics"]) and set(card["details"]["unprocessed"]) == {
        "si_sdr",
        "stoi",
    }
    page = (work / "page" / "report.html").read_text()
    assert page.count("<audio controls") == 9 and "SI-SDR" in page


@pytest.mark.slow
@pytest.mark.parametrize("name", ["own_made_objective", "data2vec"])
def test_an_objective_is_trained_and_its_validation_chooses(ran, name):
    results, work = ran
    assert results[f"fit {name}"][0] == 0, results[f"fit {name}"][2][-2000:]
    header = (work / f"runs/{name}/curves/version_0/metrics.csv").read_text().splitlines()[0].split(",")
    assert "valid/loss" in header
    assert (work / f"runs/{name}/checkpoints/best.ckpt").is_file()


@pytest.mark.slow
def test_a_teacher_is_planned_for_and_not_exported(ran):
    results, work = ran
    for verb in ("export", "plan"):
        assert results[f"{verb} data2vec"][0] == 0, results[f"{verb} data2vec"][2]
    assert "not known here" not in results["plan data2vec"][1]
    sizes = [(work / "encoder" / f"{name}.safetensors").stat().st_size for name in ("model", "pretraining_head")]
    assert sizes[1] < 0.2 * sizes[0]


@pytest.mark.slow
def test_a_registered_class_has_a_short_name(ran):
    results, work = ran
    assert results["fit registered"][0] == 0, results["fit registered"][2][-2000:]
    assert (work / "runs/registered/checkpoints/best.ckpt").is_file()
    status, _, said = results["fit misnamed"]
    assert status == 2 and "must have the name of its class" in said
    status, _, said = results["fit broken"]
    assert status == 2 and "'BrokenTask' is registered by registered as registered_nowhere:BrokenTask" in said


@pytest.mark.slow
def test_recipes_by_registered_name_and_by_dotted_path(ran):
    results, work = ran
    for name in ("registered", "dotted"):
        assert results[f"prepare {name}"][0] == 0, results[f"prepare {name}"][2]
        corpus = Corpus.open(work / name)
        assert sum(len(corpus.split(split)) for split in corpus.splits) == 20
    assert len(Corpus.open(work / "dotted").split("valid")) != len(Corpus.open(work / "registered").split("valid"))
    assert results["prepare help"][0] == 0 and "registered: own_corpus:OwnCorpus" in results["prepare help"][1]
    assert results["prepare nothing"][0] == 2 and "no such module or class" in results["prepare nothing"][2]
    assert "it lacks HELP, add_arguments, plan" in results["prepare no recipe"][2]


def test_the_examples_are_small_and_documented():
    folders = [path for path in EXAMPLES.iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(folders) == 5
    for folder in folders:
        lines = sum(len((folder / f"{folder.name}.{end}").read_text().splitlines()) for end in ("py", "yaml"))
        assert lines < 140 and f"{folder.name}.yaml" in (folder / "README.md").read_text()
