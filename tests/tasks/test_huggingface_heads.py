"""Heads of the transformers library and ours: the same scores, both ways."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers

from wavlm_lightning.cli import main
from wavlm_lightning.data.batch import Targets, Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import (
    EmotionRecognition,
    IntentClassification,
    KeywordSpotting,
    PhonemeRecognition,
    SpeakerDiarization,
    SpeakerVerification,
    SpeechRecognition,
)
from wavlm_lightning.tasks.content.fine_tuned_recognition import FineTunedRecognition
from wavlm_lightning.tasks.huggingface.export import write_head_folder
from wavlm_lightning.tasks.huggingface.reading import huggingface_head
from wavlm_lightning.upstreams import Fbank, WavLMUpstream

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SHAPE = {
    "conv_dim": [16] * 3,
    "conv_kernel": [10, 8, 4],
    "conv_stride": [5, 8, 8],
    "num_feat_extract_layers": 3,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 4,
    "classifier_proj_size": 24,
    "tdnn_dim": [24, 24, 24, 24, 40],
    "xvector_output_dim": 20,
    "num_labels": 4,
    "vocab_size": 9,
}
PRE_NORM = {"do_stable_layer_norm": True, "feat_extract_norm": "layer"}
LETTERS = ["|", "e", "t", "a", "<unk>", "<s>", "[PAD]", "o", "n"]
OURS = {
    "conv_channels": [16] * 3,
    "conv_kernels": [10, 8, 4],
    "conv_strides": [5, 8, 8],
    "dim": 32,
    "ffn_dim": 48,
    "layers": 2,
    "heads": 4,
}


def waveforms(seed: int, shortest: int = 6000) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.01, 0.1, rng.integers(shortest, 16_000)).astype(np.float32) for _ in range(3)]


def folder_of(path, name: str, normalise: bool = False, **config):
    """A random model of transformers, saved with its feature extractor and, for CTC, a vocabulary."""
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    model = kind(kind.config_class(**SHAPE, **config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # biases of 0 and layer weights that are all alike would hide mistakes
            parameter.add_(0.05 * torch.randn_like(parameter))
    model.save_pretrained(path)
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=normalise)
    extractor.save_pretrained(path)
    if name.endswith("CTC"):
        (path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(LETTERS)}))
    return model, extractor


@torch.no_grad()
def theirs(model, extractor, recordings) -> list[torch.Tensor]:
    """Row by row: in a padded batch transformers' answers depend on the padding."""
    outputs = [model(**extractor(row, sampling_rate=16_000, return_tensors="pt")) for row in recordings]
    return [output.embeddings[0] if "embeddings" in output else output.logits[0] for output in outputs]


@torch.no_grad()
def assert_same(task, rows, recordings, rectified=False) -> None:
    """One padded batch of ours against single recordings of theirs."""
    outputs, lengths = task(Waveforms.pad(recordings))
    for output, length, row in zip(outputs, lengths, rows, strict=True):
        row = row.relu() if rectified else row
        output = output[:length] if output.ndim == 2 else output
        assert output.shape == row.shape and (output - row).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("name", "config", "normalise"),
    [
        ("WavLMForSequenceClassification", {"use_weighted_layer_sum": True}, False),
        ("WavLMForSequenceClassification", {"use_weighted_layer_sum": True, **PRE_NORM}, True),
        ("WavLMForSequenceClassification", {**PRE_NORM}, True),
        ("HubertForSequenceClassification", {"use_weighted_layer_sum": True}, False),
        ("WavLMForXVector", {"use_weighted_layer_sum": True}, False),
        ("Wav2Vec2ForXVector", {}, True),
        ("WavLMForAudioFrameClassification", {"use_weighted_layer_sum": True}, False),
        ("WavLMForAudioFrameClassification", {}, False),
        ("WavLMForCTC", {"pad_token_id": 6}, False),
        ("HubertForCTC", {"pad_token_id": 0, **PRE_NORM}, True),
    ],
)
def test_a_head_from_there_says_the_same_here_and_back_there(tmp_path, name, config, normalise):
    model, extractor = folder_of(tmp_path / "source", name, normalise, **config)
    recordings = waveforms(1)
    rows = theirs(model, extractor, recordings)
    task = huggingface_head(str(tmp_path / "source"))
    blank = config.get("pad_token_id", 0) if name.endswith("CTC") else 0
    if blank:
        order = list(range(len(LETTERS)))
        order[0], order[blank] = blank, 0
        assert task.labels == [LETTERS[number] for number in order]
        rows = [row[:, order] for row in rows]
    assert_same(task, rows, recordings)
    if name.startswith("Wav2Vec2"):  # ours are written as HuBERTs, of which there is no x-vector
        with pytest.raises(UserError, match="no ForXVector"):
            write_head_folder(tmp_path / "back", task, {})
        return
    assert write_head_folder(tmp_path / "back", task, {}) == name
    again, report = type(model).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    reread = transformers.AutoFeatureExtractor.from_pretrained(tmp_path / "back")
    for row, other in zip(rows, theirs(again.eval(), reread, recordings), strict=True):
        assert (row - other).abs().max() < 1e-5


