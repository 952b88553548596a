"""Recognition by fine-tuning: the loss and gradients of transformers' WavLMForCTC, the published head, and its export."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from quiet import quiet_trainer
from safetensors.torch import load_file, save_file
from torch import nn

from wavlm_lightning.callbacks.transcripts import ShowTranscripts
from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import FineTunedRecognition, TaskData
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.content.letters import LETTERS, SPECIAL
from wavlm_lightning.tasks.huggingface.export import write_head_folder
from wavlm_lightning.training.schedules import Schedule
from wavlm_lightning.upstreams import FineTuning, WavLMUpstream

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SHAPE = {"layers": 2, "conv_channels": [8] * 7, "dim": 32, "heads": 4, "ffn_dim": 48}
LAYER_NORM = {"conv_norm": "layer"}  # with group norm transformers' features depend on the padding


def task_of(seed: int = 0, tuned: FineTuning | None = None, shape: str = "tiny", **overrides) -> FineTunedRecognition:
    """A trained encoder, small unless it is another shape, with the head; no weight is zero."""
    small = SHAPE if shape == "tiny" else {}
    encoder = WavLMUpstream(shape, overrides={**small, **overrides}, frozen=False, fine_tuning=tuned or FineTuning())
    task = FineTunedRecognition(encoder, 1e-4)
    task.build([*SPECIAL, "|", *LETTERS])
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return task


def batch_of(task: FineTunedRecognition, seed: int) -> TaskBatch:
    """Noise of random lengths with random words, one of which has too many letters for its frames."""
    rng = np.random.default_rng(seed)
    samples = [int(n) for n in rng.integers(4000, 24_000, 4)]
    waveforms = [rng.normal(0, 0.1, n).astype(np.float32) for n in samples]
    words = ["".join(rng.choice(list(LETTERS), rng.integers(1, 4))) for _ in range(3)] + ["A" * 90]
    targets = [task.read_target({"text": word}) for word in words]
    return TaskBatch([str(n) for n in range(4)], Waveforms.pad(waveforms), Targets.pad(targets))


@pytest.mark.parametrize("overrides", [LAYER_NORM, {**LAYER_NORM, "pre_norm": True, "normalize_waveform": True}, {}])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_and_gradients_of_transformers(tmp_path, monkeypatch, overrides, masked):
    """`WavLMForCTC` with the sum as its reduction, divided by the utterances, in eval mode; masks are given to both."""
    compare_with_transformers(task_of(**overrides), tmp_path, monkeypatch, masked)


@pytest.mark.slow
@pytest.mark.long
def test_loss_and_gradients_of_transformers_in_base(tmp_path, monkeypatch):
    """The same with all layers and widths of Base, masked, as its recipes train it: with fixed convolutions."""
    tuned = FineTuning(time_mask_probability=0.65, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0)
    task = task_of(shape="base", tuned=tuned)
    with torch.no_grad():  # the noise on weights of a tiny shape drives 12 wide layers out of their range
        for parameter in task.parameters():
            parameter.mul_(0.5)
    assert sum(parameter.numel() for parameter in task.parameters()) > 94e6
    compare_with_transformers(task, tmp_path, monkeypatch, masked=True)


def compare_with_transformers(task, tmp_path, monkeypatch, masked):
    """Loss and gradients in double precision."""
    normalizes = task.upstream.encoder.config.normalize_waveform
    write_head_folder(tmp_path, task, {})
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    config.ctc_loss_reduction, config.ctc_zero_infinity, config.apply_spec_augment = "sum", True, True
    model = transformers.WavLMForCTC.from_pretrained(tmp_path, config=config).eval().double()
    task.double()
    batch = batch_of(task, seed=3)
    waveforms, lengths = batch.inputs.audio.double(), batch.inputs.lengths
    frames = task.upstream.encoder.config.frames(lengths)
    mask = torch.rand(len(lengths), int(frames.max()), generator=torch.Generator().manual_seed(5)) < 0.3
    mask &= torch.arange(mask.shape[1]) < frames[:, None]

    if masked:
        embedding = task.upstream.mask_embedding
        monkeypatch.setattr(task.upstream, "mask_inputs", lambda x, _: torch.where(mask[:, :, None], embedding, x))
    loss = task.eval().loss(*task(Waveforms(waveforms, lengths)), batch.targets)
    loss.backward()

    wanted = torch.zeros((), dtype=torch.float64)
    for row, samples in enumerate(lengths.tolist()):  # row by row: their padded batches depend on the padding
        prepared = waveforms[row : row + 1, :samples]
        if normalizes:
            prepared = (prepared - prepared.mean()) / torch.sqrt(prepared.var(unbiased=False) + 1e-5)
        here = mask[row : row + 1, : frames[row]] if masked else None
        logits = model.lm_head(model.wavlm(prepared, mask_time_indices=here).last_hidden_state)
        labels = batch.targets.values[row : row + 1, : batch.targets.lengths[row]]
        spoken = logits.log_softmax(-1).transpose(0, 1)
        sizes = frames[row : row + 1], batch.targets.lengths[row : row + 1]
        summed = nn.functional.ctc_loss(spoken, labels, *sizes, reduction="sum", zero_infinity=True)
        if not masked and row < 3:  # their own loss of the same
            own = model(prepared, labels=labels).loss
            assert own.item() == pytest.approx(summed.item(), rel=1e-6)
        wanted = wanted + summed / len(lengths)
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-7)
    ours = {name: parameter.grad for name, parameter in task.named_parameters() if parameter.grad is not None}
    theirs = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    compared, scale = 0, max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in ours.items():
        their = theirs.get(name.replace("upstream.encoder.", "wavlm."))
        if their is None or their.shape != gradient.shape:
            continue
        if "feature_extractor" in name:  # ours are scaled by the configuration, as in pre-training
            continue
        assert (gradient - their).abs().max() < 1e-6 * scale, name
        compared += 1
    assert compared > 20


def test_an_update_divides_by_the_utterances_of_all_its_batches(tiny):
    """Three batches of unequal sizes, accumulated: the gradient of the mean over utterances, not of the mean of means."""
    seen: list[tuple[int, torch.Tensor]] = []

    class Watched(FineTunedRecognition):
        def training_step(self, batch, batch_idx):
            loss = super().training_step(batch, batch_idx)
            (gradient,) = torch.autograd.grad(loss, self.lm_head.bias, retain_graph=True)
            seen.append((len(batch.keys), gradient))
            return loss

        def on_before_optimizer_step(self, optimizer):
            super().on_before_optimizer_step(optimizer)
            self.found = self.lm_head.bias.grad.clone()

    task = Watched(WavLMUpstream("tiny", overrides=SHAPE), 1e-3, alphabet="corpus")
    trainer = quiet_trainer(max_steps=1, accumulate_grad_batches=3, limit_val_batches=0)
    trainer.fit(task, TaskData(str(tiny / "pr"), batch_size=4, batch_seconds=5.0))
    sizes = [size for size, _ in seen]
    assert len(sizes) == 3 and len(set(sizes)) > 1
    wanted = sum(gradient for _, gradient in seen) / sum(sizes)
    assert torch.allclose(task.found, wanted, rtol=1e-4, atol=1e-6)


def test_targets_and_spelling_are_fairseqs():
    task = task_of()
    target = task.read_target({"text": "Don't go."})
    assert [task.labels[number] for number in target] == list("DON'T|GO|")
    assert task.spell([*target.tolist(), 2, 3]) == "DON'T GO"
    assert len(task.labels) == 32 and task.labels.index("|") == 4


def test_the_head_reads_the_top_layer_whatever_it_is_given():
    task = task_of().eval()
    audio = Waveforms.pad([np.ones(8000, np.float32), np.ones(5000, np.float32)])
    direct, lengths = task(audio)
    layers = task.upstream(audio.audio, audio.lengths)
    assert layers.hidden.shape[0] == task.upstream.num_layers == 3
    assert torch.equal(task.from_layers(layers, audio)[0], direct)
    assert torch.equal(task.from_layers(Layers(layers.hidden[-1:], lengths, 50.0), audio)[0], direct)
    assert task.weighted_sum.weights() == [] and not list(task.weighted_sum.parameters())


def test_the_published_number_of_parameters():
    """Linear(768, 32), as in fairseq's fine-tuned Base."""
    task = FineTunedRecognition(WavLMUpstream("tiny", overrides={**SHAPE, "dim": 768, "heads": 12}))
    task.build([*SPECIAL, "|", *LETTERS])
    trained = sum(parameter.numel() for parameter in task.parameters() if parameter.requires_grad)
    assert trained == 768 * 32 + 32


