"""`wavlm plan`: figures that were derived elsewhere, and figures that follow from each other."""

from __future__ import annotations

import json

import pytest
import torch
import yaml

from wavlm_lightning.cli.plan import main
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.pretraining import SpanMasking, objectives
from wavlm_lightning.pretraining.memory import parameter_count
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.training.muon import newton_schulz_flops
from wavlm_lightning.workflows.plan.assumptions import Assumptions
from wavlm_lightning.workflows.plan.costs import plan, totals
from wavlm_lightning.workflows.plan.text import _figure, as_text

FIRST = """
recipe: {hours: 960, gpus: 8, gpu: a100, codebook: {clusters: 100}}
model: {init_args: {encoder: hubert_base}}
data: {init_args: {batch_seconds: 87.5, max_seconds: 15.625}}
trainer: {max_steps: 250000, accumulate_grad_batches: 4, precision: bf16-mixed}
"""
SECOND = """
recipe: {hours: 94000, gpus: 16, gpu: a100, codebook: {clusters: 500, encoder: first.yaml, layer: 6, share: 0.1}}
model:
  init_args:
    encoder: large
    encoder_overrides: {layer_drop: 0.0}
    objectives: [{class_path: wavlm_lightning.pretraining.MaskedPrediction, init_args: {final_dim: 768}}]
data: {init_args: {batch_seconds: 128.0, max_seconds: 16.0}}
trainer: {max_steps: 400000, accumulate_grad_batches: 16, precision: 16-mixed}
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "first.yaml").write_text(FIRST)
    (tmp_path / "second.yaml").write_text(SECOND)
    return tmp_path


def planned(path, **assumptions):
    return plan(str(path), Assumptions(**assumptions))


def test_an_update_of_wavlm_large_v2_takes_39_seconds_of_an_a100(folder):
    """2,048 x 16 s at 100 TFLOP/s, with three forward passes for a step and no LayerDrop; 400,000 of them 181 days."""
    run = planned(folder / "second.yaml", mfu=100 / 312)[1].training
    assert run.update_seconds == 32_768
    assert run.flops / run.updates / 100e12 == pytest.approx(39, rel=0.05)
    assert run.gpu_hours / 24 == pytest.approx(181, rel=0.05)
    assert run.wall_hours == pytest.approx(run.gpu_hours / 16)


def test_stages_of_a_chain(folder):
    first, second = planned(folder / "second.yaml")
    assert (first.name, second.name) == ("first", "second")
    assert first.labelling.source == "MFCC"
    assert first.labelling.cpu_hours == pytest.approx((first.labelling.fit_hours + 960) / 6_800)
    assert second.labelling.source == "layer 6 of first"
    # The lower half of Base: the convolutions and six layers.
    half = (4.91 + 0.51 + (8.49 + 0.92) / 2) * 1e9
    assert second.labelling.apply_flops == pytest.approx(94_000 * 3600 * half, rel=0.02)
    assert second.labelling.cpu_hours == 0
    assert first.training.epochs == pytest.approx(250_000 * 2_800 / (960 * 3600))
    assert first.training.parameters == 94_371_712 + 769 * 256 + 104 * 256
    assert second.training.parameters == 315_453_120 + 1025 * 768 + 504 * 768
    assert second.export_bytes == 4 * 315_453_120
    total = totals([first, second])
    assert total["flops"] == pytest.approx(
        first.training.flops + second.training.flops + second.labelling.fit_flops + second.labelling.apply_flops
    )
    assert total["wall_hours"] == pytest.approx(
        first.training.gpu_hours / 8 + second.training.gpu_hours / 16 + second.labelling.gpu_hours
    )


def test_memory_of_kmeans_bounds_what_it_sees(folder):
    _, bounded = planned(folder / "second.yaml", memory_gib=2.0)
    assert bounded.labelling.wanted_hours == pytest.approx(9_400)
    assert bounded.labelling.fit_hours == pytest.approx(2 * 2**30 / (4 * 768 * 50) / 3600)
    _, enough = planned(folder / "second.yaml", memory_gib=bounded.labelling.memory_gib)
    assert enough.labelling.fit_hours == pytest.approx(9_400)


@pytest.mark.parametrize(("gpus", "accumulation"), [(8, 4), (1, 32), (32, 1), (4, 8)])
def test_other_numbers_of_gpus_keep_the_audio_of_an_update(folder, gpus, accumulation):
    (stage,) = planned(folder / "first.yaml", gpus=gpus)
    run = stage.training
    assert run.accumulation == accumulation
    assert run.update_seconds == 2_800
    assert run.flops == planned(folder / "first.yaml")[0].training.flops
    assert run.wall_hours == pytest.approx(run.gpu_hours / gpus)
    assert any(f"accumulate_grad_batches {accumulation} keeps" in remark for remark in run.remarks) == (gpus != 8)


def test_growing_batches_and_crops_cost_their_mean(folder):
    """Half of the updates at half of the audio cost a quarter less; shorter crops less attention."""
    full = planned(folder / "first.yaml")[0].training

    def grown(more: str):
        (folder / "grown.yaml").write_text(FIRST.replace("15.625", f"15.625, {more}"))
        return planned(folder / "grown.yaml")[0].training

    batches = grown("batch_growth: {start: 43.75, to_update: 125000, steps: 1}")
    assert batches.flops == pytest.approx(0.75 * full.flops) and batches.epochs == pytest.approx(0.75 * full.epochs)
    assert batches.memory == full.memory and batches.update_seconds == full.update_seconds
    assert "batches grow from 43.75 to 87.5 s over the first 125,000 updates: 2,100 s an update" in batches.remarks[0]
    crops = grown("crop_growth: {start: 4.0, to_update: 125000}")
    assert crops.epochs == full.epochs and 0.9 * full.flops < crops.flops < 0.99 * full.flops
    late = grown("crop_growth: {start: 4.0, to_update: 300000}")
    assert "the run ends before they are full" in late.remarks[0]
    for more, said in (
        (
            "crop_growth: {start: 20, to_update: 5}",
            r"grown.yaml: data.crop_growth.start must be below data.max_seconds",
        ),
        ("batch_growth: {begin: 20}", "data.batch_growth: .*begin"),
    ):
        with pytest.raises(UserError, match=said):
            grown(more)
    grown("batch_growth: {start: 43.75, to_update: 5}")
    with pytest.raises(
        UserError, match=r"5 GPUs need other batches than .*, and data.batch_growth.start would not follow"
    ):
        main([str(folder / "grown.yaml"), "--gpus", "5", "--cluster", "slurm"])


def test_where_no_whole_number_keeps_it_another_batch_does(folder):
    (remark,) = planned(folder / "first.yaml", gpus=6)[0].training.remarks
    assert "accumulate_grad_batches 6 and batch_seconds 77.78" in remark  # 6 x 6 x 77.78 = 2,800


def test_hours_are_those_of_the_corpus_one_has(folder):
    (stage,) = planned(folder / "first.yaml", hours=96.0)
    assert stage.training.epochs == pytest.approx(10 * planned(folder / "first.yaml")[0].training.epochs)
    first, second = planned(folder / "second.yaml", hours=1_000.0)
    assert (first.hours, second.hours) == (960, 1_000)  # the first was written for another corpus


@pytest.mark.parametrize("strategy", ["fsdp2", "{class_path: wavlm_lightning.training.fsdp.FSDP2}"])
def test_memory_is_that_of_the_strategy(folder, strategy):
    whole = planned(folder / "second.yaml")[1].training.memory
    (folder / "shared.yaml").write_text(SECOND.replace("trainer: {", f"trainer: {{strategy: {strategy}, "))
    share = planned(folder / "shared.yaml")[1].training.memory
    assert share.optimiser == whole.optimiser / 16
    assert share.total < whole.total
    assert planned(folder / "shared.yaml", gpus=1)[1].training.memory.optimiser == whole.optimiser


def test_memory_of_checkpointed_layers(folder):
    whole = planned(folder / "second.yaml")[1].training.memory
    (folder / "again.yaml").write_text(
        SECOND.replace("init_args:\n", "init_args:\n    activation_checkpointing: true\n")
    )
    again = planned(folder / "again.yaml")[1].training.memory
    assert again.layers < whole.layers / 10
    assert again.total < whole.total


def test_muon_and_a_moving_average_are_counted(folder):
    """Muon: one moment of the matrices less, its products in every process; the average: the weights once more."""
    path, layers = folder / "first.yaml", 12 * (4 * 768**2 + 2 * 768 * 3072)
    plain = planned(path)[0].training
    for key, settings in (("muon", "{newton_schulz_steps: 3}"), ("average", "{}")):
        changed = folder / f"{key}.yaml"
        changed.write_text(FIRST.replace("hubert_base}", f"hubert_base, {key}: {settings}}}"))
        found = planned(changed)[0].training
        more = found.memory.optimiser - plain.memory.optimiser
        assert more == (-4 * layers if key == "muon" else plain.memory.parameters)
        of_muon = 8 * 250_000 * newton_schulz_flops(WavLMConfig.preset("hubert_base"), 3) if key == "muon" else 0
        assert found.flops - plain.flops == pytest.approx(of_muon, rel=1e-6)
        changed.write_text(changed.read_text().replace("trainer: {", "trainer: {strategy: fsdp2, "))
        with pytest.raises(UserError, match=rf"{key}\.yaml: model\.{key} needs whole weights"):
            planned(changed)
    (folder / "muon.yaml").write_text(FIRST.replace("hubert_base}", "hubert_base, muon: {momentum: 2}}"))
    with pytest.raises(UserError, match=r"muon\.yaml: model\.muon\.momentum 2: it must be from 0 to below 1"):
        planned(folder / "muon.yaml")


def test_gpus_too_small_and_without_bf16(folder):
    text = FIRST.replace("batch_seconds: 87.5", "batch_seconds: 560.0")
    (folder / "wide.yaml").write_text(text)
    run = planned(folder / "wide.yaml", gpu="v100")[0].training
    assert run.fits == {16: False, 32: True}
    assert "v100 has no bf16: take --trainer.precision 16-mixed" in run.remarks
    assert run.gpu_hours == pytest.approx(run.flops / (0.25 * 125e12) / 3600)


def test_without_a_gpu_there_are_no_hours(folder):
    stages = planned(folder / "second.yaml", gpu="cpu")
    assert totals(stages)["gpu_hours"] is None
    assert stages[0].training.wall_hours is None
    assert "GPU-hours" in as_text(stages, Assumptions()) and "--mfu" not in as_text(stages, Assumptions())


def test_unknown_objectives_and_absent_checkpoints_are_said(folder):
    (folder / "mine.yaml").write_text(
        FIRST.replace("encoder: hubert_base", "encoder: not/here, objectives: [{class_path: mine.Rhythm}]")
    )
    run = planned(folder / "mine.yaml")[0].training
    assert "not/here is not here, so it was counted as Base" in run.remarks
    assert "without the cost of Rhythm, which is not known here" in run.remarks
    assert run.parameters == 94_381_936


def test_an_objective_of_ones_own_is_asked_for_its_cost(folder, monkeypatch):
    (folder / "mine_with_cost.py").write_text(
        "from wavlm_lightning.pretraining.objectives import FeaturePenalty, ObjectiveCost\n\n\n"
        "class Rhythm(FeaturePenalty):\n"
        "    def cost(self, encoder, labels, frames, masked, compute_bytes):\n"
        "        return ObjectiveCost(parameters=labels * encoder.dim)\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    (folder / "mine.yaml").write_text(
        FIRST.replace("hubert_base", "hubert_base, objectives: [{class_path: mine_with_cost.Rhythm}]")
    )
    run = planned(folder / "mine.yaml")[0].training
    assert run.parameters == 94_371_712 + 100 * 768 and not run.remarks


def test_views_and_teachers_of_an_objective_are_counted(folder, monkeypatch):
    """A teacher's pass costs operations and weights, a second masked pass what the main one costs."""
    (folder / "mine_with_views.py").write_text(
        "from wavlm_lightning.pretraining.objectives import FeaturePenalty, ObjectiveCost, PassCost\n\n\n"
        "class Views(FeaturePenalty):\n"
        "    def __init__(self, *, gradients: bool, convolutions: bool, teacher: int):\n"
        "        super().__init__()\n"
        "        self.passes = (PassCost(gradients, convolutions, teacher),)\n\n"
        "    def cost(self, encoder, labels, frames, masked, compute_bytes):\n"
        "        return ObjectiveCost(passes=self.passes)\n"
    )
    monkeypatch.syspath_prepend(str(folder))

    def run(*given):
        arguments = dict(zip(("gradients", "convolutions", "teacher"), given, strict=False))
        entry = f"{{class_path: mine_with_views.Views, init_args: {arguments}}}" if given else "FeaturePenalty"
        text = FIRST.replace("hubert_base", f"hubert_base, objectives: [{entry}]")
        (folder / "views.yaml").write_text(text)
        return planned(folder / "views.yaml")[0].training

    from wavlm_lightning.pretraining.flops import encoder_flops

    alone, config = run(), WavLMConfig.preset("hubert_base")
    parts = encoder_flops(config, 87.5 / 15.625, 250_000)
    steps = 8 * 4 * 250_000
    teacher, both, again = run(False, False, 1000), run(False, True, 0), run(True, True, 0)
    assert teacher.flops - alone.flops == pytest.approx(steps * (parts.forward - parts.front_end))
    assert both.flops - alone.flops == pytest.approx(steps * parts.forward)
    assert again.flops == pytest.approx(2 * alone.flops)
    assert teacher.memory.parameters - both.memory.parameters == 4000
    assert teacher.memory.total - both.memory.total == 4000
    assert both.parameters == teacher.parameters == alone.parameters
    kept = alone.memory.layers + alone.memory.projection + alone.memory.front_end
    assert both.memory.objectives == 0 and again.memory.objectives == pytest.approx(kept)


