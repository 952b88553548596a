"""Objectives with a teacher and further views: what passes run, what they give, and what a checkpoint keeps."""

from __future__ import annotations

import itertools

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from ranks import together
from teacher_two_ranks import DECAY, Following, Poisoned, everything, followed, weights
from test_pretraining_runs import SMALL, codebooks, data, fit, module

from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.pretraining import Data2Vec, FeaturePenalty, MaskedPrediction, UtteranceMixing
from wavlm_lightning.pretraining.head_file import read_head
from wavlm_lightning.pretraining.objectives import Teacher, View
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.training.averaging import Average
from wavlm_lightning.upstreams.wavlm import load_encoder
from wavlm_lightning.workflows.export import export
from wavlm_lightning.workflows.report import _parameters

SHAPE = {**SMALL, "layers": 2}


def small(**changes) -> WavLM:
    torch.manual_seed(0)
    return WavLM(WavLMConfig.preset("tiny", **{**SHAPE, **changes}))


def test_a_teacher_follows_by_its_decay_and_shares_the_rest():
    encoder = small()
    teacher = Teacher(encoder)
    before = {name: value.clone() for name, value in teacher.encoder.named_parameters()}
    with torch.no_grad():
        for value in encoder.parameters():
            value.add_(torch.randn_like(value))
    teacher.follow(encoder, 0.75)
    assert not any(name.startswith("feature_extractor") for name in before)
    for name, value in teacher.encoder.named_parameters():
        new = encoder.get_parameter(name)
        shared = name.startswith(("feature_projection.", "encoder.pos_conv_embed."))
        assert torch.allclose(value, new if shared else 0.75 * before[name] + 0.25 * new, atol=1e-6), name
    assert not any(value.requires_grad for value in teacher.parameters())
    assert not any(each.training for each in teacher.train().modules())
    assert Teacher.parameters_of(encoder.config) == sum(value.numel() for value in teacher.parameters())


def test_a_teacher_of_its_own_convolutions_and_of_a_compiled_encoder():
    encoder = small()
    encoder.encoder.run_layers(recomputed=False, compiled=True)
    teacher = Teacher(encoder, shared=())
    assert set(teacher.encoder.state_dict()) == set(encoder.state_dict())
    audio = torch.randn(1, 8000)
    expected = teacher.encoder(audio).hidden
    with torch.no_grad():
        encoder.encoder.layers[0].feed_forward.intermediate_dense.weight.zero_()
    assert torch.equal(teacher.encoder(audio).hidden, expected)  # it does not run the layers of the encoder
    with pytest.raises(UserError, match="no part 'decoder' to share"):
        Teacher(encoder, shared=("decoder",))


class Asks(FeaturePenalty):
    """Asks for views, and keeps what it is given."""

    def __init__(self, *asked: View) -> None:
        super().__init__()
        self.asked = asked

    def layers(self, count):
        return (count,)

    def views(self):
        return self.asked

    def forward(self, prediction):
        self.given = prediction
        return super().forward(prediction)


def ran(tiny, *objectives, **changes):
    """A module after one step in training mode, and how often its encoder ran the transformer."""
    source = data(tiny)
    source.setup("fit")
    batch = next(iter(source.train_dataloader()))
    model = module(encoder_overrides=SHAPE, objectives=list(objectives), **changes)
    model.build(codebooks(source))
    runs, whole = [], model.encoder.contextualise
    model.encoder.contextualise = lambda *given, **named: runs.append(named["keep"]) or whole(*given, **named)  # type: ignore[method-assign]
    generator = torch.Generator().manual_seed(0)
    audio = model.mixing(batch.audio, batch.noise, batch.noise_lengths, torch.Generator().manual_seed(1))
    prediction = model.predict_masked(batch, audio, generator)
    del model.encoder.contextualise
    for objective in model.objectives:
        objective(prediction)
    return model, audio, batch, runs


