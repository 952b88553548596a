"""Encoders that are trained with a head: which layers, from when, at which rates, with which masks and skipped layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ranks import together
from torch import Tensor
from torchaudio.models.wav2vec2.utils import import_huggingface_model
from upstream_helpers import assert_close, family, save, utterances

from wavlm_lightning.augment.span_masking import SpanMasking
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import ChosenLayers, Fbank, HuggingFaceUpstream, TorchaudioModel, Upstream, WavLMUpstream
from wavlm_lightning.upstreams.fine_tuning import FineTuning, mask_inputs

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
LENGTHS = torch.tensor([9_000, 5_333, 7_119])
WAVEFORMS = torch.nn.utils.rnn.pad_sequence(utterances(LENGTHS.tolist()), batch_first=True)
NO_DROPOUT: dict[str, Any] = {"dropout": 0.0, "attention_dropout": 0.0, "activation_dropout": 0.0, "input_dropout": 0.0}
TINY: dict[str, Any] = {
    "layers": 2,
    "dim": 32,
    "ffn_dim": 48,
    "conv_channels": [16] * 7,
    "pos_conv_kernel": 16,
    "pos_conv_groups": 4,
}

Build = Callable[..., Upstream]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Folders of tiny models of transformers, by family."""
    written: dict[str, str] = {}

    def find(name: str) -> str:
        if name not in written:
            written[name] = save(family(name), tmp_path_factory.mktemp("model"), do_normalize=False)
        return written[name]

    return find


@pytest.fixture(
    params=["pre-norm", "post-norm", "hubert base", "wavlm large", "data2vec", "torchaudio hubert", "torchaudio wavlm"]
)
def build(request: pytest.FixtureRequest, folder: Callable[[str], str]) -> Build:
    """Builds an upstream of every family with two layers, given the arguments of `Upstream`."""
    name = request.param
    if name in ("pre-norm", "post-norm"):
        return lambda **how: WavLMUpstream("tiny", overrides={**TINY, "pre_norm": name == "pre-norm"}, **how)
    if name.startswith("torchaudio"):
        kind = {"torchaudio hubert": "hubert base", "torchaudio wavlm": "wavlm large"}[name]
        return lambda **how: TorchaudioModel(import_huggingface_model(family(kind)), False, "imported", **how)
    return lambda **how: HuggingFaceUpstream(folder(name), **how)


def tuned(build: Build, **settings: Any) -> Upstream:
    return build(frozen=False, fine_tuning=FineTuning(**{**NO_DROPOUT, **settings})).train()


def begin(upstream: Upstream, update: int = 0, seed: int = 0) -> Upstream:
    upstream.begin_update(update, torch.Generator().manual_seed(seed))
    return upstream


def hidden(upstream: Upstream) -> Tensor:
    return upstream(WAVEFORMS, LENGTHS).hidden


def test_what_is_trained(build: Build):
    upstream = tuned(build, layers=[-1])
    top = {id(p) for module in [upstream.blocks()[1], *upstream.after_blocks()] for p in module.parameters()}
    assert {id(p) for p in upstream.parameters() if p.requires_grad} == top
    hidden(upstream).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in upstream.parameters())
    bottom = tuned(build, layers=[0])
    names = [name for name, p in bottom.named_parameters() if p.requires_grad]
    assert any("feature_projection" in name for name in names) and any("pos_conv" in name for name in names)
    assert not any(p.requires_grad for block in bottom.blocks() for p in block.parameters())
    everything = tuned(build)
    front_end = everything.waveform_convolutions()
    assert front_end is not None and not any(p.requires_grad for p in front_end.parameters())
    with_convolutions = tuned(build, convolutions=True).waveform_convolutions()
    assert with_convolutions is not None and all(p.requires_grad for p in with_convolutions.parameters())
    for layers in ([3], [-4], []):
        with pytest.raises(UserError, match=r"fine_tuning\.layers: .* 0 .* to 2"):
            tuned(build, layers=layers)
    with pytest.raises(UserError, match=r"fine_tuning\.convolutions is true, but upstream\.fine_tuning\.layers"):
        tuned(build, layers=[2], convolutions=True)