def test_a_folder_of_version_4_has_the_last_state_behind_the_norm(tmp_path):
    """As version 4 computed what these heads were trained on, and version 5 does with `tie_last_hidden_states`."""
    config = {"use_weighted_layer_sum": True, **PRE_NORM}
    tied = folder_of(tmp_path / "tied", "HubertForSequenceClassification", True, tie_last_hidden_states=True, **config)
    folder_of(tmp_path / "old", "HubertForSequenceClassification", True, **config)
    written = json.loads((tmp_path / "old" / "config.json").read_text())
    written.pop("tie_last_hidden_states", None)
    written["transformers_version"] = "4.10.0.dev0"
    (tmp_path / "old" / "config.json").write_text(json.dumps(written))
    recordings = waveforms(1)
    assert_same(huggingface_head(str(tmp_path / "old")), theirs(*tied, recordings), recordings)


HEADS = [
    (KeywordSpotting, list("abc"), {"hidden": 24}, "ForSequenceClassification"),
    # `config.json` is written with sorted keys, so these slots come back in another order than that of the logits.
    (IntentClassification, {"place": ["off", "in", "out"], "action": ["on", "off"]}, {}, "ForSequenceClassification"),
    (
        SpeakerVerification,
        list("pqrs"),
        {"hidden": 24, "widths": (24, 24, 24, 24, 40), "embedding": 20},
        "ForXVector",
    ),
]


def trained(kind, labels, upstream=None, **arguments):
    """A head with random weights everywhere."""
    upstream = upstream or WavLMUpstream("tiny", overrides=OURS)
    task = kind(upstream, **arguments)
    task.build(labels)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in task.named_parameters():
        if not name.startswith("upstream."):
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return task.eval()


@pytest.mark.parametrize(("kind", "labels", "arguments", "name"), HEADS)
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"pre_norm": True, "conv_norm": "layer", "normalize_waveform": True},
        {"position_bias": "ungated"},
        {"position_bias": "none"},
    ],
)
def test_a_head_of_ours_says_the_same_there(tmp_path, kind, labels, arguments, name, overrides):
    task = trained(kind, labels, WavLMUpstream("tiny", overrides={**OURS, **overrides}), **arguments)
    if overrides.get("position_bias") == "none" and kind is SpeakerVerification:
        with pytest.raises(UserError, match="its encoder is a HuBERT"):
            write_head_folder(tmp_path, task, {})
        assert not list(tmp_path.iterdir())
        return
    architecture = write_head_folder(tmp_path, task, {"gain_db": -3.0})
    assert architecture.endswith(name)
    model, report = getattr(transformers, architecture).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    recordings = waveforms(2)
    rows = theirs(model.eval(), transformers.AutoFeatureExtractor.from_pretrained(tmp_path), recordings)
    assert_same(task, rows, recordings, rectified=kind is SpeakerVerification)
    back = huggingface_head(str(tmp_path))
    assert (back.name, back.labels, back.trained) == (task.name, labels, {"processing": {"gain_db": -3.0}})
    assert list(back.labels) == list(labels)
    assert_same(back, rows, recordings, rectified=kind is SpeakerVerification)


