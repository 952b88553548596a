"""Chains of pre-training configurations, and every way to write one wrong."""

from __future__ import annotations

import pytest

from wavlm_lightning.pretraining.recipe import CodebookRecipe, Recipe
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.workflows.recipe.chain import chain

FIRST = "recipe: {hours: 960, gpus: 32, gpu: v100, codebook: {clusters: 100}}\ntrainer: {max_steps: 5}\n"
SECOND = "recipe: {hours: 960.5, codebook: {clusters: 500, encoder: first.yaml, layer: 6, share: 0.1}}\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "first.yaml").write_text(FIRST)
    (tmp_path / "second.yaml").write_text(SECOND)
    return tmp_path


def test_first_stage_first_and_paths_relative_to_the_file_that_names_them(folder):
    (folder / "third.yaml").write_text(
        f"recipe: {{hours: 60000, codebook: {{clusters: 500, encoder: {folder}/second.yaml, layer: 9}}}}\n"
    )
    stages = chain(str(folder / "third.yaml"))
    assert [stage.name for stage in stages] == ["first", "second", "third"]
    assert [stage.path for stage in stages] == [folder / f"{name}.yaml" for name in ("first", "second", "third")]
    assert stages[0].recipe == Recipe(960.0, 32, "v100", CodebookRecipe(100))
    assert stages[1].recipe.codebook == CodebookRecipe(500, "first.yaml", layer=6, share=0.1)
    assert stages[0].content["trainer"] == {"max_steps": 5}


def test_without_labels_there_is_one_stage(tmp_path):
    (tmp_path / "wav2vec2.yaml").write_text("recipe: {hours: 1, codebook: null}")
    (stage,) = chain(str(tmp_path / "wav2vec2.yaml"))
    assert stage.recipe == Recipe(1.0, 1, "a100", None)


def test_a_codebook_of_a_checkpoint_begins_a_chain(tmp_path):
    (tmp_path / "on.yaml").write_text("recipe: {hours: 1, codebook: {clusters: 5, checkpoint: there, layer: 9}}")
    (stage,) = chain(str(tmp_path / "on.yaml"))
    assert stage.recipe.codebook == CodebookRecipe(5, checkpoint="there", layer=9)


def test_names_are_looked_up_in_configs_pretrain(monkeypatch, folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "configs" / "pretrain").mkdir(parents=True)
    (folder / "configs" / "pretrain" / "published.yaml").write_text(FIRST)
    monkeypatch.setattr("wavlm_lightning.workflows.recipe.chain.configs_folder", lambda: folder / "configs")
    (elsewhere / "mine.yaml").write_text(SECOND.replace("first.yaml", "published"))
    assert [stage.name for stage in chain(str(elsewhere / "mine.yaml"))] == ["published", "mine"]
    with pytest.raises(UserError, match=r"no pre-training configuration 'publish'; take one of published"):
        chain("publish")


def test_every_configuration_that_we_ship_has_a_whole_chain():
    paths = sorted((configs_folder() / "pretrain").glob("*.yaml"))
    assert paths
    for path in paths:
        stages = chain(path.stem)
        assert stages[-1].path == path
        first = stages[0].recipe.codebook
        assert first is None or first.encoder is None


def test_circles_are_refused(folder):
    (folder / "first.yaml").write_text(SECOND.replace("first.yaml", "second.yaml"))
    with pytest.raises(
        UserError, match=r"second\.yaml: the chain of recipe\.codebook\.encoder contains 'second' twice"
    ):
        chain(str(folder / "second.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {}", r"has no section `recipe`"),
        ("- 1", r"has no section `recipe`"),
        (
            "{model: {class_path: wavlm_lightning.tasks.KeywordSpotting}, recipe: {hours: 1}}",
            r"of a head \(KeywordSpotting\)",
        ),
        ("model: KeywordSpotting", r"names those that follow it in `recipe\.fine_tuning`"),
        ("recipe: [1", r"not readable as YAML \(line"),
        ("recipe: {gpus: 1}", r"recipe\.hours missing"),
        ("recipe: {hours: many}", r"recipe\.hours: expected float, not many"),
        ("recipe: {hours: 1, gpus: 1.5}", r"recipe\.gpus: expected int, not 1\.5"),
        ("recipe: {hours: 1, gpus: true}", r"recipe\.gpus: expected int, not True"),
        ("recipe: {hours: 0}", r"recipe\.hours must be above 0"),
        ("recipe: {hours: 1, hour: 2}", r"Option 'hour' is not accepted"),
        ("recipe: {hours: 1, codebook: 100}", r"recipe\.codebook: "),
        ("recipe: {hours: 1, codebook: {}}", r"recipe\.codebook: clusters missing"),
        ("recipe: {hours: 1, codebook: {clusters: 0}}", r"clusters must be 1 or more"),
        ("recipe: {hours: 1, codebook: {clusters: 2, share: 10}}", r"share must lie between 0 and 1, not 10"),
        (
            "recipe: {hours: 1, codebook: {clusters: 2, encoder: a.yaml}}",
            r"needs a layer with encoder or checkpoint; give both",
        ),
        (
            "recipe: {hours: 1, codebook: {clusters: 2, layer: 1}}",
            r"needs a layer with encoder or checkpoint; give both",
        ),
        (
            "recipe: {hours: 1, codebook: {clusters: 2, features: context, level_normalised: true}}",
            r"level_normalised is for MFCC",
        ),
        (
            "recipe: {hours: 1, codebook: {clusters: 2, quantiser: pca, one_pass: true}}",
            r"one_pass is for k-means: a fit of random codes holds no features",
        ),
        ("recipe: {hours: 1, codebook: {clusters: 4, soft: 2, one_pass: true}}", r"one_pass makes hard labels alone"),
        (
            "recipe: {hours: 1, codebook: {clusters: 4, share: 0.5, one_pass: true}}",
            r"share 0.5 .* one_pass saves nothing",
        ),
        ("recipe: {hours: 1, codebook: {clusters: 2, context_ms: 30}}", r"context_ms is for features: context"),
        (
            "recipe: {hours: 1, codebook: {clusters: 2, mean_removed: true}}",
            r"mean_removed is for a layer of an encoder",
        ),
        ("recipe: {hours: 1, codebook: {clusters: 2, whiten: true}}", r"whiten needs a PCA in front of k-means"),
        ("recipe: {hours: 1, codebook: {clusters: 2, quantiser: random, whiten: false}}", r"whiten is for a PCA"),
        ("recipe: {hours: 1, codebook: {clusters: 2, dim: 0}}", r"dim must be 1 or more, not 0"),
        ("recipe: {hours: 1, codebook: {clusters: 2, quantiser: pca, restarts: 3}}", r"restarts is for k-means"),
        (
            "recipe: {hours: 1, codebook: {clusters: 2, encoder: a, checkpoint: b, layer: 1}}",
            r"both encoder and checkpoint",
        ),
        (
            "recipe: {hours: 1, codebook: {clusters: 2, encoder: a.yaml, layer: 1}}",
            r"configuration a\.yaml does not exist",
        ),
    ],
)
def test_mistakes_are_said_in_a_sentence_with_the_file(tmp_path, text, message):
    (tmp_path / "wrong.yaml").write_text(text)
    with pytest.raises(UserError, match=message) as raised:
        chain(str(tmp_path / "wrong.yaml"))
    assert "wrong.yaml" in str(raised.value)
    assert "\n" not in str(raised.value)