def test_one_step_of_sgd_moves_each_layer_at_its_rate(build: Build):
    upstream = tuned(build, learning_rate=0.5, layer_decay=0.1)
    before = {name: p.detach().clone() for name, p in upstream.named_parameters()}
    optimizer = torch.optim.SGD(upstream.parameter_groups(learning_rate=7.0))
    for parameter in upstream.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    top = {id(p) for module in upstream.after_blocks() for p in module.parameters()}
    first, second = ({id(p) for p in block.parameters()} for block in upstream.blocks())
    convolutions = upstream.waveform_convolutions()
    assert convolutions is not None
    still = {id(p) for p in convolutions.parameters()}
    assert len(optimizer.param_groups) == 3 and still
    for name, parameter in upstream.named_parameters():
        rate = 0.5 * (1.0 if id(parameter) in second | top else 0.1 if id(parameter) in first else 0.01)
        if id(parameter) in still or not parameter.requires_grad:
            rate = 0.0
        assert torch.allclose(before[name] - parameter, torch.full_like(parameter, rate), atol=1e-6), name


def test_groups_without_decay_of_rates_and_with_weight_decay(build: Build):
    upstream = tuned(build)
    (group,) = upstream.parameter_groups(0.25)
    assert (group["lr"], group["weight_decay"], group["name"]) == (0.25, 0.0, "encoder")
    assert sum(p.numel() for p in group["params"]) == sum(p.numel() for p in upstream.parameters() if p.requires_grad)
    matrices, vectors = sorted(upstream.parameter_groups(0.25, weight_decay=0.1), key=lambda g: g["name"])
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all(p.squeeze().ndim > 1 for p in matrices["params"]) and all(
        p.squeeze().ndim < 2 for p in vectors["params"]
    )
    assert build().parameter_groups(0.25) == []


def test_no_gradients_before_the_update(build: Build):
    upstream = tuned(build, from_update=3, time_mask_probability=0.5)
    assert upstream.trained and upstream.waits and upstream.parameter_groups(1.0)
    first = hidden(begin(upstream, 2))
    assert upstream.waits and not first.requires_grad
    assert not torch.equal(first, hidden(begin(upstream.eval(), 2)))  # masks are on from the start
    later = hidden(begin(upstream.train(), 3))
    assert not upstream.waits and later.requires_grad
    assert_close(first, later)


def test_all_parameters_get_gradients_whatever_is_masked_and_dropped(build: Build):
    """DDP stops at parameters without one."""
    upstream = tuned(build, layer_drop=0.6, time_mask_probability=1e-9, convolutions=True)
    seen = set()
    for seed in range(8):
        upstream.zero_grad()
        states = hidden(begin(upstream, seed=seed))
        states.square().sum().backward()
        assert [name for name, p in upstream.named_parameters() if p.grad is None] == []
        seen.add(tuple(any(p.grad.any() for p in block.parameters()) for block in upstream.blocks()))
    assert len(seen) > 1


def test_a_dropped_layer_repeats_its_input_and_moves_nothing(build: Build):
    upstream = tuned(build, layer_drop=0.5)
    blocks = upstream.blocks()
    # The first seed that drops the second layer, which every family may drop, and keeps the first.
    seed = next(n for n in range(100) if begin(upstream, seed=n) and upstream.dropped_layers() == [False, True])
    upstream._draws.begin(torch.Generator().manual_seed(seed))
    upstream._draws._passes = -1  # `dropped_layers` drew in pass 0, the next one of the batch
    states = hidden(upstream)[:, 0]  # the longest row
    expected = states[1]
    for norm in upstream.after_blocks():
        expected = norm(expected)
    assert torch.equal(states[2], expected)
    states.square().sum().backward()
    assert all(not p.grad.any() for p in blocks[1].parameters())
    assert any(p.grad.any() for p in blocks[0].parameters())


def test_draws_follow_the_generator_alone_and_layers_are_the_same_on_all_ranks(
    build: Build, monkeypatch: pytest.MonkeyPatch
):
    upstream = tuned(
        build, layer_drop=0.5, time_mask_probability=0.5, channel_mask_probability=0.2, channel_mask_channels=4
    )
    first, second = hidden(begin(upstream, seed=1)), hidden(upstream)
    assert not torch.equal(first, second)  # two passes of a batch differ
    torch.manual_seed(99)
    assert torch.equal(first, hidden(begin(upstream, 7, seed=1)))  # a resumed run
    assert torch.equal(second, hidden(upstream))
    drops: list[Any] = [begin(upstream, seed=seed).dropped_layers() for seed in range(40)]
    assert 20 < sum(map(sum, drops)) < 60
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    assert drops == [begin(upstream, seed=seed).dropped_layers() for seed in range(40)]
    other = begin(upstream, seed=1).mask_inputs(torch.ones(3, 400, 32), torch.tensor([400] * 3))
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    assert not torch.equal(other, begin(upstream, seed=1).mask_inputs(torch.ones(3, 400, 32), torch.tensor([400] * 3)))