def test_views_are_the_passes_they_say(tiny):
    """No dropouts, so that each can be computed again."""
    asked = [
        View((1,)),
        View((0, 2), mask=0),
        View((2,), mask=1, gradients=True),
        View((2,), mask=2),
        View((2,), clean=True),
    ]
    objective = Asks(*asked)
    model, audio, batch, _ = ran(tiny, objective, mixing=UtteranceMixing(probability=1.0))
    given = objective.given
    passes = [given.views[view] for view in asked]
    frames = given.features.shape[1]
    for view, found in zip(asked, passes, strict=True):
        assert set(found.hidden) == set(view.layers)
        mask = None if view.mask is None else found.mask
        features, frame_lengths = model.encoder.features(batch.audio if view.clean else audio)
        projected, _ = model.encoder.project(features[:, :frames])
        expected = model.encoder.contextualise(projected, frame_lengths.clamp(max=frames), mask)
        for layer, hidden in found.hidden.items():
            assert torch.allclose(hidden, expected.hidden[layer], atol=1e-6)
            assert hidden.requires_grad is view.gradients
    masks = [given.mask, passes[2].mask, passes[3].mask]
    assert torch.equal(passes[1].mask, given.mask) and not passes[0].mask.any()
    assert not any(torch.equal(a, b) for a, b in zip(masks, masks[1:] + masks[:1], strict=True))
    assert not torch.allclose(passes[4].hidden[2], model.encoder(audio).hidden[2][:, :frames], atol=1e-3)


def test_equal_passes_run_once_and_nobody_pays_who_does_not_ask(tiny):
    one, other = Asks(View((1,), mask=1)), Asks(View((2,), mask=1), View((1,), mask=1))
    *_, runs = ran(tiny, one, other)
    assert sorted(map(list, runs)) == [[1, 2], [2]]
    assert one.given.views[View((1,), mask=1)].mask is other.given.views[View((2,), mask=1)].mask
    *_, runs = ran(tiny, Asks())
    assert runs == [[2]]


def test_asking_does_not_change_what_the_main_pass_draws(tiny):
    alone, beside = Asks(), Asks()
    ran(tiny, alone)
    ran(tiny, beside, Asks(View((2,), mask=1)))
    assert torch.equal(alone.given.mask, beside.given.mask)
    assert torch.equal(alone.given.hidden[2], beside.given.hidden[2])


@pytest.mark.parametrize("layers", [(3,), (-1,), ()])
def test_layers_that_the_encoder_lacks_are_refused(tiny, layers):
    with pytest.raises(UserError, match=r"Asks asks for a view of layers .* but the encoder has 0 to 2"):
        ran(tiny, Asks(View(layers)))


def test_a_teacher_with_gradients_is_refused():
    with pytest.raises(UserError, match="a view through a teacher has no gradients"):
        View((1,), teacher=Teacher(small()), gradients=True)


def test_a_teacher_that_shares_less_runs_its_own_convolutions(tiny):
    """Moved away from the encoder, it hears with its own ears."""

    class Own(Following):
        def attach(self, encoder):
            self.teacher = Teacher(encoder, shared=())
            with torch.no_grad():
                self.teacher.encoder.feature_projection.projection.weight.mul_(2.0)
                self.teacher.encoder.feature_extractor.conv_layers[0].conv.weight.mul_(-1.0)

        def forward(self, prediction):
            self.given = prediction
            return super().forward(prediction)

    objective = Own()
    _, audio, *_ = ran(tiny, objective)
    found = objective.given.views[objective.target]
    expected = objective.teacher.encoder(audio)
    frames = found.features.shape[1]
    assert torch.allclose(found.hidden[2], expected.hidden[2][:, :frames], atol=1e-4)


def test_after_each_update_but_not_after_a_skipped_one(tiny):
    """Two micro-steps an update; the first has a learning rate of 0, the gradient of the third is NaN."""
    model = module(Poisoned, encoder_overrides=SHAPE, objectives=[Following()])
    fit(model, data(tiny, batch_seconds=2.0), 5, accumulate_grad_batches=2)
    assert model.skipped_updates == 1
    assert model.objectives[0].calls == [1, 2, 4, 5]
    moved = [any(not torch.equal(b[name], a[name]) for name in a) for a, b in itertools.pairwise(model.teachers)]
    assert moved == [False, False, False, True, False, False, False, True, False]