def test_a_pipeline_of_transformers_reads_what_is_exported(tmp_path):
    task = task_of(**LAYER_NORM).eval()
    write_head_folder(tmp_path, task, {})
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["pad_token"] == "<s>"
    pipe = transformers.pipeline("automatic-speech-recognition", str(tmp_path), device="cpu")
    rng = np.random.default_rng(0)
    recordings = [rng.normal(0, 0.1, n).astype(np.float32) for n in (9000, 16_000)]
    with torch.no_grad():
        ours = task.decode(*task(Waveforms.pad(recordings)))
    said = [pipe(row)["text"] for row in recordings]
    # Theirs spells out special symbols, which only an untrained head answers.
    assert [re.sub(r"<[a-z/]+>", "", text) for text in said] == ours and any(said)


def test_a_few_updates_learn_a_sentence(tiny):
    """The encoder wakes after half of them; the loss of the training batches falls."""
    corpus = Corpus.open(tiny / "pr")
    tuned = FineTuning(from_update=5, time_mask_probability=0.2, channel_mask_probability=0.1, channel_mask_channels=4)
    task = FineTunedRecognition(
        WavLMUpstream("tiny", overrides=SHAPE, frozen=False, fine_tuning=tuned), 1e-2, alphabet="corpus"
    )
    losses = []

    trainer = quiet_trainer(max_steps=20, limit_val_batches=0)
    before = {name: value.clone() for name, value in task.upstream.state_dict().items()}
    original = task.loss
    task.loss = lambda *arguments: losses.append(original(*arguments)) or losses[-1]  # type: ignore[method-assign]
    trainer.fit(task, TaskData(str(corpus.directory), batch_size=8))
    assert float(sum(losses[-3:])) < 0.7 * float(sum(losses[:3]))
    assert any(not torch.equal(value, before[name]) for name, value in task.upstream.state_dict().items())


