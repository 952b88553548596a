"""`wavlm export RUN DIR` of a trained head: what transformers and `wavlm predict` make of the folder, and its card."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
import transformers
import yaml

from wavlm_lightning.audio import gain, load_mono
from wavlm_lightning.cli import main
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.workflows.predict.head import holds_head, open_head
from wavlm_lightning.workflows.predict.recordings import predict_files


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Two steps of KS, with its -3 dB and a result card, and of SD."""
    folder = tmp_path_factory.mktemp("heads")
    encoder = WavLM(WavLMConfig.preset("tiny", conv_channels=[16] * 7, dim=32, ffn_dim=48, layers=2, heads=4))
    encoder.save_pretrained(folder / "encoder")
    for name, options in (("ks", ["--data.gain_db", "-3"]), ("sd", ["--model.hidden", "8"])):
        arguments = ["-c", f"configs/superb/mini/{name}.yaml", "--data.corpus", str(tiny / name), *options]
        arguments += ["--model.upstream.source", str(folder / "encoder"), "--data.cache", "null"]
        arguments += ["--trainer.default_root_dir", str(folder / name), "--trainer.accelerator", "cpu"]
        arguments += ["--trainer.max_steps", "2", "--trainer.val_check_interval", "1"]
        arguments += ["--trainer.enable_progress_bar", "false"]
        assert main(["fit", *arguments]) == 0
        if name == "ks":
            assert main(["test", *arguments, "--ckpt_path", "best"]) == 0
    return folder


@pytest.fixture(scope="module")
def recording(tiny, tmp_path_factory):
    _, waveform, _ = next(iter(Corpus.open(tiny / "ks").split("test").utterances()))
    path = tmp_path_factory.mktemp("sound") / "one.wav"
    soundfile.write(path, waveform, 16_000, subtype="FLOAT")
    return path


def test_figures_of_other_weights_are_not_on_the_card(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs / "ks", run)
    card = ResultCard.read(run)
    card.best_step += 1
    card.write(run)
    assert main(["export", str(run), str(tmp_path / "words")]) == 0
    text = (tmp_path / "words" / "README.md").read_text()
    assert f"figures: none of these weights: the last test was of update {card.best_step}; test again" in text
    assert "- accuracy:" not in text


def test_a_trained_head_is_used_by_its_card(runs, recording, tiny, tmp_path, capsys):
    folder = tmp_path / "words"
    assert main(["export", str(runs / "ks"), str(folder)]) == 0
    assert "KS as a WavLMForSequenceClassification" in capsys.readouterr().out
    _, matter, text = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(matter)["pipeline_tag"] == "audio-classification"
    facts = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("- "))
    corpus = Corpus.open(tiny / "ks")
    assert facts["corpus"] == corpus.name and facts["licence of the recordings"] == corpus.body["licence"]
    assert facts["loudness"].startswith("multiply waveforms by 0.707946")
    assert facts["command"] == f"`wavlm export {runs / 'ks'} {folder}`"
    card = json.loads((runs / "ks" / "card.json").read_text())
    assert facts["accuracy"].startswith(f"{card['metrics']['accuracy']['value']:.4g} %")

    code = text.split("```python\n")[1].split("```")[0].replace('"words"', repr(str(folder)))
    waveform = gain(load_mono(recording), -3.0)
    names: dict = {"waveform": waveform}
    exec(code, names)
    row = next(predict_files(open_head(runs / "ks", "cpu"), [recording], 60.0))
    assert names["label"] == row["keyword"]
    with torch.no_grad():
        wanted = names["output"].logits.softmax(1).max().item()
    assert row["probability"] == pytest.approx(wanted, abs=1e-4)


def test_a_fine_tuned_classifier_in_a_pipeline(runs, recording, tiny, tmp_path):
    """The trained encoder goes along, not the one that it began with."""
    arguments = ["-c", "configs/finetune/mini/er.yaml", "--data.corpus", str(tiny / "er")]
    arguments += ["--model.upstream.source", str(runs / "encoder"), "--model.upstream.fine_tuning.from_update", "0"]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "er"), "--trainer.accelerator", "cpu"]
    arguments += ["--trainer.max_steps", "3", "--trainer.val_check_interval", "3", "--model.schedule", "null"]
    assert main(["fit", *arguments, "--trainer.enable_progress_bar", "false"]) == 0
    folder = tmp_path / "emotions"
    assert main(["export", str(tmp_path / "er"), str(folder)]) == 0
    before, after = (WavLM.from_pretrained(place).state_dict() for place in (runs / "encoder", folder))
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert moved and not any("feature_extractor" in name for name in moved)  # the convolutions stay frozen

    row = next(predict_files(open_head(tmp_path / "er", "cpu"), [recording], 60.0))
    answer = transformers.pipeline("audio-classification", model=str(folder), device="cpu")(
        load_mono(recording), top_k=4
    )
    assert answer[0]["label"] == row["emotion"] and len(answer) == 4
    assert answer[0]["score"] == pytest.approx(row["probability"], abs=1e-4)


def test_the_folder_predicts_as_its_run_does(runs, recording, tmp_path):
    assert main(["export", str(runs / "ks"), str(tmp_path)]) == 0
    for place in (runs / "ks", tmp_path):
        assert holds_head(place)
    row, again = (next(predict_files(open_head(place, "cpu"), [recording], 60.0)) for place in (runs / "ks", tmp_path))
    assert row["keyword"] == again["keyword"] and row["probability"] == pytest.approx(again["probability"], abs=1e-4)
    assert np.array_equal(open_head(tmp_path, "cpu").read(recording), gain(load_mono(recording), -3.0))
    assert main(["export", str(tmp_path), str(tmp_path / "again")]) == 0
    models = [transformers.WavLMForSequenceClassification.from_pretrained(p) for p in (tmp_path, tmp_path / "again")]
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_head_that_transformers_lacks_and_the_encoder_below_it(runs, tmp_path, capsys):
    capsys.readouterr()
    assert main(["export", str(runs / "sd"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.strip()
    assert "an LSTM before its linear layer" in said and len(said.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    wanted = WavLM.from_pretrained(runs / "encoder").state_dict()
    assert main(["export", str(runs / "ks"), str(tmp_path / "hf")]) == 0
    for number, source in enumerate((runs / "sd", tmp_path / "hf")):
        folder = tmp_path / f"encoder{number}"
        assert main(["export", str(source), str(folder), "--encoder"]) == 0
        assert not holds_head(folder)
        state = WavLM.from_pretrained(folder).state_dict()
        assert all(torch.equal(state[name], wanted[name]) for name in wanted)


def test_the_folder_predicts_from_the_command_line(runs, recording, tmp_path, capsys):
    assert main(["export", str(runs / "ks"), str(tmp_path)]) == 0
    said = []
    for place in (runs / "ks", tmp_path):
        capsys.readouterr()
        assert main(["predict", str(place), str(recording), "--device", "cpu", "--json"]) == 0
        said.append(json.loads(capsys.readouterr().out))
    assert said[0]["keyword"] == said[1]["keyword"]
    assert said[0]["probability"] == pytest.approx(said[1]["probability"], abs=1e-4)
