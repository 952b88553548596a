"""Masked copies of crops: what each copy sees, what the decoder fills, and runs with them."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import pytest
import torch
from copies_two_ranks import COPIES, SHAPE, copied, everything, targets
from lightning.pytorch.callbacks import ModelCheckpoint
from ranks import together
from test_flops import at_once, grouped_conv_backward
from test_memory_model import PRECISIONS, VARIANTS, checkpointed, kept, make
from test_pretraining_runs import codebooks, data, fit, module
from test_teachers import Asks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from wavlm_lightning.encoder import WavLMConfig, frontend
from wavlm_lightning.encoder.cpu import spectral_convolution, strided_products
from wavlm_lightning.encoder.visible_frames import VisibleFrames
from wavlm_lightning.pretraining import (
    DecoderSizes,
    FeaturePenalty,
    LogMelRegression,
    MaskedCopies,
    MaskedPrediction,
    SpanMasking,
)
from wavlm_lightning.pretraining.copies import ConvolutionalDecoder
from wavlm_lightning.pretraining.flops import encoder_flops
from wavlm_lightning.pretraining.head_file import read_head
from wavlm_lightning.pretraining.memory import step_memory
from wavlm_lightning.pretraining.objectives import Teacher, View
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.export import export

CALM = {**SHAPE, "layers": 2, "layer_drop": 0.0, "dropout": 0.0}
ALL_FRAMES = replace(COPIES, visible_only=False)


@pytest.fixture(scope="module")
def batch(tiny):
    """A batch of the tiny corpus and its codebooks."""
    source = data(tiny)
    source.setup("fit")
    return next(iter(source.train_dataloader())), codebooks(source)


def built(batch, objectives=None, **changes):
    model = module(encoder_overrides=CALM, objectives=objectives or targets()[:1], **changes)
    model.build(batch[1])
    return model


def predicted(model, batch, seed: int = 0, **named):
    return model.predict_masked(batch[0], batch[0].audio, torch.Generator().manual_seed(seed), **named)


def test_each_copy_is_the_pass_with_its_mask(batch):
    """On all frames; the masks of the first copy are those of a run without copies."""
    model = built(batch, copies=replace(ALL_FRAMES, copies=3))
    found, crops = predicted(model, batch), len(batch[0].audio)
    assert found.mask.shape[0] == 3 * crops and len({tuple(row) for row in found.mask.int().tolist()}) == 3 * crops
    frames = found.mask.shape[1]
    features, lengths = model.encoder.features(batch[0].audio)
    projected, _ = model.encoder.project(features[:, :frames])
    for copy in range(3):
        rows = slice(copy * crops, (copy + 1) * crops)
        plain = model.encoder.contextualise(projected, lengths.clamp(max=frames), found.mask[rows])
        assert torch.allclose(found.hidden[2][rows], plain.hidden[2], atol=1e-5)
        assert torch.equal(found.labels["mfcc100"][rows], batch[0].labels["mfcc100"][:, :frames])
    one = predicted(model, batch, copies=1)
    assert one.crops is None and torch.equal(one.mask, found.mask[:crops])


def test_one_copy_on_all_frames_is_the_run_without(tiny):
    plain = fit(module(), data(tiny), 3)
    assert fit(module(copies=MaskedCopies(copies=1, visible_only=False)), data(tiny), 3).losses == plain.losses


class SameMask(SpanMasking):
    """Gives all copies the same mask."""

    def __call__(self, lengths, frames, generator=None):
        return SpanMasking(equalise=False)(lengths, frames, torch.Generator().manual_seed(7))


def test_masks_of_copies():
    """On visible frames alone, all rows have the mean number of masked frames; else each copy is drawn as one without copies."""
    lengths, masking = torch.full((6,), 120), SpanMasking(probability=0.65)
    mask = MaskedCopies(8).masks(masking, lengths, 120, torch.Generator().manual_seed(0))
    (count,) = set(mask.sum(1).tolist())
    assert count / 120 == pytest.approx(SpanMasking(0.65, 10).expected_share(), abs=0.03)
    whole = MaskedCopies(8, visible_only=False).masks(masking, lengths, 120, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    assert torch.equal(whole, torch.cat([masking(lengths, 120, generator) for _ in range(8)]))
    free = MaskedCopies(8).masks(replace(masking, equalise=False), lengths, 120, torch.Generator().manual_seed(0))
    assert len(set(free.sum(1).tolist())) > 3
    spans = (mask[:, 1:] != mask[:, :-1]).sum() / (free[:, 1:] != free[:, :-1]).sum()
    assert spans < 2.5  # most regions stay whole
    one, generator = MaskedCopies(1), torch.Generator().manual_seed(0)
    thinned = torch.stack([one.masks(masking, lengths, 120, generator) for _ in range(100)]).float().mean()
    assert one.masked_share(masking, 6.0, 120) == pytest.approx(float(thinned), abs=0.01)
    assert masking.expected_share() - float(thinned) > 0.03
    few = MaskedCopies(2).masks(SpanMasking(minimum=5), torch.tensor([4, 4]), 4, torch.Generator().manual_seed(0))
    assert few.sum(1).tolist() == [3] * 4  # a frame stays visible


@pytest.mark.parametrize("visible_only", [True, False])
def test_the_loss_is_the_mean_over_copies(batch, visible_only):
    """Copies that are alike have loss and gradient of one."""
    found = []
    for copies in (COPIES.copies, 1):
        objectives = [*targets()[:1], LogMelRegression(), FeaturePenalty()]
        settings = replace(COPIES, copies=copies, visible_only=visible_only)
        model = built(batch, objectives, copies=settings, masking=SameMask(equalise=False))
        prediction = predicted(model, batch)
        crops = prediction.crops or prediction
        terms = [each(crops if each.per_crop else prediction) for each in model.objectives]
        sum(terms).backward()
        gradients = {name: value.grad for name, value in model.named_parameters()}
        assert all(gradient is not None for gradient in gradients.values())
        found.append((terms, gradients))
    (several, theirs), (one, ours) = found
    assert torch.allclose(torch.stack(several), torch.stack(one), rtol=1e-5)
    for name, gradient in ours.items():
        assert torch.allclose(theirs[name], gradient, rtol=1e-3, atol=1e-6), name


def test_masked_content_cannot_leak(batch):
    model = built(batch, targets()[:2], copies=COPIES)
    generator, crops = torch.Generator().manual_seed(0), 4
    projected, lengths = torch.randn(crops, 60, 32, generator=generator), torch.full((crops,), 60)
    mask = SpanMasking()(lengths, 60, generator)
    noise = torch.randn(projected.shape, generator=generator)
    first, _ = model._hidden(projected, lengths, mask, None)
    masked, _ = model._hidden(projected + noise * mask[:, :, None], lengths, mask, None)
    visible, _ = model._hidden(projected + noise * ~mask[:, :, None], lengths, mask, None)
    assert set(first) == {2}
    assert torch.equal(first[2], masked[2])
    changed = (first[2] - visible[2]).abs().amax(2)[mask] > 1e-4
    assert changed.float().mean() > 0.8  # of the masked frames, all but those in the middle of long spans


def test_visible_frames_are_the_encoders_own(batch):
    model = built(batch, copies=COPIES)
    projected, lengths = torch.randn(2, 60, 32), torch.tensor([60, 60])
    mask = SpanMasking(equalise=False)(lengths, 60)
    filled, padding = model._hidden(projected, lengths, mask, None)
    visible = VisibleFrames.of(mask, lengths)
    alone = model.encoder.contextualise(projected, lengths, mask, keep=[2], visible=visible).hidden[0]
    assert torch.equal(filled[2][~mask], alone[~visible_padding(visible)])
    assert not padding.any()


def visible_padding(visible: VisibleFrames) -> torch.Tensor:
    return torch.arange(visible.places.shape[1])[None] >= visible.lengths[:, None]


def test_a_padded_row_is_filled_as_alone():
    decoder = ConvolutionalDecoder(WavLMConfig.preset("tiny", **CALM), 1, DecoderSizes(layers=3, dim=16, groups=4))
    hidden, lengths = torch.randn(2, 40, 32), torch.tensor([40, 25])
    mask = SpanMasking(equalise=False)(lengths, 40)
    padding = torch.arange(40)[None] >= lengths[:, None]
    visible = VisibleFrames.of(mask, lengths)
    together = decoder(visible.gather(hidden), visible, mask, padding)
    short, one = mask[1:, :25], VisibleFrames.of(mask[1:, :25], lengths[1:])
    alone = decoder(one.gather(hidden[1:, :25]), one, short, None)
    assert torch.allclose(together[1:, :25], alone, atol=1e-5)
    assert not together[1, 25:].any()


def test_all_masked_is_finite(batch):
    class Everything(SpanMasking):
        def __call__(self, lengths, frames, generator=None):
            return torch.ones(len(lengths), frames, dtype=torch.bool)

    model = built(batch, [MaskedPrediction(final_dim=16)], copies=COPIES, masking=Everything())
    loss = model.objectives[0](predicted(model, batch))
    loss.backward()
    assert loss.isfinite()
    assert all(value.grad is None or value.grad.isfinite().all() for value in model.parameters())


def test_a_teacher_hears_each_crop_once(batch):
    class Taught(Asks):
        per_crop = False

        def attach(self, encoder):
            self.asked = (View((1, 2), teacher=Teacher(encoder)), View((2,)))

    objective = Taught()
    model = built(batch, [objective, MaskedPrediction(final_dim=16)], copies=COPIES)
    teacher = objective.asked[0].teacher.encoder
    heard, whole = [], teacher.contextualise
    teacher.contextualise = lambda x, *given, **named: heard.append(len(x)) or whole(x, *given, **named)
    found, crops = predicted(model, batch), len(batch[0].audio)
    frames = found.mask.shape[1]
    expected = model.encoder(batch[0].audio).hidden[:, :, :frames]
    assert heard == [crops]
    for view in objective.asked:
        hidden = found.views[view].hidden[2]
        assert torch.allclose(hidden, expected[2].repeat(COPIES.copies, 1, 1), atol=1e-4)


def test_a_view_with_a_mask(batch):
    class Again(Asks):
        per_crop = False

    asked = View((2,), mask=1)
    with pytest.raises(UserError, match=r"Again asks for a view with masked frames.*visible_only: false"):
        built(batch, [Again(asked)], copies=COPIES)
    objective = Again(asked)
    found = predicted(built(batch, [objective], copies=ALL_FRAMES), batch).views[asked]
    assert found.hidden[2].shape[:2] == found.mask.shape == (2 * len(batch[0].audio), found.features.shape[1])


def test_a_term_without_masks_reads_no_hidden_states(batch):
    with pytest.raises(UserError, match=r"Asks is per_crop, but asks for hidden states, .* per_crop = False"):
        built(batch, [Asks(View((2,)))], copies=COPIES)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskedCopies(copies=0), r"copies\.copies must be 1 or more, not 0"),
        (lambda: DecoderSizes(kernel=4), r"copies\.decoder\.kernel must be odd"),
        (lambda: DecoderSizes(layers=0), r"copies\.decoder\.layers must be 1 or more"),
    ],
)
def test_sizes_out_of_range_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_groups_must_divide_the_widths(batch):
    with pytest.raises(UserError, match=r"groups \(5\) must divide the width of the encoder \(32\)"):
        built(batch, copies=replace(COPIES, decoder=DecoderSizes(groups=5)))


def test_resume_is_exact_and_of_the_same_copies(tiny, tmp_path):
    """LayerDrop and dropout; two supervised layers; validation between the updates."""
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)

    def new(copies=COPIES):
        return module(encoder_overrides=SHAPE, objectives=targets(), copies=copies)

    model = new()
    whole = fit(model, data(tiny), 5, callbacks=[saver])
    resumed = new()
    assert fit(resumed, data(tiny), 5, tmp_path / "step=2.ckpt").losses == whole.losses[2:]
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(UserError, match=r"resume: model\.copies is .*'copies': 3.* here and .*'copies': 2"):
        fit(new(replace(COPIES, copies=3)), data(tiny), 5, tmp_path / "step=2.ckpt")
    with pytest.raises(UserError, match=r"resume: model\.copies is"):
        fit(new(None), data(tiny), 5, tmp_path / "step=2.ckpt")
    export(tmp_path / "step=4.ckpt", tmp_path / "exported")
    assert any(name.startswith("decoders.3.") for name in read_head(tmp_path / "exported")[0])
    source = data(tiny)
    source.setup("fit")
    start = {
        "encoder": str(tmp_path / "exported"),
        "encoder_overrides": None,
        "objectives": targets(),
        "keep_head": True,
    }
    after = module(**start, copies=COPIES)
    after.build(codebooks(source))
    saved = torch.load(tmp_path / "step=4.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in after.state_dict().items() if "decoders" in name)
    with pytest.raises(UserError, match=r"does not have the decoders of masked frames that model\.copies asks for"):
        module(**{**start, "objectives": targets()}).build(codebooks(source))


@pytest.mark.parametrize("visible_only", [True, False])
@pytest.mark.parametrize("bias", ["gated", "none"])
def test_operations_are_counted(visible_only, bias):
    config = WavLMConfig.preset("tiny", layers=2, position_bias=bias)
    copies = MaskedCopies(3, visible_only, DecoderSizes(layers=3, dim=64, groups=8))
    model = module(encoder_overrides={"layers": 2, "position_bias": bias}, objectives=[FeaturePenalty()], copies=copies)
    model.build({})
    model.encoder.encoder.run_layers(recomputed=False, compiled=False, attention="sdpa")
    mapping = {torch.ops.aten.convolution_backward: grouped_conv_backward}
    with (
        FlopCounterMode(display=False, custom_mapping=mapping) as counter,
        sdpa_kernel(SDPBackend.MATH),
        mock.patch.object(frontend, "checkpoint", at_once),
        mock.patch.object(strided_products, "usable", return_value=False),
        mock.patch.object(spectral_convolution, "usable", return_value=False),
    ):
        features, lengths = model.encoder.features(torch.randn(2, 24_000))
        projected, _ = model.encoder.project(features)
        mask = copies.masks(SpanMasking(), lengths, features.shape[1], torch.Generator().manual_seed(0))
        model._hidden(copies.rows(projected), copies.rows(lengths), mask, None)[0][2].sum().backward()
    share = float(mask.float().mean())
    filling = copies.decoder_cost(config, features.shape[0] * features.shape[1], 1, 4)
    expected = replace(copies.flops(encoder_flops(config, 2, 24_000), share), objectives=filling.flops)
    assert filling.parameters == sum(value.numel() for value in (model.decoders or torch.nn.ModuleDict()).parameters())
    assert counter.get_total_flops() == pytest.approx(expected.training, rel=0.005)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("variant", ["group", "layer", "layer, no bias", "layer, checkpointed"])
def test_memory_is_counted(variant, precision):
    """What a pass keeps for the backward pass, without the decoder."""
    config, half, copies = VARIANTS[variant], PRECISIONS[precision], MaskedCopies(4)
    encoder, waveforms = make(variant), torch.randn(2, 32_000)
    lengths = torch.full((2,), config.frames(32_000))
    mask = copies.masks(SpanMasking(), lengths, int(lengths[0]), torch.Generator().manual_seed(0))
    rows = copies.rows(lengths)

    def states():
        features, _ = encoder.features(waveforms)
        projected = copies.rows(encoder.project(features)[0])
        x = torch.where(mask[:, :, None], encoder.masked_spec_embed.to(projected.dtype), projected)
        return encoder.encoder(x, keep=[config.layers], visible=VisibleFrames.of(mask, rows))

    with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
        measured = kept(encoder, states)
    seen = {"copies": 4, "visible": 1.0 - float(mask.float().mean())}
    memory = step_memory(config, 2, 32_000, precision, device="cpu", checkpointed=checkpointed(variant), **seen)
    assert memory.kept == pytest.approx(measured, rel=0.05)


@pytest.mark.slow
def test_two_processes_end_as_one(tiny, tmp_path):
    together(2, tmp_path / "log", everything, tiny, tmp_path)
    alone = copied(tiny, 1)
    for rank in range(2):
        for strategy, found in torch.load(tmp_path / f"rank{rank}.pt").items():
            for name, value in alone.items():
                assert torch.allclose(found[name], value, atol=2e-5), (strategy, rank, name)