def test_evaluation_neither_masks_nor_drops(build: Build):
    upstream = tuned(build, layer_drop=0.9, time_mask_probability=0.9, channel_mask_probability=0.9)
    assert_close(hidden(begin(upstream.eval())), hidden(build()))


def test_recomputed_layers_give_the_same_gradients_and_leave_the_same_random_state(build: Build):
    dropouts = {"dropout": 0.2, "activation_dropout": 0.2, "input_dropout": 0.2, "layer_drop": 0.3}
    plain, recomputed = (tuned(build, **dropouts, activation_checkpointing=on) for on in (False, True))
    states = []
    for upstream in (plain, recomputed):
        torch.manual_seed(5)
        hidden(begin(upstream)).square().mean().backward()
        states.append(torch.get_rng_state())
    assert torch.equal(*states)
    for (name, a), b in zip(plain.named_parameters(), recomputed.parameters(), strict=True):
        if a.requires_grad:
            assert (a.grad - b.grad).abs().max() <= 1e-6 * a.grad.abs().max().clamp(min=1), name


@pytest.mark.slow
@pytest.mark.long
def test_compiled_layers_compute_the_same(build: Build):
    plain, compiled = (tuned(build, layer_drop=0.3, compile=on) for on in (False, True))
    for seed in range(2):
        expected, found = hidden(begin(plain, seed=seed)), hidden(begin(compiled, seed=seed))
        assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_dropouts_are_set(build: Build):
    upstream = tuned(build, dropout=0.31, attention_dropout=0.32, activation_dropout=0.33, input_dropout=0.34)
    rates = {m.p for m in upstream.modules() if isinstance(m, torch.nn.Dropout)}
    assert {0.31, 0.33, 0.34} <= rates <= {0.31, 0.33, 0.34, 0.0}
    attention = upstream.blocks()[1].attention
    assert attention.dropout == 0.32


@pytest.mark.parametrize(("probability", "share"), [(0.65, 0.489), (0.75, 0.541), (0.5, 0.401)])
def test_time_masks_are_those_of_wav2vec(probability: float, share: float):
    """The shares of the published probabilities, and transformers' masks."""
    from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices

    embedding, x = torch.full((4,), 7.0), torch.zeros(64, 1_000, 4)
    settings = FineTuning(time_mask_probability=probability)
    masked = mask_inputs(
        x, torch.tensor([1_000] * 32 + [500] * 32), embedding, settings, torch.Generator().manual_seed(0)
    )
    assert set(masked.unique().tolist()) == {0.0, 7.0} and torch.equal(masked[..., 0], masked[..., 3])
    assert not masked[32:, 500:].any()  # nothing is masked in the padding
    theirs = _compute_mask_indices((64, 1_000), probability, 10).mean()
    for found in (masked[:32, :, 0].mean() / 7, masked[32:, :500, 0].mean() / 7, theirs):
        assert found == pytest.approx(share, abs=0.012)


def test_masks_of_a_row_do_not_depend_on_the_other_rows():
    """fairseq thins all rows to the fewest masked frames of the batch."""
    embedding, x = torch.full((1,), 1.0), torch.zeros(2, 1_000, 1)
    settings = FineTuning(time_mask_probability=0.65)
    shares = [
        mask_inputs(x, torch.tensor([1_000, 20]), embedding, settings, torch.Generator().manual_seed(n))[0].mean()
        for n in range(50)
    ]
    assert torch.stack(shares).mean() == pytest.approx(0.489, abs=0.02)


