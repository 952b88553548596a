"""`wavlm export`: weights for transformers, the head for us, and a card that says what the run knows."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import wavlm_lightning
from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import CheckpointError, WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting
from wavlm_lightning.tasks.huggingface.export import write_head_folder
from wavlm_lightning.upstreams import WavLMUpstream
from wavlm_lightning.workflows.export.model_card import MARK


@pytest.fixture(scope="module")
def corpus(tiny, tmp_path_factory) -> Path:
    """A labelled corpus that a test may take away, under terms that the Hub has a name for."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    shutil.copytree(tiny / "pretrain", folder)
    body = json.loads((folder / "corpus.json").read_text())
    body |= {"licence": "CC BY 4.0", "inventories": {"languages": ["fi", "en"]}}
    (folder / "corpus.json").write_text(json.dumps(body))
    return folder


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Path:
    """A run of four updates of two micro-steps, validated after two and four."""
    folder = tmp_path_factory.mktemp("runs") / "pretrain"
    options = ["--trainer.accelerator", "cpu", "--trainer.precision", "32-true", "--trainer.max_steps", "4"]
    options += ["--trainer.val_check_interval", "4", "--trainer.accumulate_grad_batches", "2"]
    options += ["--data.corpus", str(corpus), "--trainer.default_root_dir", str(folder), "--data.batch_seconds", "5"]
    assert (
        main(["fit", "-c", "configs/pretrain/tiny_waveform.yaml", *options, "--model.mixing.probability", "0.25"]) == 0
    )
    return folder


def card(folder: Path) -> tuple[dict, dict[str, str]]:
    """The front matter, and the facts."""
    _, matter, text = (folder / "README.md").read_text().split("---\n", 2)
    facts = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("- "))
    return yaml.safe_load(matter), facts


def test_the_card_of_a_run(run, corpus, tmp_path):
    folder = tmp_path / "first-try"
    assert main(["export", str(run), str(folder)]) == 0
    matter, facts = card(folder)
    assert matter["library_name"] == "transformers" and "wavlm" in matter["tags"]
    assert matter["language"] == ["en", "fi"] and matter["license"] == "cc-by-4.0"
    opened = Corpus.open(corpus)
    train = opened.split("train")
    hours = f"{train.seconds / 3600:.4g} hours, {len(train)} utterances"
    assert facts["corpus"] == f"{opened.name}, split `train`: {hours}"
    assert facts["sha256 of the corpus"] == f"`{opened.sha256}`" and facts["licence of the recordings"] == "CC BY 4.0"
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    book = json.loads((corpus / "labels" / "mfcc100" / "labels.json").read_text())
    assert facts["labels `mfcc100`"] == f"20 clusters at 100 Hz, codebook sha256 `{book['codebook_sha256']}`"
    assert (facts["updates"], facts["audio per update, at most"], facts["processes"]) == ("4", "10 s", "1")
    assert facts["precision"] == "32-true" and facts["started from"] == "`tiny`"
    assert "probability=0.25" in facts["mixing"] and "probability=0.65" in facts["masking"]
    assert facts["lightning at training"] == state["pytorch-lightning_version"]
    assert facts["wavlm_lightning at export"] == wavlm_lightning.__version__
    assert facts["command"] == f"`wavlm export {run} {folder}`"
    said = (folder / "README.md").read_text()
    for objective in ("MaskedPrediction(final_dim=128, ", "LogMelRegression(", "FeaturePenalty(weight=1.0)"):
        assert f"- objective: {objective}" in said
    rows = (run / "curves" / "version_0" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("valid/loss")
    last = [row.split(",")[column] for row in rows[1:] if row.split(",")[column]][-1]
    assert facts["loss"] == f"{float(last):.4g} (logged at step 3)"
    assert "None" not in said and str(corpus) not in said


def test_transformers_and_we_read_what_was_exported_twice(run, tmp_path):
    from transformers import WavLMModel

    from wavlm_lightning.pretraining.head_file import read_head

    for _ in range(2):
        assert main(["export", str(run), str(tmp_path)]) == 0
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    _, loading = WavLMModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    head, codebooks = read_head(tmp_path)
    assert codebooks == state["codebooks"]
    assert set(head) == {name for name in state["state_dict"] if name.startswith("objectives.")}
    assert all(torch.equal(value, state["state_dict"][name]) for name, value in head.items())
    assert len(load_file(tmp_path / "pretraining_head.safetensors")) >= 3


def test_scores_that_came_after_the_checkpoint_are_not_its_own(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "curves" / "version_0" / "metrics.csv"
    header = path.read_text().splitlines()[0].split(",")
    later = {"step": "4", "epoch": "0", "valid/loss": "0.125"}
    with path.open("a") as file:
        file.write(",".join(later.get(name, "") for name in header) + "\n")
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "hf")]) == 0
    assert card(tmp_path / "hf")[1]["loss"].endswith(" (logged at step 3)")


