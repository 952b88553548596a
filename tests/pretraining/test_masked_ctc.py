"""CTC over masked regions against a plain loop, finite differences and the paths themselves."""

import itertools
from dataclasses import replace

import pytest
import torch
from test_objectives import built, prediction
from torch import nn

from wavlm_lightning.augment.span_masking import SpanMasking
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining import MaskedCtc, MaskedPrediction
from wavlm_lightning.pretraining.objectives.masked_ctc import PADDING, region_losses


def regions_of(mask: torch.Tensor, padding: torch.Tensor) -> list[tuple[int, int, int]]:
    """(row, first frame, one past the last) of each masked region, by a plain loop."""
    found = []
    for row in range(len(mask)):
        inside = [bool(m) and not bool(p) for m, p in zip(mask[row], padding[row], strict=True)] + [False]
        begin = None
        for frame, each in enumerate(inside):
            if each and begin is None:
                begin = frame
            if not each and begin is not None:
                found.append((row, begin, frame))
                begin = None
    return found


def padded_prediction(labels: int = 5):
    """Crops whose last frames are padding in one row, masked to its end, and a mask that reaches the edges of the others."""
    given = prediction(labels=labels)
    padding, mask = given.padding.clone(), given.mask.clone()
    padding[1, -6:] = True
    mask[1, -9:] = True
    mask[0, :3], mask[2, -4:] = True, True
    return replace(given, padding=padding, mask=mask)