def test_interrupted_in_each_phase_and_resumed_exactly(tiny, tmp_path):
    """Frozen (2 updates), awake at the peak (4), decaying (7): masks, dropouts and rates go on as if nothing had happened."""
    tuned = FineTuning(
        from_update=3,
        time_mask_probability=0.3,
        channel_mask_probability=0.2,
        channel_mask_channels=4,
        layer_drop=0.2,
        activation_dropout=0.1,
    )

    def run(checkpoint=None, **settings):
        encoder = WavLMUpstream("tiny", overrides=SHAPE, frozen=False, fine_tuning=tuned)
        schedule = Schedule("tri_stage", warmup=0.2, hold=0.4)
        task = FineTunedRecognition(encoder, 5e-3, 0.1, alphabet="corpus", schedule=schedule)
        trainer = quiet_trainer(max_steps=10, accumulate_grad_batches=2, limit_val_batches=0, **settings)
        data = TaskData(str(tiny / "pr"), batch_size=3, batch_seconds=6.0)
        trainer.fit(task, data, ckpt_path=checkpoint, weights_only=True)
        return {name: value.clone() for name, value in task.state_dict().items()}, trainer

    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    straight, _trainer = run(callbacks=[saver])
    states = {
        step: torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)["optimizer_states"][0]
        for step in (2, 4, 7, 10)
    }
    rates = {step: state["param_groups"][0]["lr"] for step, state in states.items()}
    assert rates[2] == rates[4] == 5e-3 > rates[7] > rates[10]  # of the update after that many
    assert len(states[2]["state"]) < len(states[4]["state"])  # the encoder has no moments before it wakes
    for step in (2, 4, 7):
        resumed, _ = run(tmp_path / f"step={step}.ckpt")
        assert resumed.keys() == straight.keys()
        assert all(torch.equal(resumed[name], value) for name, value in straight.items()), step


def test_letters_of_a_corpus_are_listed_and_what_is_left_out_is_counted():
    """Letters that are too rare become one unknown label, which makes their words wrong; the texts' punctuation is counted."""
    split = SimpleNamespace(name="train", metas=lambda: [{"text": "¿Qué? ¡Sí, sí!"}, {"text": "Ŝi, que sí"}])
    corpus: Any = SimpleNamespace(directory="there", split=lambda name: split)
    encoder = WavLMUpstream("tiny", overrides=SHAPE)
    task = FineTunedRecognition(encoder, alphabet="corpus", rare_letters=1)
    task.labels = task.read_labels(corpus)
    assert task.labels == [*SPECIAL, "|", "S", "Í", "Q", "U"]
    letters, rare, marks = task.alphabet_notes
    assert letters == "4 letters of train, upper case, in NFC: S Í Q U"
    assert rare.endswith("E 1, I 1, É 1, Ŝ 1") and marks.endswith(", 2, ! 1, ? 1, ¡ 1, ¿ 1")
    target = task.read_target({"text": "Ŝi sí"})
    assert task.spell(target.tolist()) == "SÍ"
    assert task.references(Targets(target[None], torch.tensor([len(target)]))) == ["\ufffd\ufffd SÍ"]
    with pytest.raises(UserError, match=r"rare_letters 3 leaves no letter of split train"):
        FineTunedRecognition(encoder, alphabet="corpus", rare_letters=3).read_labels(corpus)
    with pytest.raises(UserError, match=r"rare_letters needs model\.alphabet: corpus"):
        FineTunedRecognition(encoder, rare_letters=3)


