"""Tables of ablations, tokenisers and noisy students hold no run of other settings, and miss none of their own."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from wavlm_lightning.system.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """`run.py` of an experiment, as a module."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"{name}_run", ROOT / "experiments" / name / "run.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look there
        spec.loader.exec_module(module)
        return module

    return load


def ablation(module: ModuleType, out: Path, **changed):
    options = {"steps": 20, "seeds": 1, "variants": ["full"], "tasks": (), "jobs": 1, "size": "tiny"}
    return module.Ablation(**{"out": out, **options, "recipe": "tiny_waveform", **changed})


def test_ablations_of_other_lengths_or_recipes_are_not_mixed(script, tmp_path, monkeypatch):
    module, said = script("ablations"), []
    monkeypatch.setattr(module, "wavlm", lambda *words, **_: said.append(words[:2]))
    for variants in (["full"], ["full", "hubert"]):  # more rows may come
        ablation(module, tmp_path, variants=variants).run()
    assert said.count(("codebook", "fit")) == 1 and len([words for words in said if words[0] == "fit"]) == 2
    for changed in ({"steps": 1000}, {"size": "mini"}, {"recipe": "tiny"}):
        with pytest.raises(UserError, match=rf"with other settings \({next(iter(changed))}: .*choose another --out"):
            ablation(module, tmp_path, **changed).run()


def test_tables_of_ablations_have_the_users_own_tasks_and_curves_of_resumed_runs(script, tmp_path, monkeypatch):
    module, yaml = script("ablations"), tmp_path / "mine.yaml"
    yaml.write_text((ROOT / "configs" / "superb" / "mini" / "ks.yaml").read_text())
    runs = ablation(module, tmp_path / "out", tasks=["PR", str(yaml)])
    for task in ("pr", "mine"):
        folder = runs.out / "heads" / "0" / "full-0" / task
        folder.mkdir(parents=True)
        (folder / "card.json").touch()
    metric = {"value": 50.0, "unit": "%", "better": "lower"}

    def read(file: Path) -> SimpleNamespace:
        return SimpleNamespace(task=file.parent.name.upper(), shown=["per"], metrics={"per": metric})

    monkeypatch.setattr(module, "ResultCard", SimpleNamespace(read=read))
    for version, row in ((9, "0.2,,100"), (10, "0.3,,200"), (11, ",1.5,220")):  # stopped after the last validation
        folder = runs.folder("full", 0) / "curves" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"valid/masked_accuracy,train/loss,step\n{row}\n")
    assert runs.masked_accuracy("full", 0) == 0.3
    assert {row["task"] for row in runs.figures()} == {"PR", "MINE", ""}
    with pytest.raises(UserError, match="'nosuch' is not one of SUPERB's tasks"):
        ablation(module, tmp_path, tasks=["nosuch"])


def test_tokenisers_with_other_settings_are_not_mixed(script, tmp_path, monkeypatch):
    module = script("tokenizers")
    for name in ("prepare", "make_labels", "score_seed"):
        monkeypatch.setattr(module.Tokenizers, name, lambda *_: None)
    options = {"steps": 20, "tuning": 20, "teaching": 20, "first": None, "heads": None, "seeds": 1, "minutes": 5.0}
    options |= {"out": tmp_path, "rows": ["mfcc"], "size": "tiny", "encoder": "tiny", "jobs": 1}
    for rows in (["mfcc"], ["mfcc", "pca"]):
        module.Tokenizers(**{**options, "rows": rows}).run()
    for changed in ({"steps": 400}, {"tuning": 200}, {"minutes": 3.0}, {"first": tmp_path}, {"encoder": "tiny_mel"}):
        with pytest.raises(UserError, match=rf"with other settings \({next(iter(changed))}: "):
            module.Tokenizers(**{**options, **changed}).run()


def test_a_failed_command_names_its_log(script, tmp_path):
    for name in ("ablations", "tokenizers"):
        with pytest.raises(
            UserError, match=r"`wavlm nosuch` ended with status \d+; its error is at the end of .*log\.txt"
        ):
            script(name).wavlm("nosuch", log=tmp_path / "log.txt")


def test_students_of_another_score_or_encoder_are_not_taken(script, tmp_path, monkeypatch):
    module, done = script("noisy_student"), []
    monkeypatch.setattr(module, "train", lambda given, run, *_: done.append(run.name))
    monkeypatch.setattr(module, "teach", lambda given, teacher, pseudo, share, run, *_: done.append((run.name, share)))
    monkeypatch.setattr(module, "row_of", lambda given, name, *_: {"row": name})
    options = {"out": tmp_path, "minutes": 5.0, "steps": 20, "corpus": Path("corpus"), "encoder": "encoder"}
    given = Namespace(**options, rounds=1, score="confidence", lm=None)
    for rounds in (1, 2):
        rows = module.one_seed(Namespace(**{**vars(given), "rounds": rounds}), 0)
    assert [row["row"] for row in rows] == ["labelled only", "student, round 1", "student, round 2", "oracle"]
    assert done == ["labelled", ("student1", 0.7), "oracle", ("student2", 0.9)]
    for changed in ({"score": "agreement"}, {"encoder": "other"}, {"lm": Path("some.arpa")}):
        with pytest.raises(UserError, match=rf"with other settings \({next(iter(changed))}: "):
            module.one_seed(Namespace(**{**vars(given), **changed}), 0)


@pytest.mark.parametrize(
    "words",
    [
        "demo_learning_rates/run.py --demo nowhere --out out",
        "linear_probe/run.py --demo nowhere --out out",
        "codebooks/first_codebook.py --corpus nowhere --out out",
        "day_one/material.py unpack nowhere out",
    ],
)
def test_what_is_not_there_is_a_sentence(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, *options = words.split()
    monkeypatch.setattr(sys, "argv", [path, *options])
    with pytest.raises(SystemExit, match=r"^error: nowhere.*: no (corpus\.json here|such file or folder)"):
        runpy.run_path(str(ROOT / "experiments" / path), run_name="__main__")