@pytest.mark.parametrize("unmasked_weight", [0.0, 0.7])
def test_loss_is_that_of_a_loop_over_regions(unmasked_weight):
    objective = built(MaskedCtc(final_dim=64, unmasked_weight=unmasked_weight), labels=5)
    given = padded_prediction()

    def reference(where):
        total = torch.zeros(())
        for row, begin, end in regions_of(where, given.padding):
            frames = objective.logits(given.hidden[4][row, begin:end]).log_softmax(1)
            target = [label for label, _ in itertools.groupby(given.labels["first"][row, begin:end].tolist())]
            total = total + nn.functional.ctc_loss(
                frames[:, None],
                torch.tensor([target]),
                torch.tensor([end - begin]),
                torch.tensor([len(target)]),
                blank=objective.blank,
                reduction="sum",
            )
        return total / where.sum()

    expected = reference(given.mask) + unmasked_weight * reference(given.visible)
    got = objective(given)
    assert got.item() == pytest.approx(expected.item(), rel=1e-6)
    weights = [objective.codewords, objective.project.weight]
    for ours, theirs in zip(torch.autograd.grad(got, weights), torch.autograd.grad(expected, weights), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    assert objective.codewords.shape == (5 + 4 + 1, 64) and objective.blank == 9


def test_loss_is_the_sum_over_all_paths():
    """Every sequence of classes of a region that gives its labels once repeats and then blanks are removed."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    labels, first = torch.tensor([0, 0, 1, 0, 1, 1, 1]), torch.tensor([1, 0, 0, 0, 1, 0, 0]).bool()
    losses = region_losses(logits, labels, first, blank=2)
    for loss, (begin, end), target in zip(losses, [(0, 4), (4, 7)], [[0, 1, 0], [1]], strict=True):
        probabilities = logits[begin:end].softmax(1)
        total = 0.0
        for path in itertools.product(range(3), repeat=end - begin):
            if [each for each, _ in itertools.groupby(path) if each != 2] == target:
                total += float(torch.stack([probabilities[t, each] for t, each in enumerate(path)]).prod())
        assert loss.item() == pytest.approx(-torch.tensor(total).log().item(), rel=1e-6)


def test_gradients_by_finite_differences():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(12, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(5, (12,), generator=generator)
    first = torch.zeros(12, dtype=torch.bool)
    first[[0, 1, 6]] = True
    assert torch.autograd.gradcheck(lambda x: region_losses(x, labels, first, 5), (logits,), atol=1e-7)


@pytest.mark.parametrize("classes", [1, 2, 40])
def test_every_region_has_a_path(classes):
    """Frames >= labels + repeats, whatever mask and labels: no loss is infinite, down to regions of one frame."""
    generator = torch.Generator().manual_seed(classes)
    for probability in (0.02, 0.5, 0.98):
        labels = torch.randint(classes, (400,), generator=generator)
        first = torch.rand(400, generator=generator) < probability
        first[0] = True
        losses = region_losses(torch.randn(400, classes + 1, generator=generator) * 9, labels, first, classes)
        assert len(losses) == first.sum() and torch.isfinite(losses).all() and (losses >= 0).all()


def test_a_region_of_one_frame_costs_its_cross_entropy():
    """There is one path. So where all masked frames stand alone, the objective is masked prediction with one class more."""
    given = prediction(labels=5)
    alone = torch.zeros_like(given.mask)
    alone[:, ::2] = True
    given = replace(given, mask=alone)
    for similarity in ("cosine", "logits"):
        ctc = built(MaskedCtc(extra_codewords=4, similarity=similarity), labels=5)
        frames = built(MaskedPrediction(extra_codewords=5, similarity=similarity), labels=5)
        with torch.no_grad():  # logits begin at zero, where all classes are alike
            for one, other in zip(ctc.parameters(), frames.parameters(), strict=True):
                other.copy_(one.normal_())
        assert ctc.blank == 9
        assert ctc(given).item() == pytest.approx(frames(given).item(), rel=1e-6)


def test_no_region_gives_no_loss():
    given = prediction()
    assert built(MaskedCtc())(replace(given, mask=torch.zeros_like(given.mask))).item() == 0.0


def test_probabilities_are_fp32_under_bf16():
    """CTC multiplies a probability per frame; in bf16 a region of 20 frames would be off in the first digit."""
    objective, given = built(MaskedCtc(final_dim=64)), prediction()
    with torch.autocast("cpu", torch.bfloat16):
        frames = objective.read(given, given.mask)
        logits = objective.logits(frames)
        assert logits.dtype == torch.float32 and objective(given).dtype == torch.float32
    generator = torch.Generator().manual_seed(0)
    rough = torch.randn(40, 9, generator=generator).bfloat16()
    first = torch.arange(40) % 20 == 0
    labels = torch.randint(8, (40,), generator=generator)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(region_losses(rough, labels, first, 8), region_losses(rough.float(), labels, first, 8))


def test_scores_are_those_of_labels_without_the_blank():
    """A model that is sure of every label, and surer of the blank in every second frame, has all frames right."""
    objective, given = built(MaskedCtc(extra_codewords=0), labels=17), prediction()
    labels = given.labels["first"]
    logits = 20.0 * nn.functional.one_hot(labels, 18).float()
    logits[:, ::2, 17] = 30.0
    objective._frames = lambda prediction, where: (logits[where], labels[where])
    found = objective.scores(given)
    objective.update_scores(given)
    valid = objective.compute_scores()
    assert found["masked_accuracy"] == found["unmasked_accuracy"] == valid["masked_accuracy"] == 1.0
    share = given.mask[:, ::2].sum() / given.mask.sum()
    for scores in (found, valid):
        assert scores["blank_share"].item() == pytest.approx(share.item())
        assert scores["loss"].item() == pytest.approx(objective(given).item(), rel=1e-6)
    assert valid["majority_accuracy"] < 0.5


def test_the_plan_counts_what_a_pass_keeps():
    """A batch of 87.5 s under WavLM's masking, 100 labels of 80 ms."""
    generator, shape = torch.Generator().manual_seed(0), (6, 781)
    objective, config = MaskedCtc(final_dim=32), WavLMConfig.preset("tiny")
    objective.build(config, {"labels": 100})
    mask = SpanMasking(equalise=False)(torch.full((6,), 781), 781, generator)
    labels = torch.randint(100, (6, 196), generator=generator).repeat_interleave(4, 1)[:, :781]
    hidden = torch.randn(*shape, config.dim, generator=generator).requires_grad_()
    given = replace(
        prediction(), hidden={4: hidden}, mask=mask, padding=torch.zeros_like(mask), labels={"labels": labels}
    )
    own, kept = {parameter.untyped_storage()._cdata for parameter in objective.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = objective(given)
    assert loss.requires_grad
    masked = SpanMasking().expected_share() * mask.numel()
    cost = objective.cost(config, labels=100, frames=mask.numel(), masked=masked, compute_bytes=4)
    assert cost.kept == pytest.approx(sum(kept.values()), rel=0.15)


def test_padding_that_the_plan_counts_is_that_of_the_published_masking():
    generator = torch.Generator().manual_seed(0)
    frames, rows = 781, 6  # 87.5 s in crops of 15.6 s
    masking, padded = SpanMasking(equalise=False), []
    for _ in range(20):
        mask = masking(torch.full((rows,), frames), frames, generator)
        regions = [end - begin for _, begin, end in regions_of(mask, torch.zeros_like(mask))]
        padded.append(max(regions) * len(regions) / int(mask.sum()))
    assert pytest.approx(sum(padded) / len(padded), rel=0.1) == PADDING
    assert mask.float().mean() == pytest.approx(SpanMasking().expected_share(), abs=0.05)
