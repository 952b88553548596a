"""Enhancement and separation by masks: sizes of SUPERB, losses against their definitions, padding, card, predictions."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from quiet import quiet_trainer
from torchmetrics.functional.audio import scale_invariant_signal_distortion_ratio

from wavlm_lightning.callbacks.examples import examples
from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.cli import main
from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.metrics import enhancement
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import Enhancement, Separation, TaskData, windows
from wavlm_lightning.tasks.generation.mask_estimation import MaskEstimation
from wavlm_lightning.upstreams import Fbank, WavLMUpstream
from wavlm_lightning.workflows.fit.closing import error_lines
from wavlm_lightning.workflows.from_python import load_head

SMALL: dict[str, Any] = {"hidden": 8, "layers": 1, "dropout": 0.0}
KINDS = (Enhancement, Separation)


def built(kind: type[MaskEstimation], **settings: Any) -> MaskEstimation:
    task = kind(Fbank(cmvn=False), **{**SMALL, **settings})
    task.build(list(task.target_audio))
    return task.eval()


def batch_of(task: MaskEstimation, *lengths: int) -> TaskBatch:
    rng = torch.Generator().manual_seed(4)
    shape = (len(lengths), max(lengths), task.parts) if task.parts > 1 else (len(lengths), max(lengths))
    targets = 0.1 * torch.randn(*shape, generator=rng)
    audio = targets.sum(2) if task.parts > 1 else targets + 0.05 * torch.randn(targets.shape, generator=rng)
    for row, length in enumerate(lengths):
        targets[row, length:], audio[row, length:] = 0, 0
    counts = torch.tensor(lengths)
    return TaskBatch(tuple(map(str, lengths)), Waveforms(audio, counts), Targets(targets, counts))


def row_of(batch: TaskBatch, row: int) -> TaskBatch:
    assert isinstance(batch.inputs, Waveforms)
    count = batch.inputs.lengths[row : row + 1]
    cut = slice(row, row + 1), slice(int(count))
    return TaskBatch(
        batch.keys[row : row + 1], Waveforms(batch.inputs.audio[cut], count), Targets(batch.targets.values[cut], count)
    )


@pytest.mark.parametrize(
    ("kind", "protocol", "total"),
    [
        (Separation, "superb", 51_427_343),  # superb.md, Base
        (Enhancement, "superb", 50_966_542),
        (Separation, "fixed", 5_781_519),  # full_stack.md, section 1.1: 5.78 M
    ],
)
def test_sizes_are_those_of_superb(kind: type[MaskEstimation], protocol: Any, total: int) -> None:
    with torch.device("meta"):
        task = kind(WavLMUpstream("base"), protocol=protocol)
        task.build_head(768)
    trained = sum(weight.numel() for name, weight in task.named_parameters() if not name.startswith("upstream."))
    assert trained == total


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"protocol": "fixed", "spectrum": True}, {"objective": "si_sdr"}])
def test_padding_changes_neither_answer_nor_loss(kind: type[MaskEstimation], settings: dict[str, Any]) -> None:
    task = built(kind, **settings)
    batch = batch_of(task, 9000, 7003)
    outputs, lengths = task(batch.inputs)
    whole, losses = task.loss(outputs, lengths, batch.targets), []
    for row in range(2):
        one = row_of(batch, row)
        answer, count = task(one.inputs)
        assert torch.allclose(answer[0], outputs[row, : int(count)], atol=1e-5)
        losses.append(float(task.loss(answer, count, one.targets)))
    assert float(whole) == pytest.approx(np.mean(losses), rel=1e-4)
    assert not outputs[1, 7003:].any() and outputs.abs().max() > 0


def stft(waveform: torch.Tensor, window: int, hop: int, size: int) -> torch.Tensor:
    longer = torch.nn.functional.pad(waveform, (0, size))
    hann = torch.hann_window(window)
    return torch.stft(longer, size, hop, window, hann, center=True, pad_mode="constant", return_complex=True)


@torch.no_grad()
def test_the_loss_is_that_of_superb_in_the_better_order() -> None:
    """Of masks that are set by hand, with every permutation spelled out (full_stack.md, section 1.1)."""
    task = built(Separation)
    batch = batch_of(task, 6400)
    assert isinstance(batch.inputs, Waveforms)
    mixture = stft(batch.inputs.audio[0], 512, 160, 512)
    sources = [stft(batch.targets.values[0, :, n], 512, 160, 512) for n in range(2)]
    masks = torch.rand(2, *mixture.shape, generator=torch.Generator().manual_seed(1))
    task.network.forward = lambda features, frames: masks.transpose(1, 2)[None]  # type: ignore[method-assign]
    outputs, lengths = task(batch.inputs)
    frames = int(task.stft.frames(lengths)[0])
    totals = []
    for order in permutations(range(2)):
        total = 0.0
        for answer, source in enumerate(order):
            angle = mixture.angle() - sources[source].angle()
            wanted = sources[source].abs() * torch.relu(torch.cos(angle))
            total += float((masks[answer] * mixture.abs() - wanted).square().sum()) / frames
        totals.append(total / 2)
    assert float(task.loss(outputs, lengths, batch.targets)) == pytest.approx(min(totals), rel=1e-4)
    with pytest.raises(UserError, match="needs the masks of a forward pass"):
        task.loss(outputs, lengths, batch.targets)
    # Targets in the other order cost the same.
    outputs, lengths = task(batch.inputs)
    swapped = Targets(batch.targets.values.flip(2), batch.targets.lengths)
    assert float(task.loss(outputs, lengths, swapped)) == pytest.approx(min(totals), rel=1e-4)


@torch.no_grad()
def test_the_fixed_loss_compares_log_magnitudes() -> None:
    task = built(Enhancement, protocol="fixed")
    batch = batch_of(task, 6400)
    assert isinstance(batch.inputs, Waveforms)
    outputs, lengths = task(batch.inputs)
    mixture, clean = (stft(x[0], 400, 160, 512) for x in (batch.inputs.audio, batch.targets.values))
    assert task.estimated is not None
    masked = task.estimated.values[0, 0].T
    error = (masked - clean.abs().log1p()).abs().sum() / task.stft.frames(lengths)[0]
    assert (masked <= mixture.abs().log1p() + 1e-5).all()
    assert float(task.loss(outputs, lengths, batch.targets)) == pytest.approx(float(error), rel=1e-4)


@torch.no_grad()
def test_the_loss_in_time_is_the_negative_si_sdr() -> None:
    task = built(Separation, objective="si_sdr")
    batch = batch_of(task, 9000, 7000)
    wanted = batch.targets.values
    answers = (wanted + 0.3 * wanted.flip(1))[:, :, [1, 0]]
    expected = [
        scale_invariant_signal_distortion_ratio(answers[row, :n, 1 - k], wanted[row, :n, k], zero_mean=True)
        for row, n in enumerate((9000, 7000))
        for k in range(2)
    ]
    assert float(task.loss(answers, batch.targets.lengths, batch.targets)) == pytest.approx(
        -np.mean(expected), abs=0.01
    )


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_long_recording_has_a_loss_from_its_answer(
    kind: type[MaskEstimation], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = built(kind)
    batch = batch_of(task, 32_000)
    short = float(task.loss(*task.answers(batch.inputs), batch.targets))
    monkeypatch.setattr(windows, "LONGEST_WHOLE", 1.0)
    outputs, lengths = task.answers(batch.inputs)
    assert float(task.loss(outputs, lengths, batch.targets)) == pytest.approx(short, rel=0.1)


def test_what_cannot_be_done_is_refused(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    with pytest.raises(UserError, match=r"model.hop is 80, but protocol superb"):
        Enhancement(Fbank(cmvn=False), hop=80)
    with pytest.raises(UserError, match="hop below the window"):
        Enhancement(Fbank(cmvn=False), hop=0, protocol="fixed")
    with pytest.raises(UserError, match=r"model.objective is 'mse'; give one of phase"):
        Enhancement(Fbank(cmvn=False), objective="mse")
    monkeypatch.setitem(enhancement.NEEDED, "pesq", "no_such_package")
    task = Enhancement(Fbank(cmvn=False), **SMALL)
    with pytest.raises(UserError, match=r"selected by pesq.*model\.select"):
        quiet_trainer(max_steps=1).fit(task, TaskData(str(tiny / "enhancement")))
    with pytest.raises(UserError, match=r"no audio 's1'"):
        quiet_trainer(max_steps=1).fit(Separation(Fbank(cmvn=False), **SMALL), TaskData(str(tiny / "enhancement")))


@torch.no_grad()
def test_answers_of_silence_are_the_worst_and_sources_of_silence_no_result() -> None:
    task = built(Separation)
    batch = batch_of(task, 8000)
    metric = task.build_metric()
    task.update_metric(metric, 0 * batch.targets.values, batch.targets.lengths, batch)
    ((total, count),) = task.utterance_scores(batch.targets.values, batch.targets.lengths, batch)
    value = task.score(metric, "test")["si_sdri"]
    assert count == 2 and total / count == pytest.approx(float(value)) and task.details["silent"] == {"answers": 2}
    assert float(value) == pytest.approx(-30 - task.details["unprocessed"]["si_sdr"], abs=1e-3)
    silent = replace(batch, targets=replace(batch.targets, values=0 * batch.targets.values))
    metric.reset()
    task.update_metric(metric, batch.targets.values, batch.targets.lengths, silent)
    assert task.utterance_scores(batch.targets.values, batch.targets.lengths, silent) == [(0, 0)]
    with pytest.raises(UserError, match="the test has no figure for si_sdri: all references are silent"):
        task.score(metric, "test")


@pytest.mark.parametrize(
    ("kind", "corpus", "package"),
    [(Enhancement, "enhancement", "pesq"), (Enhancement, "enhancement", None), (Separation, "separation", "pesq")],
)
def test_the_card_has_the_unprocessed_row_and_the_oracle(
    kind: type[MaskEstimation],
    corpus: str,
    package: str | None,
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(enhancement.NEEDED, "pesq", package or "no_such_package")
    settings = {**SMALL, "protocol": "fixed", **({"select": "si_sdr"} if kind is Enhancement else {})}
    task = kind(Fbank(cmvn=False), **settings)
    trainer = quiet_trainer(max_steps=2, limit_val_batches=1, callbacks=[WriteResultCard(tmp_path, "wavlm test")])
    data = TaskData(str(tiny / corpus), batch_size=2)
    trainer.fit(task, data)
    trainer.test(task, data, verbose=False)
    card = ResultCard.read(tmp_path)
    before, best = card.details["unprocessed"]["si_sdr"], card.details["oracle"]["si_sdr"]
    assert best > before + 5
    values = {name: each["value"] for name, each in card.metrics.items()}
    assert values["si_sdr"] - before == pytest.approx(values["si_sdri"], abs=1e-3)
    assert card.headline == task.metric
    assert ("pesq" in values) == enhancement.is_installed("pesq")
    assert card.shown == [name for name in task.headlines or (task.metric,) if name in values]
    assert task.utterance_results is not None  # of every utterance, and their mean is the headline
    assert np.isfinite(card.details["oracle"]["stoi"])
    lines = error_lines(card)
    assert [line.partition(":")[0] for line in lines[:2]] == ["  unprocessed", "  oracle"]
    assert f"SI-SDR {before:.2f} dB" in lines[0] and f"STOI {100 * card.details['oracle']['stoi']:.2f} %" in lines[1]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder of a separation head as `wavlm fit` leaves it, and two recordings."""
    settings = {**SMALL, "protocol": "fixed"}
    task = built(Separation, **settings)
    folder = tmp_path / "run"
    kept = {"name": "SS", "labels": ["s1", "s2"], "protocol": "fixed", "upstream_sha256": task.upstream.fingerprint()}
    (folder / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": task.state_dict(), "task": kept}, folder / "checkpoints" / "best.ckpt")
    upstream = {"class_path": "wavlm_lightning.upstreams.Fbank", "init_args": {"cmvn": False}}
    model = {"class_path": "wavlm_lightning.tasks.Separation", "init_args": {"upstream": upstream, **settings}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": {"init_args": {}}}))
    rng = np.random.default_rng(0)
    for name, samples in (("talk.wav", 24_000), ("talk-1.flac", 40_000)):
        soundfile.write(tmp_path / name, 0.1 * rng.standard_normal(samples), 16_000)
    return tmp_path


def test_predict_writes_a_file_for_each_talker(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["predict", str(run / "run"), str(run / "talk.wav"), str(run / "talk-1.flac"), "--device", "cpu"]
    assert main([*command, "--out", str(run / "out"), "--window", "1"]) == 0
    assert "audio talk-1.wav and talk-2.wav" in capsys.readouterr().out
    rows = [json.loads(line) for line in (run / "out" / "predictions.jsonl").read_text().splitlines()]
    assert [row["audio"] for row in rows] == [["talk-1.wav", "talk-2.wav"], ["talk-1-1.wav", "talk-1-2.wav"]]
    before = {path: path.stat().st_mtime_ns for path in (run / "out").glob("*.wav")}
    for row, samples in zip(rows, (24_000, 40_000), strict=True):
        parts = [soundfile.read(run / "out" / name)[0] for name in row["audio"]]
        assert [len(part) for part in parts] == [samples, samples] and len(row["level_db"]) == 2
        assert not np.allclose(parts[0], parts[1], atol=1e-3)
    assert len(before) == 4
    heard = load_head(run / "run", "cpu", window=0)(run / "talk.wav")["audio"]
    assert heard.shape == (24_000, 2)
    # Files among the recordings would be heard by the next run; a file that would replace a recording is refused.
    soundfile.write(run / "out" / "talk-2.wav", np.zeros(8000) + 0.1, 16_000)
    assert (
        main(
            [
                "predict",
                str(run / "run"),
                str(run / "out" / "talk-2.wav"),
                str(run / "talk.wav"),
                "--out",
                str(run / "out"),
            ]
        )
        == 2
    )
    assert "would replace the recording" in capsys.readouterr().err


def test_each_part_is_shown_with_its_own_figures() -> None:
    task = built(Separation)
    batch = batch_of(task, 9000)
    noise = torch.tensor([0.01, 0.1]) * torch.randn(9000, 2, generator=torch.Generator().manual_seed(2))
    answers = (batch.targets.values + noise).flip(2)
    (example,) = examples(task, batch, 1, answers, batch.targets.lengths)
    assert list(example.figures) == ["part 1", "part 2", "mixture"]
    for part, name in enumerate(("part 1", "part 2")):
        found = scale_invariant_signal_distortion_ratio(
            answers[0, :, 1 - part], batch.targets.values[0, :, part], zero_mean=True
        )
        assert f"SI-SDR {float(found):.2f} dB" in example.figures[name]


def test_what_is_played_has_the_parts_in_the_order_of_the_talkers() -> None:
    task = built(Separation)
    batch = batch_of(task, 3000, 2000)
    swapped = batch.targets.values.flip(2) + 0.001
    first, second = task.playable(swapped, batch.targets.lengths, batch)
    assert list(first) == ["mixture", "part 1", "part 2", "talker 1", "talker 2"]
    assert set(task.answer_sounds) < set(first)
    for name in ("1", "2"):
        assert torch.allclose(first[f"part {name}"] - 0.001, first[f"talker {name}"], atol=1e-6)
    assert {len(each) for each in second.values()} == {2000}
    enhanced = built(Enhancement)
    heard = batch_of(enhanced, 1000)
    assert isinstance(heard.inputs, Waveforms)
    (played,) = enhanced.playable(heard.targets.values, heard.targets.lengths, heard)
    assert list(played) == ["noisy", "enhanced", "clean"] and torch.equal(played["noisy"], heard.inputs.audio[0])
