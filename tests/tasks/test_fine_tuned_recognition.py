"""Recognition by fine-tuning: the loss and gradients of transformers' WavLMForCTC, the published head, and its export."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import transformers
from quiet import quiet_trainer
from torch import nn

from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.tasks import FineTunedRecognition, TaskData
from wavlm_lightning.tasks.content.letters import LETTERS, SPECIAL
from wavlm_lightning.tasks.huggingface.export import write_head_folder
from wavlm_lightning.upstreams import FineTuning, WavLMUpstream

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

SHAPE = {"layers": 2, "conv_channels": [8] * 7, "dim": 32, "heads": 4, "ffn_dim": 48}
LAYER_NORM = {"conv_norm": "layer"}  # with group norm transformers' features depend on the padding


def task_of(seed: int = 0, tuned: FineTuning | None = None, **overrides) -> FineTunedRecognition:
    """A small trained encoder with the head, no weight of which is zero."""
    encoder = WavLMUpstream("tiny", overrides={**SHAPE, **overrides}, frozen=False, fine_tuning=tuned or FineTuning())
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
    task = task_of(**overrides)
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
        if overrides.get("normalize_waveform"):
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
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    ours = {name: parameter.grad for name, parameter in task.named_parameters() if parameter.grad is not None}
    theirs = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    compared, scale = 0, max(float(gradient.abs().max()) for gradient in theirs.values())
    for name, gradient in ours.items():
        their = theirs.get(name.replace("upstream.encoder.", "wavlm."))
        if their is None or their.shape != gradient.shape:
            continue
        if "feature_extractor" in name:  # ours are scaled by the configuration, as in pre-training
            continue
        # The loss is computed in fp32, of values around 70; everything below it is in double precision here.
        assert (gradient - their).abs().max() < 3e-5 * scale, name
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