def test_what_is_not_known_any_more_is_left_out(run, corpus, tmp_path):
    """A checkpoint alone, and one whose corpus has become another."""
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path / "alone.ckpt")
    assert main(["export", str(tmp_path / "alone.ckpt"), str(tmp_path / "alone")]) == 0
    matter, facts = card(tmp_path / "alone")
    assert "license" not in matter and "language" not in matter
    assert facts["updates"] == "4" and "sha256 of the corpus" in facts and "labels `mfcc100`" in facts
    assert not {"corpus", "loss", "precision", "masking", "audio per update, at most", "started from"} & set(facts)

    shutil.copytree(run, tmp_path / "run")
    other = tmp_path / "other"
    shutil.copytree(corpus, other)
    body = json.loads((other / "corpus.json").read_text())
    body["splits"]["train"]["shards"][0]["sha256"] = "0" * 64
    (other / "corpus.json").write_text(json.dumps(body))
    config = (tmp_path / "run" / "config.yaml").read_text().replace(str(corpus), str(other))
    (tmp_path / "run" / "config.yaml").write_text(config)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "changed")]) == 0
    matter, facts = card(tmp_path / "changed")
    assert "license" not in matter and "corpus" not in facts and "loss" in facts
    assert facts["sha256 of the corpus"] == f"`{Corpus.open(corpus).sha256}`"


def test_terms_without_a_name_on_the_hub_are_other(run, corpus, tmp_path):
    path = corpus / "corpus.json"
    before = path.read_text()
    try:
        path.write_text(before.replace("CC BY 4.0", "CC BY 4.0 for the selection; ask the owners"))
        assert main(["export", str(run), str(tmp_path)]) == 0
    finally:
        path.write_text(before)
    matter, facts = card(tmp_path)
    assert matter["license"] == "other"
    assert facts["licence of the recordings"] == "CC BY 4.0 for the selection; ask the owners"


def test_weights_from_elsewhere_get_a_short_card_and_no_head(run, tmp_path):
    from wavlm_lightning.pretraining.head_file import DESCRIPTION, WEIGHTS

    folder = tmp_path / "hf"
    assert main(["export", str(run), str(folder)]) == 0
    assert (folder / WEIGHTS).is_file() and (folder / DESCRIPTION).is_file()
    encoder = WavLM(WavLMConfig.tiny())
    encoder.save_pretrained(tmp_path / "source")
    assert main(["export", str(tmp_path / "source"), str(folder)]) == 0
    assert not (folder / WEIGHTS).exists() and not (folder / DESCRIPTION).exists()
    matter, facts = card(folder)
    assert "license" not in matter and set(facts) == {
        "command", "wavlm_lightning at export", "torch at export", "lightning at export"
    }  # fmt: skip
    assert f"{encoder.parameter_count():,} parameters" in (folder / "README.md").read_text()


def test_a_card_that_somebody_has_made_their_own_is_kept(run, tmp_path, capsys):
    assert main(["export", str(run), str(tmp_path)]) == 0
    path = tmp_path / "README.md"
    path.write_text(path.read_text().replace(MARK, "Our best."))
    assert main(["export", str(run), str(tmp_path)]) == 0
    assert "Our best." in path.read_text() and "kept" in capsys.readouterr().out


def test_a_released_file_is_named_with_its_hash(tmp_path):
    """A file without a run folder; torchaudio makes one without our code."""
    from torchaudio.models import wavlm_model
    from transformers import WavLMModel

    convolutions = [
        (16, kernel, stride) for kernel, stride in zip((10, 3, 3, 3, 3, 2, 2), (5, 2, 2, 2, 2, 2, 2), strict=True)
    ]
    model = wavlm_model(
        "group_norm", convolutions, False, 32, 0.0, 8, 2, 2, 2, 16, 64, 0.0, 48, 0.0, 0.0, True, 0.0, None
    )  # fmt: skip
    source, folder = tmp_path / "released.pt", tmp_path / "hf"
    torch.save(model.state_dict(), source)
    assert main(["export", str(source), str(folder)]) == 0
    _, facts = card(folder)
    assert facts["source"] == f"`released.pt`, sha256 `{hashlib.sha256(source.read_bytes()).hexdigest()}`"
    _, loading = WavLMModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_a_relative_is_named_as_what_it_is(tmp_path):
    encoder = WavLM(WavLMConfig.preset("tiny", position_bias="none"))
    encoder.save_pretrained(tmp_path / "source")
    assert main(["export", str(tmp_path / "source"), str(tmp_path / "hf")]) == 0
    text = (tmp_path / "hf" / "README.md").read_text()
    assert "from transformers import HubertModel" in text and "- hubert\n" in text and "WavLMModel" not in text


def test_log_mel_frames_have_no_class_in_transformers(tmp_path, capsys):
    """It is said before an earlier export is touched."""
    encoder = WavLM(WavLMConfig.preset("tiny_mel", layers=1))
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    torch.save({"state_dict": state, "wavlm_config": encoder.config.to_dict()}, tmp_path / "run.ckpt")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    assert main(["export", str(tmp_path / "run.ckpt"), str(tmp_path / "hf")]) == 2
    said = capsys.readouterr().err
    assert "its front-end is log-mel frames" in said and "--format onnx or torch" in said
    assert [path.name for path in (tmp_path / "hf").iterdir()] == ["config.json"]
    with pytest.raises(CheckpointError, match="its front-end is log-mel frames"):
        encoder.save_pretrained(tmp_path / "hf")
    task = KeywordSpotting(WavLMUpstream("random:tiny_mel", overrides={"layers": 1}))
    task.build(["yes", "no"])
    with pytest.raises(UserError, match=r"this KS head does not fit .*: its front-end is log-mel frames"):
        write_head_folder(tmp_path / "head", task, {})
