"""data2vec and DinoSR: targets, codebooks and losses against independent statements of them, and runs that go on exactly."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from teacher_two_ranks import Poisoned
from test_pretraining_runs import SMALL, data, fit, module
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining import Data2Vec, DinoSR
from wavlm_lightning.pretraining.head_file import read_head
from wavlm_lightning.pretraining.objectives import Prediction
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.export import export

SHAPE = {**SMALL, "layers": 3}


def ready(objective, step: int = 0):
    """An objective with its teacher, and a prediction whose last crop has padding."""
    torch.manual_seed(0)
    encoder = WavLM(WavLMConfig.preset("tiny", **SHAPE))
    objective.build(encoder.config, {})
    objective.attach(encoder)
    (view,) = objective.views()

    def states():
        return {layer: torch.randn(2, 40, 32) + torch.randn(2, 1, 32) for layer in (1, 2, 3)}

    padding = torch.zeros(2, 40, dtype=torch.bool)
    padding[1, 30:] = True
    mask = (torch.rand(2, 40) < 0.5) & ~padding
    main = Prediction(
        hidden=states(),
        features=torch.randn(2, 40, 32),
        normalised=torch.randn(2, 40, 32),
        projected=torch.randn(2, 40, 32),
        mask=mask,
        padding=padding,
        labels={},
        audio=torch.randn(2, 13_000),
        step=step,
        generator=None,
    )
    theirs = {layer: state.masked_fill(padding[:, :, None], 0.0) for layer, state in states().items()}
    return encoder, objective, replace(main, views={view: replace(main, hidden=theirs)})


def normalised(given: Prediction, objective, layer: int) -> torch.Tensor:
    """Masked frames of the teacher's layer, by torch's instance norm of each crop without its padding."""
    state = given.views[objective.view].hidden[layer]
    rows = [
        nn.functional.instance_norm(row[None, :length].mT).mT[0] for row, length in zip(state, (40, 30), strict=True)
    ]
    return torch.cat([row[mask[: len(row)]] for row, mask in zip(rows, given.mask, strict=True)])


def test_data2vec_is_the_squared_error_to_the_mean_of_normalised_layers():
    _, objective, given = ready(Data2Vec(top=2))
    target = (normalised(given, objective, 2) + normalised(given, objective, 3)) / 2
    expected = nn.functional.mse_loss(objective.predict(given.hidden[3][given.mask]), target)
    assert objective(given).item() == pytest.approx(expected.item(), rel=1e-5)
    objective.update_scores(given)
    assert objective.compute_scores()["loss"].item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("same_layer", [False, True])
def test_dinosr_predicts_the_nearest_code_of_each_layer(same_layer):
    _, objective, given = ready(DinoSR(top=2, codes=7, same_layer=same_layer))
    with torch.no_grad():
        objective.counts.uniform_(0.5, 2.0)
    losses, right = [], []
    for number, layer in enumerate((2, 3)):
        frames = normalised(given, objective, layer)
        codes = torch.cdist(frames, objective.sums[number] / objective.counts[number][:, None]).argmin(1)
        hidden = given.hidden[layer if same_layer else 3][given.mask]
        if same_layer and layer == 2:  # tiny is pre-norm
            hidden = nn.functional.layer_norm(hidden, (32,))
        logits = objective.heads[number](hidden)
        losses.append(nn.functional.cross_entropy(logits, codes))
        right.append((logits.argmax(1) == codes).float().mean())
    expected = sum(losses) / 2
    assert objective.layers(3) == ((2, 3) if same_layer else (3,))
    assert objective(given).item() == pytest.approx(expected.item(), rel=1e-5)
    objective.update_scores(given)
    for scores in (objective.scores(given), objective.compute_scores()):
        assert scores["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
        assert scores["masked_accuracy"].item() == pytest.approx((sum(right) / 2).item(), rel=1e-5)
        assert 1 < scores["target_perplexity"] <= 7


def test_codes_follow_the_frames_of_all_micro_steps_of_an_update():
    """Two micro-steps; a code without frames stays; a skipped update, which `after_update` is not told of, counts for nothing."""
    encoder, objective, given = ready(DinoSR(top=1, codes=30, codebook_decay=0.75))
    one, two = given, replace(given, mask=~given.mask & ~given.padding)
    sums, counts = objective.sums.clone(), objective.counts.clone()
    objective(replace(one, step=4))  # skipped
    chosen = []
    for each in (one, two):
        objective(replace(each, step=5))
        chosen.append((normalised(each, objective, 3), objective.targets(each)[1][0]))
    objective.eval()
    objective(replace(one, step=5))  # a validation
    objective.train()
    objective.after_update(encoder, 6)
    frames, codes = (torch.cat(each) for each in zip(*chosen, strict=True))
    for code in range(30):
        of_code = frames[codes == code]
        expected = sums[0, code], counts[0, code]
        if len(of_code):
            expected = 0.75 * sums[0, code] + 0.25 * of_code.sum(0), 0.75 * counts[0, code] + 0.25 * len(of_code)
        assert torch.allclose(objective.sums[0, code], expected[0], atol=1e-5)
        assert objective.counts[0, code].item() == pytest.approx(float(expected[1]))
    assert 0 < len(codes.unique()) < 30
    moved = objective.sums.clone()
    objective.after_update(encoder, 7)  # nothing new was heard
    assert torch.equal(objective.sums, moved)


def test_small_codes_keep_more_of_them_in_use():
    """Far frames take a fresh code as long as codes lie near the mean."""
    used = {}
    for init in ("unit", "small"):
        encoder, objective, given = ready(DinoSR(top=1, codes=30, codebook_init=init))
        for step in range(10):
            objective(replace(given, step=step))
            objective.after_update(encoder, step + 1)
        used[init] = float(objective.scores(given)["target_perplexity"])
    assert used["small"] > used["unit"] > 1


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (lambda: Data2Vec(decay=0.9, final_decay=0.8), "Data2Vec: decay 0.9 and final_decay 0.8 must rise"),
        (lambda: DinoSR(top=0), "DinoSR: top is 0"),
        (lambda: DinoSR(codes=1), "codes is 1, and a codebook has 2 or more"),
        (lambda: DinoSR(codebook_decay=1.0), "codebook_decay is 1; it is from 0 to below 1"),
        (lambda: DinoSR(codebook_init="zero"), "codebook_init is unit or small, not 'zero'"),
        (lambda: ready(Data2Vec()), "top is 8, but the encoder has 3 layers; set 1 to that"),
    ],
)
def test_what_cannot_be_is_refused(objective, message):
    with pytest.raises(UserError, match=message):
        objective()


@pytest.mark.parametrize("objective", [DinoSR(top=3, codes=50), Data2Vec(top=2)])
def test_the_plan_counts_what_a_pass_computes_and_keeps(objective):
    encoder, objective, given = ready(objective)
    given = replace(given, hidden={layer: state.requires_grad_() for layer, state in given.hidden.items()})
    own = {value.untyped_storage()._cdata for value in objective.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(pack, lambda each: each):
        objective(given)
    masked = int(given.mask.sum())
    cost = objective.cost(encoder.config, 0, frames=70, masked=masked, compute_bytes=4)
    # A plan triples the operations; of the three products of DinoSR, one has a backward pass.
    done = 3 * counter.get_total_flops() if isinstance(objective, Data2Vec) else counter.get_total_flops() * 5 / 3
    assert 3 * cost.flops == pytest.approx(done)
    mask = given.mask.numel()  # and the index of the masked frames
    assert cost.kept == pytest.approx(sum(kept.values()) - mask, rel=0.1)
    (teacher,) = cost.passes
    beside = sum(value.numel() for name, value in objective.named_buffers() if name in ("sums", "counts"))
    assert teacher.teacher_parameters == sum(value.numel() for value in objective.teacher.parameters()) + beside


OBJECTIVES = {
    "data2vec": lambda: [Data2Vec(top=2, decay=0.8, final_decay=0.9, decay_updates=3, clean_targets=True)],
    "dinosr": lambda: [
        DinoSR(top=2, codes=8, decay=0.8),
        DinoSR(top=3, codes=5, same_layer=True, codebook_init="small"),
    ],
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_resumed_run_is_exact(tiny, tmp_path, name):
    """Two micro-steps an update; the codebooks have moved, and so have the teachers."""
    saver = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    source = {"batch_seconds": 2.5, "num_workers": 0}
    every = {"accumulate_grad_batches": 2, "limit_train_batches": 10, "val_check_interval": 10}
    model = module(encoder_overrides=SHAPE, objectives=OBJECTIVES[name]())
    whole = fit(model, data(tiny, **source), 4, callbacks=[saver], **every)
    resumed = module(encoder_overrides=SHAPE, objectives=OBJECTIVES[name]())
    rest = fit(resumed, data(tiny, **source), 4, tmp_path / "step=2.ckpt", **every)
    assert rest.losses == whole.losses[4:]
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in resumed.state_dict().items())
    if name == "dinosr":
        before = torch.load(tmp_path / "step=2.ckpt", weights_only=True)["state_dict"]["objectives.0.sums"]
        assert not torch.equal(before, model.objectives[0].sums)
        export(tmp_path / "step=4.ckpt", tmp_path / "encoder")
        head = read_head(tmp_path / "encoder")[0]
        assert torch.equal(head["objectives.0.sums"], model.objectives[0].sums)
        assert not any("teacher" in key for key in head)


def test_a_skipped_update_moves_no_code(tiny):
    """The third of five; the NaN that it hears reaches neither codes nor teacher."""

    class Noted(Poisoned):
        def training_step(self, batch, batch_idx):
            self.sums = [*getattr(self, "sums", []), self.objectives[0].sums.clone()]
            return super().training_step(batch, batch_idx)

    model = module(Noted, encoder_overrides=SHAPE, objectives=[DinoSR(top=1, codes=8, decay=0.8)])
    fit(model, data(tiny, batch_seconds=2.5, num_workers=0), 5)
    assert model.skipped_updates == 1 and len(model.sums) == 5
    moved = [not torch.equal(*pair) for pair in zip(model.sums, model.sums[1:], strict=False)]
    assert moved == [True, True, False, True]
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