def test_a_mean_of_the_weights_beside_a_teacher_that_shares_them_is_refused():
    model = module(objectives=[Data2Vec(top=1)], average=Average())
    with pytest.raises(UserError, match=r"model\.average and an objective whose teacher shares parts of the encoder"):
        model.build({})


def test_the_teacher_is_the_moving_average_of_the_run(tiny):
    class Kept(Following):
        def after_update(self, encoder, step):
            super().after_update(encoder, step)
            self.path = [*getattr(self, "path", []), weights(encoder)]

        def attach(self, encoder):
            super().attach(encoder)
            self.start = weights(encoder)

    objective = Kept()
    fit(module(encoder_overrides=SHAPE, objectives=[objective]), data(tiny), 4)
    name = "encoder.layers.1.feed_forward.intermediate_dense.weight"
    expected = objective.start[name]
    for state in objective.path:
        expected = DECAY * expected + (1 - DECAY) * state[name]
    assert torch.allclose(objective.teacher.encoder.get_parameter(name), expected, atol=1e-6)
    assert not torch.allclose(objective.path[-1][name], expected, atol=1e-4)


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """A run of four updates with a checkpoint of each; its module and folder."""
    folder = tmp_path_factory.mktemp("run")
    saver = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    model = module(encoder_overrides=SHAPE, objectives=[Following(), MaskedPrediction(final_dim=16)])
    fit(model, data(tiny), 4, callbacks=[saver])
    return model, folder


def test_resume_is_exact_with_its_teacher(tiny, run):
    model, folder = run
    resumed = module(encoder_overrides=SHAPE, objectives=[Following(), MaskedPrediction(final_dim=16)])
    fit(resumed, data(tiny), 4, folder / "step=2.ckpt")
    assert any(".teacher." in name for name in model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_encoder_export_and_count_know_no_teacher(tiny, run, tmp_path):
    model, folder = run
    path = folder / "step=4.ckpt"
    encoder = load_encoder(path)
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], value)
    export(path, tmp_path)
    assert {name.split(".")[2] for name in read_head(tmp_path)[0] if name.startswith("objectives.0")} == {"predict"}
    assert _parameters(path) == sum(value.numel() for value in model.parameters() if value.requires_grad)


def test_continuing_with_the_head_makes_a_new_teacher(tiny, run, tmp_path):
    export(run[1] / "step=4.ckpt", tmp_path)
    objectives = [Following(), MaskedPrediction(final_dim=16)]
    model = module(encoder=str(tmp_path), encoder_overrides=None, objectives=objectives, keep_head=True)
    source = data(tiny)
    source.setup("fit")
    model.build(codebooks(source))
    theirs = run[0].objectives[0]
    assert torch.equal(model.objectives[0].predict.weight, theirs.predict.weight)
    name = "encoder.layers.0.feed_forward.intermediate_dense.weight"
    assert torch.equal(model.objectives[0].teacher.encoder.get_parameter(name), model.encoder.get_parameter(name))
    assert not torch.equal(theirs.teacher.encoder.get_parameter(name), model.encoder.get_parameter(name))


@pytest.mark.slow
def test_two_processes_end_as_one_and_resume_exactly(tiny, tmp_path):
    """Sharded or not; LayerDrop, two passes with gradients, one of each of two teachers, online codebooks."""
    together(2, tmp_path / "log", everything, tiny, tmp_path)
    alone = followed(tiny, 1)
    found = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    for strategy in ("ddp", "fsdp2"):
        for name, value in alone.items():
            for rank in range(2):
                straight = found[rank][strategy]["straight"][name]
                assert torch.allclose(value, straight, atol=1e-5), (strategy, name)
                assert torch.equal(straight, found[rank][strategy]["resumed"][name]), (strategy, name)