@pytest.mark.parametrize(
    ("kind", "labels", "arguments", "difference"),
    [
        (SpeakerDiarization, ["speaker1", "speaker2"], {"hidden": 8}, "an LSTM before its linear layer"),
        (SpeechRecognition, list("_abc"), {"hidden": 8}, "two LSTMs"),
        (PhonemeRecognition, list("_abc"), {}, "WavLMForCTC the last layer alone"),
        (EmotionRecognition, list("abc"), {"normalize": True}, "normalises each layer"),
        (SpeakerVerification, list("pq"), {"hidden": 16, "widths": (24,) * 5}, "its projection has 16 outputs"),
        (KeywordSpotting, list("abc"), {"upstream": Fbank(cmvn=False)}, "its upstream is a Fbank"),
    ],
)
def test_what_does_not_fit_is_refused_by_what_differs(tmp_path, kind, labels, arguments, difference):
    with pytest.raises(UserError, match=difference):
        write_head_folder(tmp_path / "out", trained(kind, labels, **arguments), {})
    assert not (tmp_path / "out").exists()


def test_folders_that_are_no_heads(tmp_path):
    folder_of(tmp_path / "encoder", "WavLMModel")
    folder_of(tmp_path / "ctc", "WavLMForCTC")
    (tmp_path / "ctc" / "vocab.json").unlink()
    folder_of(tmp_path / "wide", "WavLMForXVector", tdnn_kernel=[5, 3, 5, 1, 1])
    folder_of(tmp_path / "classes", "WavLMForSequenceClassification")
    for name, arguments, said in (
        ("nothing", {}, "no config.json"),
        ("encoder", {}, "names 'WavLMModel', which is not a supported head"),
        ("ctc", {}, "no vocab.json"),
        ("wide", {}, r"tdnn_kernel is \[5, 3, 5, 1, 1\]"),
        ("classes", {"task": "SV"}, "which cannot do SV; it can do KS, SID, ER, IC"),
        ("classes", {"task": "IC"}, "does not name the slot of each label"),
    ):
        with pytest.raises(UserError, match=said):
            huggingface_head(str(tmp_path / name), **arguments)


def scored(tmp_path, source, corpus, *options: str) -> ResultCard:
    arguments = [
        "test",
        "--model",
        "wavlm_lightning.tasks.huggingface.huggingface_head",
        "--model.source",
        str(source),
    ]
    arguments += [
        "--data",
        "TaskData",
        "--data.corpus",
        str(corpus),
        "--trainer.default_root_dir",
        str(tmp_path / "run"),
    ]
    arguments += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false", *options]
    assert main(arguments) == 0
    return ResultCard.read(tmp_path / "run" / "card.json")


def test_a_classifier_is_scored_on_a_corpus_with_its_labels_in_any_order(tiny, tmp_path, capsys):
    words = Corpus.open(tiny / "ks").inventory("keywords")
    names = dict(enumerate([*reversed(words), "never"]))
    options = {"id2label": names, "label2id": {name: number for number, name in names.items()}}
    torch.manual_seed(0)
    config = transformers.WavLMConfig(**{k: v for k, v in SHAPE.items() if k != "num_labels"}, **options)
    model = transformers.WavLMForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "source")
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=False)
    card = scored(tmp_path, tmp_path / "source", tiny / "ks", "--model.task", "KS")
    split = Corpus.open(tiny / "ks").split("test")
    right = 0
    for _, waveform, meta in split.utterances():
        row = theirs(model, extractor, [waveform])[0]
        right += names[int(row.argmax())] == meta["keyword"]
    assert card.task == "KS" and card.value == pytest.approx(100 * right / len(split), abs=1e-3)
    capsys.readouterr()
    arguments = ["test", "--model", "wavlm_lightning.tasks.huggingface.huggingface_head", "--model.task", "ER"]
    arguments += ["--model.source", str(tmp_path / "source"), "--data", "TaskData", "--data.corpus", str(tiny / "er")]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "er"), "--data.test_split"]
    assert main([*arguments, Corpus.open(tiny / "er").splits[0]]) == 2
    assert "which this head of" in (said := capsys.readouterr().err) and len(said.strip().splitlines()) == 1


@pytest.mark.parametrize(("name", "corpus", "task", "metric"), [
    ("WavLMForXVector", "sv", "SV", "eer"),
    ("WavLMForAudioFrameClassification", "sd", "SD", "der"),
    ("WavLMForCTC", "pr", "ASR", "wer"),
])  # fmt: skip
def test_other_heads_are_scored_too(tiny, tmp_path, name, corpus, task, metric):
    config = {"pad_token_id": 6} if name.endswith("CTC") else {"num_labels": 2} if corpus == "sd" else {}
    shape = {**SHAPE, **config}
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    kind(kind.config_class(**shape)).save_pretrained(tmp_path / "source")
    (tmp_path / "source" / "vocab.json").write_text(json.dumps({token: place for place, token in enumerate(LETTERS)}))
    card = scored(tmp_path, tmp_path / "source", tiny / corpus)
    assert (card.task, card.headline, card.upstream["layers"]) == (task, metric, 1)
    assert card.value >= 0 and card.corpus["utterances"] == len(Corpus.open(tiny / corpus).split("test"))


