"""Import paths of commit 7963883: public ones resolve without a warning, moved ones with a DeprecationWarning."""

from __future__ import annotations

import ast
import importlib
import json
import pkgutil
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from wavlm_lightning.moved import ALL, MOVED, MovedModule

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "wavlm_lightning"
NAMES = {
    module: names.split()
    for module, names in json.loads((Path(__file__).parent / "moved_names.json").read_text()).items()
}
"""Public names that each module of `MOVED` defined on commit 7963883."""
REMOVED: set[str] = {"cli.superb_runs.POOLED"}
"""`module.name` of internal helpers that no longer exist."""
UNCHANGED = {
    "wavlm_lightning.tasks": "Task LanguageModel UtteranceClassification CtcTask TaskData EmotionRecognition FoldData "
    "IntentClassification KeywordSpotting PhonemeRecognition QueryByExample SlotFilling SpeakerDiarization "
    "SpeakerIdentification SpeakerVerification SpeechRecognition",
    "wavlm_lightning.tasks.base": "Direction Protocol Task",
    "wavlm_lightning.tasks.huggingface": "huggingface_head",
    "wavlm_lightning.pretraining": "PretrainingData SpanMasking UtteranceMixing WavLMPretraining ContrastivePrediction "
    "FeaturePenalty LogMelRegression MaskedPrediction Objective CodebookRecipe Recipe",
    "wavlm_lightning.pretraining.objectives": "LayerObjective Objective Prediction ContrastivePrediction FeaturePenalty "
    "LogMelRegression MaskedPrediction",
    "wavlm_lightning.pretraining.health": "Health",
    "wavlm_lightning.upstreams": "Upstream ChosenLayers FairseqUpstream HuggingFaceUpstream Fbank Mfcc TorchaudioModel "
    "TorchaudioUpstream WavLMUpstream WeightedSum",
    "wavlm_lightning.codebooks": "Codebook FeatureSource LayerFeatures MfccFeatures fit_kmeans label_corpus LabelSet",
    "wavlm_lightning.encoder": "WavLM WavLMConfig Layers padding_mask CheckpointError",
    "wavlm_lightning.audio": "gain trim_silence SAMPLE_RATE BadAudio check_waveform decode_flac encode_flac load_mono "
    "fbank log_mel mfcc with_deltas",
    "wavlm_lightning.metrics": "ClusterQuality cluster_quality parse_rttm rttm_lines SuperbEntry MTWV false_alarm_weight "
    "maximum_term_weighted_value z_normalise equal_error_rate",
    "wavlm_lightning.data.corpus": "FORMAT Corpus CorpusWriter",
    "wavlm_lightning.data.recordings": "Recording CorpusPlan clean_key require_folder require_file existing hold_out "
    "check_counts",
    "wavlm_lightning.data.folder": "FolderRecipe",
    "wavlm_lightning.data.batch": "Waveforms Targets TaskBatch PretrainingBatch",
    "wavlm_lightning.data.mini": "DATASETS prepare_mini",
    "wavlm_lightning.data.shards": "Utterance write_shard",
    "wavlm_lightning.reports.cards": "MetricValue ResultCard",
    "wavlm_lightning.errors": "UserError",
    "wavlm_lightning.cli": "main",
}


@pytest.mark.parametrize("module", UNCHANGED)
def test_public_names_give_no_warning(module):
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        found = importlib.import_module(module)
        assert [name for name in UNCHANGED[module].split() if not hasattr(found, name)] == []


def fresh(module: str) -> MovedModule:
    """An old module as it is imported for the first time."""
    sys.modules.pop(f"wavlm_lightning.{module}", None)
    found = importlib.import_module(f"wavlm_lightning.{module}")
    assert isinstance(found, MovedModule), f"wavlm_lightning.{module} exists; take it out of MOVED"
    return found


@pytest.mark.parametrize("module", sorted(NAMES))
def test_moved_names_resolve_with_one_warning(module):
    moved, missing = fresh(module), []
    for name in NAMES[module]:
        if f"{module}.{name}" in REMOVED:
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                value = getattr(moved, name)
            except AttributeError as error:
                missing.append(str(error))
                continue
        (warning,) = [w for w in caught if issubclass(w.category, DeprecationWarning) and "old path" in str(w.message)]
        place, _, new_name = re.findall(r"is now ((\w+\.)+)(\w+);", str(warning.message))[0]
        assert getattr(importlib.import_module(place.rstrip(".")), new_name) is value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert getattr(moved, name) is value  # the second time without one
    assert missing == []