def test_channel_masks_are_bands_of_zeros_over_the_whole_utterance():
    settings = FineTuning(channel_mask_probability=0.5)
    masked = mask_inputs(
        torch.ones(200, 5, 768), torch.full((200,), 5), None, settings, torch.Generator().manual_seed(0)
    )
    bands = masked == 0
    assert (bands == bands[:, :1]).all()
    assert bands.float().mean() == pytest.approx(0.40, abs=0.02)  # 6 to 6.5 spans of 64 in 768
    few = FineTuning(channel_mask_probability=0.01)
    assert (
        not mask_inputs(torch.ones(1, 5, 768), torch.tensor([5]), None, few, torch.Generator().manual_seed(1))
        .eq(0)
        .any()
    )


def test_batch_norms_keep_their_statistics(folder: Callable[[str], str]):
    upstream = tuned(lambda **how: HuggingFaceUpstream(folder("hubert with batch norm"), **how))
    norms = [m for m in upstream.modules() if isinstance(m, torch.nn.BatchNorm1d)]
    before = norms[0].running_mean.clone()
    together = hidden(upstream)
    assert torch.equal(before, norms[0].running_mean)
    alone = upstream(WAVEFORMS[1:2, :5_333], LENGTHS[1:2]).hidden
    assert (together[:, 1, : alone.shape[2]] - alone[:, 0]).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["wavlm base", "wavlm large", "wavlm pre-norm"])
def test_gradients_are_those_of_transformers_with_the_same_masks(name: str, folder: Callable[[str], str]):
    """One loss on masked inputs: our WavLM, transformers' own training pass, and our wrapper of it."""
    theirs = family(
        name,
        mask_time_prob=0.5,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
    )
    theirs.load_state_dict(HuggingFaceUpstream(folder(name), frozen=False).model.state_dict(), strict=False)
    how = FineTuning(**NO_DROPOUT, convolutions=True, time_mask_probability=0.65)
    ours = WavLMUpstream(folder(name), overrides={"feature_grad_mult": 1.0}, frozen=False, fine_tuning=how)
    wrapped = HuggingFaceUpstream(folder(name), frozen=False, fine_tuning=how)
    for model in (ours.encoder, wrapped.model):
        model.masked_spec_embed.data.copy_(theirs.masked_spec_embed)
    waveform, length = WAVEFORMS[:1], LENGTHS[:1]
    frames = int(build_frames(ours, length))
    ours.train(), wrapped.train(), theirs.train()
    begin(ours)
    ours._draws.next_pass()
    mask = SpanMasking(0.65, 10, 2, equalise=False)(torch.tensor([frames]), frames, ours._draws.generator(0))
    assert 0 < mask.sum() < frames
    weight = torch.randn(1, frames, 32, generator=torch.Generator().manual_seed(3))
    (theirs(waveform, mask_time_indices=mask).last_hidden_state * weight).sum().backward()
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    for upstream, model in ((ours, ours.encoder), (wrapped, wrapped.model)):
        (begin(upstream)(waveform, length).hidden[-1] * weight).sum().backward()
        found = {name: p.grad for name, p in model.named_parameters()}
        assert found.keys() == expected.keys()
        for key, gradient in expected.items():
            if gradient is None:  # a bias before a norm
                continue
            scale = gradient.abs().max().clamp(min=1e-3)
            assert (found[key] - gradient).abs().max() <= 1e-3 * scale, key


def build_frames(upstream: WavLMUpstream, lengths: Tensor) -> Tensor:
    return upstream.encoder.config.frames(lengths)


def test_a_choice_of_layers_takes_part_as_the_upstream_says():
    inner = WavLMUpstream("tiny", overrides=TINY, frozen=False, fine_tuning=FineTuning(from_update=2, layer_decay=0.5))
    chosen = begin(ChosenLayers(inner, [1]), 1).train()
    assert chosen.trained and chosen.waits and inner.training and not hidden(chosen).requires_grad
    assert hidden(begin(chosen, 2)).requires_grad and chosen.blocks() == inner.blocks()
    assert [g["lr"] for g in chosen.parameter_groups(1.0)] == [g["lr"] for g in inner.parameter_groups(1.0)]
    hidden(chosen).sum().backward()
    assert all(p.grad is not None for p in inner.parameters() if p.requires_grad)
    assert not ChosenLayers(WavLMUpstream("tiny", overrides=TINY), [1]).train().training