def test_letters_are_spelled_as_transformers_spells_them(tmp_path):
    folder_of(tmp_path, "WavLMForCTC", pad_token_id=6)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", "word_delimiter_token": "|"}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), pad_token="[PAD]", bos_token="<s>")
    task = huggingface_head(str(tmp_path))
    rng = np.random.default_rng(0)
    numbers = rng.choice([0, 1, 2, 3, 6, 7, 8], (20, 30))  # without <unk> and <s>
    swapped = np.where(numbers == 6, 0, np.where(numbers == 0, 6, numbers))
    logits = torch.nn.functional.one_hot(torch.tensor(swapped), len(LETTERS)).float()
    said = [row["text"] for row in task.readable(logits, torch.full((20,), 30))]
    assert said == [" ".join(text.split()) for text in tokenizer.batch_decode(torch.tensor(numbers))]
    target = task.read_target({"text": "A note, eaten."})
    assert task.spell(target.tolist()) == "a note eaten"


def test_an_exported_recogniser_writes_what_its_run_writes(tmp_path):
    task = trained(FineTunedRecognition, ["<s>", "<pad>", "</s>", "<unk>", "|", *"TEAON"], alphabet="corpus")
    write_head_folder(tmp_path, task, {})
    back = huggingface_head(str(tmp_path))
    rng = np.random.default_rng(0)
    logits = torch.nn.functional.one_hot(torch.tensor(rng.integers(0, 10, (20, 30))), 10).float()
    said = task.decode(logits, torch.full((20,), 30))
    assert back.decode(logits, torch.full((20,), 30)) == said and "\ufffd" not in "".join(said)
    texts = [Targets.pad([each.read_target({"text": "a ten to ñ Zoë"})]) for each in (task, back)]
    assert task.references(texts[0]) == back.references(texts[1]) == ["A TEN TO \ufffd \ufffdO\ufffd"]


def test_a_head_from_there_is_trained_further_and_predicts_from_its_run(tiny, tmp_path, capsys):
    words = Corpus.open(tiny / "ks").inventory("keywords")
    folder_of(tmp_path / "source", "WavLMForSequenceClassification", use_weighted_layer_sum=True)
    path = tmp_path / "source" / "config.json"
    values = json.loads(path.read_text())
    torch.manual_seed(0)
    shape = {key: value for key, value in SHAPE.items() if key != "num_labels"}
    config = transformers.WavLMConfig(**shape, use_weighted_layer_sum=True, id2label=dict(enumerate(words)))
    transformers.WavLMForSequenceClassification(config).save_pretrained(tmp_path / "source")
    assert json.loads(path.read_text())["id2label"] != values["id2label"]
    arguments = ["fit", "--model", "wavlm_lightning.tasks.huggingface.huggingface_head", "--model.task", "KS"]
    arguments += ["--model.source", str(tmp_path / "source"), "--data", "TaskData", "--data.corpus", str(tiny / "ks")]
    arguments += ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_steps", "2"]
    arguments += ["--trainer.val_check_interval", "1", "--trainer.accelerator", "cpu"]
    arguments += ["--trainer.check_val_every_n_epoch", "null", "--trainer.enable_progress_bar", "false"]
    arguments += ["--model.learning_rate", "0.01"]
    assert main(arguments) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "out")]) == 0
    before, after = (huggingface_head(str(tmp_path / name), task="KS") for name in ("source", "out"))
    assert not torch.equal(before.classifier.weight, after.classifier.weight) and after.labels == words
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    assert torch.equal(best["classifier.weight"], after.classifier.weight)
    capsys.readouterr()
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "encoder"), "--encoder"]) == 2
    assert f"started from {tmp_path / 'source'}; export the encoder from there" in capsys.readouterr().err


# Keys of other people's folders that change the meaning.


def changed(folder, name: str, **values) -> None:
    path = folder / name
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(content | values))