def test_every_module_that_moved_is_in_the_table():
    """None of them exists any more, all new places do, and the list of names covers the table."""
    assert set(NAMES) == set(MOVED)
    for old, target in MOVED.items():
        places = {target} if isinstance(target, str) else set(target.values())
        for place in places:
            path = PACKAGE.joinpath(*place.partition(":")[0].split("."))
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), f"{old} -> {place}"


def test_a_warning_shows_the_line_of_the_user(tmp_path):
    script = tmp_path / "mine.py"
    script.write_text("import wavlm_lightning\nfrom wavlm_lightning.cli import side_by_side\nside_by_side.Rounds\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{script}:3: DeprecationWarning: wavlm_lightning.cli.side_by_side.Rounds is now" in done.stderr


def test_names_can_go_to_several_places(monkeypatch):
    monkeypatch.setitem(
        MOVED, "cli.divided", {"UserError": "system.errors", "tell": "system.timing:Rounds", ALL: "moved"}
    )
    moved = fresh("cli.divided")
    with pytest.warns(DeprecationWarning, match=r"cli\.divided\.UserError is now wavlm_lightning\.system\.errors\."):
        assert moved.UserError.__name__ == "UserError"
    with pytest.warns(DeprecationWarning, match=r"wavlm_lightning\.system\.timing\.Rounds"):
        assert moved.tell.__name__ == "Rounds"
    with pytest.warns(DeprecationWarning):
        assert moved.MOVED is MOVED
    with pytest.raises(AttributeError, match="has no 'nothing'"):
        _ = moved.nothing
    monkeypatch.setitem(MOVED, "cli.divided", {"UserError": "system.errors"})
    with pytest.raises(AttributeError, match="no attribute 'Other'"):
        _ = fresh("cli.divided").Other
    del sys.modules["wavlm_lightning.cli.divided"]


def test_a_module_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("wavlm_lightning.cli.never")


def test_class_paths_of_older_configurations_are_understood(tiny, tmp_path):
    """In YAML files and options alike, as jsonargparse imports them."""
    from wavlm_lightning.augment.spec_augment import SpecAugment
    from wavlm_lightning.callbacks.probe import Probe
    from wavlm_lightning.tasks import KeywordSpotting
    from wavlm_lightning.workflows.fit import open_run

    config = tmp_path / "old.yaml"
    config.write_text(
        "model:\n"
        "  class_path: wavlm_lightning.tasks.keyword_spotting.KeywordSpotting\n"
        "  init_args:\n"
        "    upstream: {class_path: wavlm_lightning.upstreams.Fbank, init_args: {cmvn: false}}\n"
        "    learning_rate: 0.01\n"
        f"data: {{class_path: wavlm_lightning.tasks.TaskData, init_args: {{corpus: {tiny / 'ks'}}}}}\n"
    )
    for module in ("cli.probe", "tasks.keyword_spotting", "tasks.spec_augment"):
        fresh(module)
    with pytest.warns(DeprecationWarning, match="old path"):
        run = open_run(
            *["-c", str(config)],
            *["--trainer.default_root_dir", str(tmp_path / "run")],
            *["--trainer.accelerator", "cpu"],
            *["--trainer.callbacks+=wavlm_lightning.cli.probe.Probe"],
            *[f"--trainer.callbacks.corpora={{pr: {tiny / 'pr'}}}"],
        )
    assert type(run.model) is KeywordSpotting
    assert any(type(callback) is Probe for callback in run.trainer.callbacks)
    with pytest.warns(DeprecationWarning, match=r"wavlm_lightning\.augment\.spec_augment"):
        assert pkgutil.resolve_name("wavlm_lightning.tasks.spec_augment.SpecAugment") is SpecAugment


def test_importing_the_package_stays_light():
    code = "import sys, wavlm_lightning; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


OLD = re.compile(r"\bwavlm_lightning\.(" + "|".join(map(re.escape, sorted(MOVED, key=len, reverse=True))) + r")(?!\w)")
OURS = {".py", ".yaml", ".yml", ".md", ".toml", ".sh", ".ipynb", ""}


def test_nothing_of_ours_uses_an_old_path():
    """Also a filter in pyproject.toml turns the warning into an error in all tests."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split(
        "\n"
    )
    wrong = []
    for name in listed:
        path = ROOT / name
        if not path.is_file() or path.suffix not in OURS or path.parent == Path(__file__).parent:
            continue
        text = path.read_text()
        wrong += [f"{name}: {match}" for match in OLD.findall(text)]
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("wavlm_lightning"):
                    prefix = node.module.removeprefix("wavlm_lightning").lstrip(".")
                    names = [f"{prefix}.{alias.name}".lstrip(".") for alias in node.names]
                    wrong += [f"{name}: {each}" for each in names if each in MOVED]
    assert wrong == []