class Own(Upstream):
    """An upstream of the old contract."""

    label, dim, num_layers, frame_rate = "own", 4, 1, 50.0

    def __init__(self, frozen: bool = True, **how: Any) -> None:
        super().__init__(frozen, **how)
        self.weight = torch.nn.Parameter(torch.ones(4))
        self.freeze()

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        frames = waveforms[:, ::320, None] * self.weight
        return Layers(frames[None], lengths // 320, 50.0)


def test_an_upstream_that_names_no_layers_trains_as_a_whole():
    upstream = begin(Own(frozen=False, fine_tuning=FineTuning(from_update=1, learning_rate=0.5)), 1)
    assert [g["lr"] for g in upstream.parameter_groups(1.0)] == [0.5] and not upstream.waits
    asked: dict[str, Any] = {
        "layers": [0],
        "layer_decay": 0.5,
        "layer_drop": 0.1,
        "activation_checkpointing": True,
        "compile": True,
    }
    for name, value in asked.items():
        with pytest.raises(UserError, match=rf"fine_tuning\.{name}: Own does not say which its transformer layers are"):
            Own(frozen=False, fine_tuning=FineTuning(**{name: value}))
    for kind in ("time", "channel"):
        asked = {f"{kind}_mask_probability": 0.5}
        with pytest.raises(UserError, match=rf"fine_tuning\.{kind}_mask_probability: Own cannot mask"):
            Own(frozen=False, fine_tuning=FineTuning(**asked))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WavLMUpstream("tiny", fine_tuning=FineTuning()), r"fine_tuning is set, but upstream\.frozen is true"),
        (lambda: WavLMUpstream("tiny", frozen=False, differentiable=True), r"differentiable is for a frozen encoder"),
        (lambda: Fbank(frozen=False), r"FBANK has no weights to train"),
        (lambda: FineTuning(from_update=-1), r"fine_tuning\.from_update must be 0 or more, not -1"),
        (lambda: FineTuning(learning_rate=0.0), r"fine_tuning\.learning_rate must be above 0"),
        (lambda: FineTuning(layer_decay=1.5), r"fine_tuning\.layer_decay must be above 0 and at most 1, not 1\.5"),
        (lambda: FineTuning(time_mask_probability=65), r"fine_tuning\.time_mask_probability must be from 0 to 1"),
        (lambda: FineTuning(channel_mask_channels=0), r"fine_tuning\.channel_mask_channels must be 1 or more"),
        (lambda: FineTuning(layer_drop=1.0), r"fine_tuning\.layer_drop must be at least 0 and below 1"),
        (lambda: FineTuning(attention_dropout=-0.1), r"fine_tuning\.attention_dropout must be"),
        (
            lambda: WavLMUpstream("tiny", overrides={"layer_drop": 0.1}, frozen=False, fine_tuning=FineTuning()),
            r"overrides\.layer_drop and upstream\.fine_tuning exclude each other; set upstream\.fine_tuning\.layer_drop",
        ),
        (
            lambda: WavLMUpstream(
                "tiny", overrides={"feature_grad_mult": 0.0}, frozen=False, fine_tuning=FineTuning(convolutions=True)
            ),
            r"convolutions is true, but feature_grad_mult of trained from random weights \(tiny\) is 0",
        ),
        (
            lambda: WavLMUpstream(
                "random:tiny_mel",
                overrides={"mel_channels": []},
                frozen=False,
                fine_tuning=FineTuning(convolutions=True),
            ),
            r"convolutions is true, but the front-end of .*tiny_mel\) is log-mel frames without convolutions; set it to false",
        ),
    ],
)
def test_contradictions_are_refused_in_a_sentence(make: Callable[[], object], message: str):
    with pytest.raises(UserError, match=message):
        make()


def test_convolutions_without_gradient_are_not_waited_for():
    upstream = WavLMUpstream("tiny", overrides={**TINY, "feature_grad_mult": 0.0}, frozen=False).train()
    hidden(upstream).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in upstream.parameters())


# Frozen, but with gradients to the waveform.


def input_gradient(upstream: Upstream, waveform: Tensor, weight: Tensor) -> Tensor:
    waveform = waveform.clone().requires_grad_(True)
    (upstream(waveform, torch.tensor([waveform.shape[1]])).hidden * weight).sum().backward()
    assert waveform.grad is not None
    return waveform.grad


