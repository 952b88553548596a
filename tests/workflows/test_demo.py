"""The whole road on the tiny corpus."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from wavlm_lightning.cli import main
from wavlm_lightning.pretraining.recipe import CodebookRecipe
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.demo import stages
from wavlm_lightning.workflows.demo.heads import all_heads
from wavlm_lightning.workflows.demo.stages import RECIPE, run_demo
from wavlm_lightning.workflows.fit import read_options
from wavlm_lightning.workflows.recipe.chain import chain


@pytest.mark.slow
@pytest.mark.usefixtures("quick_commands")
@pytest.mark.timeout(600)
def test_demo_from_nothing_then_from_what_is_there(tmp_path, monkeypatch, capfd):
    """An interruption in the middle, then to the end, then again in seconds."""
    out = tmp_path / "demo"
    arguments = ["demo", "--size", "tiny", "--steps", "8", "--head-steps", "8", "--out", str(out)]
    with monkeypatch.context() as patch:
        patch.setattr(stages, "run_heads", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(arguments) == 130
    assert json.loads((out / "stages.json").read_text())["done"] == ["corpus", "codebook", "pre-training"]
    assert main(arguments) == 0
    said = capfd.readouterr().out
    assert said.count("done before") == 3
    cards = sorted(p.parent.name for p in out.glob("heads/*/card.json"))
    assert len(cards) == 9
    page = (out / "report.html").read_text()
    assert "http" not in re.sub(r"http-equiv|http://www\.w3\.org", "", page)
    for fact in (
        "PNMI 0.",
        "8 speakers",
        "1,934,216 parameters",
        yaml.safe_load((out / "pretrain" / "config.yaml").read_text())["trainer"]["precision"],
    ):
        assert fact in page
    for name in ("report.md", "curves.png", "results.png", "layers.png"):
        assert (out / name).stat().st_size > 500
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("*.ckpt")}
    assert main(arguments) == 0
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.ckpt")} == stamps
    assert main([*arguments[:-2], "--seed", "1", "--out", str(out)]) == 2
    assert "other settings" in capfd.readouterr().err


def commands(out, monkeypatch, configurations, **options) -> list[str]:
    """The commands of a demo of other configurations, without running them."""
    said: list[str] = []
    monkeypatch.setattr(stages, "chain", lambda _: configurations)
    monkeypatch.setattr(stages, "wavlm", lambda *words: said.append(" ".join(map(str, words))))
    monkeypatch.setattr(stages, "fastest_options", list)
    monkeypatch.setattr(stages, "run_heads", lambda *_, **__: None)
    monkeypatch.setattr(stages._Demo, "report", lambda demo: demo.out)
    run_demo(out, **options)
    return said


def with_codebook(name: str, **codebook):
    """A shipped configuration with another codebook."""
    shipped = chain(name)[-1]
    return replace(shipped, recipe=replace(shipped.recipe, codebook=CodebookRecipe(**codebook), size="medium"))


def test_the_recipe_says_corpus_codebook_and_stages(tmp_path, monkeypatch):
    """A YAML alone makes the demo another one: features with context, two iterations, a larger corpus."""
    first = with_codebook("tiny", clusters=50, features="context", quantiser="pca", whiten=False)
    second = with_codebook("tiny_it2", clusters=200, encoder="tiny", layer=2, restarts=3, soft=4)
    prepare, fit, apply, train, again, label, retrain = commands(tmp_path / "a", monkeypatch, [first, second])
    out = tmp_path / "a"
    assert "--size medium" in prepare
    codes = "--clusters 50 --share 1 --features context --quantiser pca --no-whiten"
    assert fit == f"codebook fit {out}/corpus/pretrain {codes} --out {out}/codebook-tiny"
    assert apply == f"codebook apply {out}/codebook-tiny {out}/corpus/pretrain --name context200"
    assert "-c configs/pretrain/tiny.yaml" in train and f"default_root_dir {out}/pretrain-tiny" in train
    layer = f"--clusters 200 --share 1 --restarts 3 --encoder {out}/pretrain-tiny --layer 2"
    assert again == f"codebook fit {out}/corpus/pretrain {layer} --out {out}/codebook"
    assert label.endswith(f"--name {second.content['data']['init_args']['labels']} --soft 4")
    assert "-c configs/pretrain/tiny_it2.yaml" in retrain and f"default_root_dir {out}/pretrain " in retrain
    # The shipped one, at the size for tests.
    prepare, fit, *_ = commands(tmp_path / "b", monkeypatch, chain(RECIPE), size="tiny")
    assert "--size tiny" in prepare and "--clusters 30 --share 1 --restarts 5 --features context" in fit


def test_a_demo_does_not_go_on_with_another_recipe(tmp_path, monkeypatch):
    commands(tmp_path, monkeypatch, [with_codebook("tiny", clusters=50)])
    changed = with_codebook("tiny", clusters=50)
    changed = replace(changed, content={**changed.content, "seed_everything": 1})
    with pytest.raises(UserError, match=r"holds a demo with other settings \(recipe: "):
        commands(tmp_path, monkeypatch, [changed])


def test_what_follows_an_encoder_without_a_class_in_transformers():
    said = dict(stages.next_commands(Path("runs/demo"), transformers=False))
    assert said["Pre-train on them, in the same way"].endswith("--out runs/mine --until fit/tiny")
    assert "--model.upstream.source runs/mine/tiny " in said["Train a head on the encoder you pre-trained"]
    assert any(command.endswith("runs/demo/encoder --format torch") for command in said.values())


def test_soft_labels_are_as_many_as_the_recipe_says(tmp_path, monkeypatch):
    made = with_codebook("tiny", clusters=100, soft=50)
    assert commands(tmp_path / "a", monkeypatch, [made])[2].endswith("--soft 50")
    assert commands(tmp_path / "b", monkeypatch, [made], size="tiny")[2].endswith("--soft 30")


def test_random_weights_have_the_shape_of_the_encoder(tmp_path, monkeypatch):
    content = with_codebook("tiny", clusters=50).content
    shape = {"encoder": "tiny_mel", "encoder_overrides": {"layers": 2}}
    model = {**content["model"], "init_args": {**content["model"]["init_args"], **shape}}
    other = replace(with_codebook("tiny", clusters=50), content={**content, "model": model})
    seen: list = []
    monkeypatch.setattr(stages, "all_heads", lambda *arguments: seen.append(arguments) or [])
    commands(tmp_path, monkeypatch, [other])
    random = next(head for head in all_heads(*seen[0]) if head.upstream == "random weights")
    given = read_options(*random.options()).model.init_args.upstream.init_args
    assert given.source == "random:tiny_mel" and given.overrides == {"layers": 2}
    model["init_args"]["encoder"] = "some/folder"
    with pytest.raises(UserError, match=r"so model.encoder must be one of .*tiny_mel.*, not some/folder"):
        commands(tmp_path / "b", monkeypatch, [other])


def test_two_codebooks_of_one_name_are_refused_before_anything_is_trained(tmp_path, monkeypatch):
    first, second = with_codebook("tiny", clusters=50), with_codebook("tiny_it2", clusters=50, encoder="tiny", layer=2)
    second.content["data"]["init_args"]["labels"] = first.content["data"]["init_args"]["labels"]
    with pytest.raises(UserError, match=r"tiny_it2.yaml: data.labels has the name that the labels of .*tiny.yaml have"):
        commands(tmp_path, monkeypatch, [first, second])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("tiny_two_codebooks", r"tiny_two_codebooks.yaml: the demo makes the one label set"),
        ("tiny_pbert", r"recipe.codebook.teacher is for `wavlm recipe`"),
    ],
)
def test_labels_that_the_demo_cannot_make_are_refused(tmp_path, monkeypatch, name, said):
    with pytest.raises(UserError, match=said):
        commands(tmp_path, monkeypatch, chain(name))
    assert not list(tmp_path.iterdir())