def test_people_see_the_error_rate_and_sentences_while_it_trains(tiny, tmp_path, capsys):
    task = FineTunedRecognition(WavLMUpstream("tiny", overrides=SHAPE), 1e-2, alphabet="corpus")
    trainer = quiet_trainer(
        max_steps=4, val_check_interval=2, check_val_every_n_epoch=None, callbacks=[ShowTranscripts()]
    )
    trainer.fit(task, TaskData(str(tiny / "pr"), batch_size=4))
    spoken = [row.spoken for row in task.transcripts]
    lines = capsys.readouterr().err.splitlines()
    heads = [line for line in lines if line.startswith("ASR-FT, update ")]
    assert [head.split(":")[0] for head in heads] == ["ASR-FT, update 2", "ASR-FT, update 4"]
    assert heads[-1].endswith(f"WER {100 * float(trainer.callback_metrics['valid/wer']):.2f} % on valid")
    texts = [line.removeprefix("  spoken  ") for line in lines if line.startswith("  spoken  ")]
    assert texts == spoken[:2] * 2 and texts[0] in {
        spoken_text(meta["text"]) for meta in Corpus.open(tiny / "pr").split("valid").metas()
    }


def test_a_released_folder_goes_on_training_in_another_alphabet(tiny, tmp_path):
    """Its encoder and the outputs of the letters that both have, by symbol, whatever their order, case and blank."""
    released = task_of(seed=1)
    write_head_folder(tmp_path, released, {})
    # As a published model names them: small letters, another order, the blank last.
    names = [*(label.lower() for label in reversed(released.labels[1:])), "<pad>"]
    names[names.index("<pad>")] = "<s>"
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "pad_token_id": len(names) - 1}))
    (tmp_path / "vocab.json").write_text(json.dumps({name: number for number, name in enumerate(names)}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"pad_token": "<pad>", "word_delimiter_token": "|"}))
    state = load_file(tmp_path / "model.safetensors")
    order = [*reversed(range(1, len(names))), 0]
    save_file(
        {n: v[order] if n.startswith("lm_head.") else v for n, v in state.items()}, tmp_path / "model.safetensors"
    )

    def begun(**settings):
        encoder = WavLMUpstream(str(tmp_path), frozen=False, fine_tuning=FineTuning(from_update=1))
        task = FineTunedRecognition(encoder, 1e-3, alphabet="corpus", start_from=str(tmp_path), **settings)
        trainer = quiet_trainer(max_steps=2, limit_val_batches=0)
        first: dict[str, torch.Tensor] = {}

        class Start(Callback):
            def on_train_start(self, trainer, pl_module):
                first.update({name: value.clone() for name, value in pl_module.state_dict().items()})

        trainer.callbacks.append(Start())
        trainer.fit(task, TaskData(str(tiny / "pr"), batch_size=4))
        return task, first

    task, first = begun(start_with="head")
    assert task.labels != released.labels and set(task.labels) & set("ETA")
    for number, label in enumerate(task.labels):
        if label in ("<s>", "|", *LETTERS):
            theirs = released.labels.index(label)
            assert torch.equal(first["lm_head.weight"][number], released.lm_head.weight[theirs]), label
            assert torch.equal(first["lm_head.bias"][number], released.lm_head.bias[theirs]), label
    mine = {
        name: value for name, value in released.state_dict().items() if name.startswith("upstream.encoder.encoder.")
    }
    assert mine and all(torch.equal(first[name], value) for name, value in mine.items())
    assert any(not torch.equal(task.state_dict()[name], first[name]) for name in mine)
    with pytest.raises(UserError, match=r"set model\.start_with: head, and model\.upstream\.source"):
        begun()


def test_the_dropouts_of_an_encoder_from_a_checkpoint_are_on(tiny, tmp_path):
    """What is read from a file is in eval mode, in which Lightning would leave it."""
    WavLMUpstream("tiny", overrides=SHAPE).encoder.save_pretrained(tmp_path)
    tuned = FineTuning(from_update=1, activation_dropout=0.5)
    modes: list[tuple[int, bool]] = []

    class Watch(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            audio = batch.inputs.audio, batch.inputs.lengths
            with torch.no_grad():
                one, other = (pl_module.upstream(*audio).hidden[-1] for _ in range(2))
            modes.append((trainer.global_step, not torch.equal(one, other)))

    task = FineTunedRecognition(WavLMUpstream(str(tmp_path), frozen=False, fine_tuning=tuned), alphabet="corpus")
    trainer = quiet_trainer(max_steps=4, val_check_interval=2, check_val_every_n_epoch=None, callbacks=[Watch()])
    trainer.fit(task, TaskData(str(tiny / "pr"), batch_size=4))
    assert modes == [(update, True) for update in range(4)]  # frozen, awake and after a validation
    assert not WavLMUpstream(str(tmp_path)).encoder.training