def test_masked_copies_are_counted(folder):
    """Layers on the visible frames of every copy, the front-end and terms without masks once a crop, a decoder."""

    def run(copies: str = ""):
        text = FIRST.replace("hubert_base", f"hubert_base, objectives: [MaskedPrediction, FeaturePenalty]{copies}")
        (folder / "copies.yaml").write_text(text)
        return planned(folder / "copies.yaml")[0].training

    from wavlm_lightning.pretraining.flops import encoder_flops

    config, share = WavLMConfig.preset("hubert_base"), SpanMasking().expected_share()
    parts = encoder_flops(config, 87.5 / 15.625, 250_000)
    steps, frames = 8 * 4 * 250_000, 87.5 / 15.625 * config.frames(250_000)
    alone, on_all = run(), run(", copies: {copies: 3, visible_only: false}")
    visible, small = (run(f", copies: {{copies: 3, decoder: {{layers: {layers}, dim: 96}}}}") for layers in (2, 1))
    head = alone.flops / steps - parts.training
    layers = 0.95 * 3 * (parts.linears + parts.attention)
    assert (on_all.flops - alone.flops) / steps == pytest.approx(2 * (layers + 3 * parts.positional + head))
    seen = 0.95 * 3 * (parts.linears * (1 - share) + parts.attention * (1 - share) ** 2)
    more = (visible.flops - small.flops) / steps
    assert more == pytest.approx(3 * 3 * frames * 2 * 96 * 96 // 16 * 7)
    first = 3 * 3 * frames * 2 * (768 * 96 // 16 * 7 + 96 * 768)
    expected = parts.training - layers + 3 * seen + 2 * 3 * parts.positional + 3 * head + first + more
    assert visible.flops / steps == pytest.approx(expected)
    assert visible.parameters - small.parameters == 96 * 96 // 16 * 7 + 3 * 96
    assert alone.memory.front_end == on_all.memory.front_end == visible.memory.front_end
    assert on_all.memory.layers == pytest.approx(3 * alone.memory.layers)
    assert visible.memory.layers == pytest.approx((1 - share) * on_all.memory.layers)
    with pytest.raises(UserError, match=r"copies\.yaml: model\.copies: .*'copy'"):
        run(", copies: {copy: 3}")
    with pytest.raises(UserError, match=r"copies\.yaml: model\.copies: .*kernel must be odd"):
        run(", copies: {decoder: {kernel: 2}}")


def test_arguments_that_an_objective_refuses(folder):
    (folder / "wrong.yaml").write_text(
        FIRST.replace("hubert_base", "hubert_base, objectives: [{class_path: LogMelRegression, init_args: {bin: 4}}]")
    )
    with pytest.raises(UserError, match=r"wrong\.yaml: model\.objectives: LogMelRegression: .*'bin'") as raised:
        planned(folder / "wrong.yaml")
    assert "\n" not in str(raised.value)


def test_checkpoints_that_are_here_give_their_shape(folder):
    from wavlm_lightning.encoder import WavLM

    WavLM(WavLMConfig.tiny()).save_pretrained(folder / "tiny")
    (folder / "on.yaml").write_text(
        FIRST.replace("encoder: hubert_base", f"encoder: {folder / 'tiny'}").replace(
            "clusters: 100", f"clusters: 100, checkpoint: {folder / 'tiny'}, layer: 2"
        )
    )
    stage = planned(folder / "on.yaml")[0]
    assert stage.export_bytes == 4 * WavLM(WavLMConfig.tiny()).parameter_count()
    assert stage.labelling.source == "layer 2 of tiny"
    assert 0 < stage.labelling.apply_flops < planned(folder / "second.yaml")[1].labelling.apply_flops


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_steps: 250000, ", "", r"trainer\.max_steps must be a number above 0, not None"),
        ("max_steps: 250000", "max_steps: -1", r"trainer\.max_steps must be a number above 0, not -1"),
        ("batch_seconds: 87.5", "batch_seconds: much", r"data\.batch_seconds must be a number above 0, not 'much'"),
        ("hubert_base", "hubert_base, encoder_overrides: {heads: 5}", r"model\.encoder hubert_base: dim \(768\)"),
        ("bf16-mixed", "bf16-true", r"trainer\.precision bf16-true"),
        ("gpu: a100", "gpu: z80", r"recipe\.gpu z80: the peak of this GPU is unknown here; take one of v100"),
        (
            "clusters: 100",
            "clusters: 100, checkpoint: not/here, layer: 13",
            r"recipe\.codebook\.layer is 13, but that encoder has 12",
        ),
    ],
)
def test_mistakes_in_configurations(folder, old, new, message):
    (folder / "wrong.yaml").write_text(FIRST.replace(old, new))
    with pytest.raises(UserError, match=message) as raised:
        planned(folder / "wrong.yaml")
    assert "\n" not in str(raised.value)