def test_differentiable_is_the_gradient_of_finite_differences(build: Build):
    upstream = build(differentiable=True).double().train()
    waveform = WAVEFORMS[:1, :2_000].double()
    shape = upstream(waveform, torch.tensor([2_000])).hidden.shape
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    gradient = input_gradient(upstream, waveform, weight)
    assert not upstream.training and all(p.grad is None for p in upstream.parameters())
    direction = torch.randn(waveform.shape, generator=generator, dtype=torch.float64)

    def value(step: float) -> Tensor:
        return (upstream(waveform + step * direction, torch.tensor([2_000])).hidden * weight).sum()

    step = 1e-6
    expected = (value(step) - value(-step)) / (2 * step)
    assert (gradient * direction).sum().item() == pytest.approx(expected.item(), rel=1e-4)


def test_differentiable_changes_no_feature_and_no_fingerprint(build: Build):
    frozen, through = build(), build(differentiable=True)
    assert torch.equal(hidden(frozen), hidden(through)) and not hidden(through).requires_grad
    assert frozen.fingerprint() == through.fingerprint()
    waveform = WAVEFORMS.clone().requires_grad_(True)
    assert not frozen(waveform, LENGTHS).hidden.requires_grad


def test_differentiable_at_published_width():
    """The fast paths of CPUs for wide encoders pass gradients to their input, too; Base scales them by 0.1 in training."""
    wide = {"layers": 1}
    waveform, weight = WAVEFORMS[:1], torch.randn(2, 1, 27, 768, generator=torch.Generator().manual_seed(0))
    upstream = WavLMUpstream("base", overrides=wide, differentiable=True)
    trained = WavLMUpstream("base", overrides={**wide, "feature_grad_mult": 1.0}, frozen=False).eval()
    expected = input_gradient(trained, waveform, weight)
    found = input_gradient(upstream, waveform, weight)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_filter_banks_are_differentiable():
    waveform = WAVEFORMS[:1].clone().requires_grad_(True)
    Fbank(differentiable=True)(waveform, LENGTHS[:1]).hidden.square().sum().backward()
    assert waveform.grad is not None and waveform.grad.abs().sum() > 0
    assert not Fbank()(waveform, LENGTHS[:1]).hidden.requires_grad


def test_a_cache_refuses_what_it_cannot_hold(tmp_path: Path):
    from wavlm_lightning.upstreams.cache import FeatureCache

    with pytest.raises(UserError, match=r"cache: upstream\.differentiable"):
        FeatureCache(tmp_path, ChosenLayers(Fbank(differentiable=True), [0]), "frame")


def train_together(folder: str) -> None:
    """Three steps of a fine-tuned encoder in DDP without a search for unused parameters; the weights go to a file."""
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    how = FineTuning(
        **NO_DROPOUT, layer_drop=0.5, time_mask_probability=0.5, channel_mask_probability=0.2, layers=[0, 2]
    )
    upstream = WavLMUpstream("tiny", overrides={**TINY, "layers": 3}, frozen=False, fine_tuning=how).train()
    model = torch.nn.parallel.DistributedDataParallel(upstream)
    optimizer = torch.optim.SGD(upstream.parameter_groups(1e-2))
    dropped = []
    for step in range(4):
        begin(upstream, step, seed=step)
        optimizer.zero_grad()
        model(WAVEFORMS[rank : rank + 1], LENGTHS[rank : rank + 1]).hidden.square().mean().backward()
        optimizer.step()
        dropped.append(begin(upstream, step, seed=step).dropped_layers())
    torch.save({"state": upstream.state_dict(), "dropped": dropped}, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_drop_the_same_layers_and_keep_the_same_weights(tmp_path: Path):
    together(2, tmp_path / "log.txt", train_together, str(tmp_path))
    zero, one = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert zero["dropped"] == one["dropped"] and any(map(any, zero["dropped"]))
    before = WavLMUpstream("tiny", overrides={**TINY, "layers": 3}).state_dict()
    for name, value in zero["state"].items():
        assert torch.equal(value, one["state"][name]), name
    assert torch.equal(
        before["encoder.encoder.layers.0.final_layer_norm.weight"],
        zero["state"]["encoder.encoder.layers.0.final_layer_norm.weight"],
    )
    assert not torch.equal(before["encoder.masked_spec_embed"], zero["state"]["encoder.masked_spec_embed"])