def test_labels_that_do_not_exclude_each_other_and_numbers(tmp_path):
    """transformers#28433: a softmax over labels that may all be true says "label b, probability 0.5"."""
    model, extractor = folder_of(tmp_path, "WavLMForSequenceClassification")
    recordings = waveforms(4)
    rows = theirs(model, extractor, recordings)
    for problem, key, applied in (
        ("multi_label_classification", "labels", torch.sigmoid),
        ("regression", "values", torch.nn.Identity()),
    ):
        changed(tmp_path, "config.json", problem_type=problem)
        task = huggingface_head(str(tmp_path))
        outputs, lengths = task(Waveforms.pad(recordings))
        for said, row in zip(task.readable(outputs.detach(), lengths), rows, strict=True):
            wanted = {f"LABEL_{place}": value for place, value in enumerate(applied(row).tolist())}
            assert said[key] == pytest.approx(wanted, abs=2e-4)
        assert write_head_folder(tmp_path / problem, task, {}) == "WavLMForSequenceClassification"
        assert json.loads((tmp_path / problem / "config.json").read_text())["problem_type"] == problem
        with pytest.raises(UserError, match=f"problem_type {problem}, which cannot do KS"):
            huggingface_head(str(tmp_path), task="KS")


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("config.json", {"problem_type": "ranking"}, "problem_type 'ranking' is not one of"),
        ("config.json", {"id2label": {"0": "a", "2": "c"}}, "id2label must name each of the 4 outputs"),
        ("config.json", {"num_labels": 3, "id2label": None}, "num_labels is 3, but the head has 4 outputs"),
        ("config.json", {"pruned_heads": {"1": [0]}}, "pruned_heads, which is not supported"),
        ("config.json", {"quantization_config": {"bits": 8}}, "quantization_config, which is not supported"),
        ("config.json", {"add_adapter": True}, "add_adapter True"),
        ("config.json", {"adapter_attn_dim": 16}, "adapter_attn_dim 16"),
        ("config.json", {"use_weighted_layer_sum": True}, "do not fit"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate 8000, but only 16000"),
        ("preprocessor_config.json", {"feature_extractor_type": "ASTFeatureExtractor"}, "feature_extractor_type"),
        ("preprocessor_config.json", {"do_normalize": "no"}, "do_normalize no, which is not true or false"),
    ],
)
def test_what_is_not_read_right_is_refused_by_name(tmp_path, file, values, said):
    folder_of(tmp_path, "WavLMForSequenceClassification")
    changed(tmp_path, file, **values)
    with pytest.raises(UserError, match=said):
        huggingface_head(str(tmp_path))


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        (
            "config.json",
            {"pad_token_id": 0},
            r"pad_token_id 0, is '\|', but the tokeniser pads with '\[PAD\]', which is 6",
        ),
        ("config.json", {"pad_token_id": None}, "pad_token_id None"),
        ("config.json", {"vocab_size": 12}, "vocab_size is 12, but the head has 9 outputs"),
        ("tokenizer_config.json", {"word_delimiter_token": "<unk>"}, "word_delimiter_token '<unk>'"),
    ],
)
def test_a_vocabulary_that_contradicts_the_head_is_refused(tmp_path, file, values, said):
    folder_of(tmp_path, "WavLMForCTC", pad_token_id=6)
    changed(tmp_path, "tokenizer_config.json", pad_token={"content": "[PAD]", "lstrip": False})
    assert huggingface_head(str(tmp_path)).labels[0] == "[PAD]"
    changed(tmp_path, file, **values)
    with pytest.raises(UserError, match=said):
        huggingface_head(str(tmp_path))


def test_the_tokeniser_says_what_ends_words_and_which_case(tmp_path):
    folder_of(tmp_path, "WavLMForCTC", pad_token_id=6)
    letters = ["_", "E", "T", "A", "<unk>", "<s>", "[PAD]", "O", "N"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(letters)}))
    said = {"pad_token": "[PAD]", "word_delimiter_token": "_", "do_lower_case": True}
    changed(tmp_path, "tokenizer_config.json", **said)
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"), bos_token="<s>", **said)
    task = huggingface_head(str(tmp_path))
    numbers = [3, 0, 8, 7, 2, 6, 2, 1]
    wanted = tokenizer.decode(numbers)
    assert task.spell([{6: 0, 0: 6}.get(n, n) for n in numbers if n != 6]) == wanted == "a nott e".replace(" e", "e")