def test_unknown_gpu_on_the_command_line(folder):
    with pytest.raises(UserError, match=r"--gpu z80: the peak of this GPU is unknown here"):
        main([str(folder / "first.yaml"), "--gpu", "z80"])


@pytest.mark.parametrize("option", [["--mfu", "25"], ["--gpus", "0"], ["--hours", "-1"], ["--memory", "nan"]])
def test_mistakes_on_the_command_line(folder, capsys, option):
    with pytest.raises(SystemExit):
        main([str(folder / "first.yaml"), *option])
    assert option[0] in capsys.readouterr().err


def test_text_and_json_say_the_same(folder, capsys):
    arguments = [str(folder / "second.yaml"), "--gpus", "64", "--gpu", "h100", "--mfu", "0.1"]
    assert main([*arguments, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert [stage["name"] for stage in content["stages"]] == ["first", "second"]
    for stage in content["stages"]:
        assert f"{stage['training']['updates']:,} updates" in text
        assert f" {_figure(stage['training']['gpu_hours'])} " in text
    assert f" {_figure(content['total']['gpu_hours'])} " in text
    assert content["assumptions"]["mfu"] == 0.1
    assert "assume 10 % of the peak (--mfu)" in text and "unmeasured on GPUs" in text
    assert len(text.splitlines()) < 40


@pytest.mark.parametrize("pre_norm", [False, True])
@pytest.mark.parametrize(
    ("class_path", "arguments"),
    [
        ("MaskedPrediction", {}),
        ("MaskedPrediction", {"final_dim": 48, "layer": 2, "extra_codewords": 0}),
        ("MaskedPrediction", {"layer": 4}),
        ("MaskedPrediction", {"similarity": "logits", "layer": 2}),
        ("MaskedCtc", {}),
        ("MaskedCtc", {"final_dim": 48, "layer": 2, "extra_codewords": 0}),
        ("ContrastivePrediction", {}),
        ("ContrastivePrediction", {"final_dim": 48, "vq_dim": 32, "groups": 4, "entries": 20, "layer": 1}),
        ("LogMelRegression", {"bins": 20}),
        ("Data2Vec", {"top": 2}),
        ("DinoSR", {"top": 3, "codes": 20}),
        ("DinoSR", {"top": 3, "codes": 20, "same_layer": True}),
        ("FeaturePenalty", {}),
    ],
)
def test_parameters_of_objectives_are_those_of_the_objects(class_path, arguments, pre_norm):
    config = WavLMConfig.preset("tiny", pre_norm=pre_norm)
    objective = getattr(objectives, class_path)(**arguments)
    cost = objective.cost(config, labels=37, frames=100.0, masked=60.0, compute_bytes=2)
    objective.build(config, {"labels": 37})
    assert cost.parameters == sum(parameter.numel() for parameter in objective.parameters())


def test_operations_and_memory_of_the_heads_are_those_of_a_real_pass():
    from torch.utils.flop_counter import FlopCounterMode

    config, shape = WavLMConfig.preset("tiny"), (2, 400)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.5656
    for objective in (
        objectives.MaskedPrediction(),
        objectives.MaskedPrediction(similarity="logits"),
        objectives.ContrastivePrediction(dropout_features=0.0),
    ):
        torch.manual_seed(0)
        objective.build(config, {"labels": 100})
        hidden, features = torch.randn(*shape, config.dim), torch.randn(*shape, config.conv_channels[-1])
        prediction = objectives.Prediction(
            hidden={config.layers: hidden.requires_grad_()},
            features=features,
            normalised=features.clone().requires_grad_(),
            projected=hidden,
            mask=mask,
            padding=torch.zeros_like(mask),
            labels={"labels": torch.randint(100, shape)},
            audio=torch.randn(shape[0], 128_080),
            step=0,
            generator=torch.Generator().manual_seed(0),
        )
        own = {parameter.untyped_storage()._cdata for parameter in objective.parameters()}
        kept = {}

        def pack(tensor, own=own, kept=kept):
            storage = tensor.untyped_storage()
            if storage._cdata not in own:
                kept[storage._cdata] = storage.nbytes()
            return tensor

        with FlopCounterMode(display=False) as counter:
            objective(prediction)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = objective(prediction)
        assert loss.requires_grad
        masked = SpanMasking().expected_share() * mask.numel()
        cost = objective.cost(config, labels=100, frames=mask.numel(), masked=masked, compute_bytes=4)
        assert cost.flops == pytest.approx(counter.get_total_flops(), rel=0.03)
        assert cost.kept == pytest.approx(sum(kept.values()), rel=0.05)


def test_an_objective_is_counted_with_the_size_of_its_label_set(folder):
    """Of two codebooks of different sizes; without `label_sizes` both were as large as the recipe's."""
    entries = [{"class_path": "MaskedPrediction", "init_args": {"labels": name}} for name in ("a", "b")]
    text = FIRST.replace("hubert_base", f"hubert_base, objectives: {json.dumps(entries)}")
    text = text.replace("hours: 960", "hours: 960, label_sizes: {a: 100, b: 50}").replace(
        "batch_s", "labels: [a, b], batch_s"
    )
    (folder / "two.yaml").write_text(text)
    training = planned(folder / "two.yaml")[0].training
    config = WavLMConfig.preset("hubert_base")
    ours = [objectives.MaskedPrediction().cost(config, size, 1.0, 1.0, 2).parameters for size in (100, 50)]
    assert "without the cost of making the labels b" in training.remarks[0]
    assert training.parameters == parameter_count(config) + sum(ours)


@pytest.mark.parametrize(
    ("changes", "hours"),
    [({}, 9_400 / 4), ({"dim": 64}, 9_400), ({"quantiser": "random", "dim": 16}, 200_000 / 50 / 3600)],
)
def test_a_fit_behind_a_map_sees_more_and_that_of_a_map_alone_little(folder, changes, hours):
    content = yaml.safe_load((folder / "second.yaml").read_text())
    whole = planned(folder / "second.yaml")[1].labelling.memory_gib
    content["recipe"]["codebook"] |= changes
    (folder / "changed.yaml").write_text(yaml.safe_dump(content))
    found = planned(folder / "changed.yaml", memory_gib=whole / 4)[1].labelling
    assert found.fit_hours == pytest.approx(hours)
    assert found.fit_flops == pytest.approx(found.apply_flops * hours / 94_000)


def test_a_run_that_ends_before_its_batches_grow_costs_what_small_batches_cost(folder):
    found = []
    for batches in (
        {"batch_seconds": 43.75},
        {"batch_growth": {"start": 43.75, "to_update": 9, "steps": 1}},
    ):
        content = yaml.safe_load((folder / "first.yaml").read_text())
        content["trainer"]["max_steps"] = 8
        content["data"]["init_args"] |= batches
        (folder / "small.yaml").write_text(yaml.safe_dump(content))
        found.append(planned(folder / "small.yaml")[0].training.flops)
    assert found[0] == pytest.approx(found[1], rel=1e-9)


def test_labels_in_the_pass_of_their_fit_cost_nothing():
    twice, once = (planned(configs_folder() / f"pretrain/tiny_{name}it2.yaml")[-1] for name in ("", "short_"))
    assert (twice.labelling.fit_flops, once.labelling.apply_flops) == (once.labelling.fit_flops, 0.0)
    assert twice.labelling.apply_flops == twice.labelling.fit_flops > 0
    # A fit that holds a part of the utterances, drawn at random, holds hardly any shard whole.
    part = planned(configs_folder() / "pretrain/tiny_short_it2.yaml", memory_gib=once.labelling.memory_gib / 2)[-1]
    assert part.labelling.apply_flops == twice.labelling.apply_flops
    assert part.labelling.fit_hours == pytest.approx(once.labelling.fit_hours / 2)


@pytest.mark.slow  # `test_recipe_figures` plans each of them in the fast part
@pytest.mark.parametrize("path", sorted((configs_folder() / "pretrain").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_configuration_that_we_ship_is_counted_whole(path):
    plans = planned(path)
    for stage in plans:
        assert stage.training.accumulation == int(stage.training.accumulation)
        assert not any("not known" in remark for remark in stage.training.remarks)
        assert all(stage.training.fits.values()), "written for a GPU that it does not fit"
    assert plans[-1].name in as_text(plans, Assumptions())
