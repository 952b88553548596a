"""Metrics that are not percentages, from the task to card, table and picture."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
import torch
from quiet import quiet_trainer
from torchmetrics import MeanMetric

from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.reports import plots
from wavlm_lightning.reports.cards import ResultCard, scale
from wavlm_lightning.reports.runs.report import write_run_report
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import KeywordSpotting, TaskData, Unit
from wavlm_lightning.upstreams import Fbank


class TwoMeans(MeanMetric):
    def compute(self) -> dict[str, torch.Tensor]:
        return {"si_sdr": torch.tensor(9.3456), "pesq": torch.tensor(2.6149), "wer": torch.tensor(0.25)}


class Denoiser(KeywordSpotting):
    """Scores like an enhancement task; the head is that of KS."""

    name, metric, better = "SE", "si_sdr", "higher"
    others = {"pesq": "higher", "wer": "lower"}
    units = {"si_sdr": Unit("dB", 1.0, 1), "pesq": Unit("", 1.0, 2)}

    def build_metric(self) -> MeanMetric:
        return TwoMeans()

    def update_metric(self, metric, outputs, lengths, batch) -> None:
        metric.update(0.0)

    @property
    def chance(self) -> None:
        return None


@pytest.fixture(scope="module")
def card(tiny, tmp_path_factory) -> ResultCard:
    folder = tmp_path_factory.mktemp("se")
    task = Denoiser(Fbank(cmvn=False, label="FBANK"), learning_rate=1e-3)
    quiet_trainer(callbacks=[WriteResultCard(folder, "wavlm test")]).test(
        task, TaskData(str(tiny / "ks")), verbose=False
    )
    return ResultCard.read(folder)


def test_a_card_holds_the_figure_in_its_unit(card):
    assert card.metrics["si_sdr"] == {"value": 9.3456, "unit": "dB", "better": "higher", "scale": 1.0, "decimals": 1}
    assert card.metrics["pesq"] == {"value": 2.6149, "unit": "", "better": "higher", "scale": 1.0, "decimals": 2}
    assert card.metrics["wer"] == {"value": 25.0, "unit": "%", "better": "lower"}
    assert [scale(card.metrics[name]) for name in ("si_sdr", "pesq", "wer")] == [1, 1, 100]


def test_a_card_of_an_older_version_is_a_percentage(card, tmp_path):
    card.write(tmp_path)
    content = json.loads((tmp_path / "card.json").read_text())
    for metric in content["metrics"].values():
        metric.pop("scale", None), metric.pop("decimals", None)
    content["metrics"]["si_sdr"]["unit"] = "%"
    (tmp_path / "card.json").write_text(json.dumps(content))
    assert scale(ResultCard.read(tmp_path).main) == 100


def test_the_page_shows_units_and_decimals(card, tmp_path):
    """Two encoders that differ by less than the decimals are level."""
    worse = {**card.metrics, "si_sdr": {**card.metrics["si_sdr"], "value": 9.31}}
    card.write(tmp_path / "runs" / "a")
    replace(card, upstream={**card.upstream, "label": "other"}, metrics=worse).write(tmp_path / "runs" / "b")
    write_run_report([tmp_path / "runs"], tmp_path, lambda card: "not official")
    text = (tmp_path / "report.md").read_text()
    assert re.search(r"SE SI-SDR dB\u00a0↑", text)
    assert text.count("**9.3**") == 2
    assert "9.35" not in text and "930" not in text
    assert "level" in text


@pytest.mark.parametrize(("values", "texts"), [((9.3456, -2.25), {"9.3", "-2.2"}), ((2.0, 1.0), {"2.0", "1.0"})])
def test_bars_show_the_decimals_and_reach_below_zero(card, values, texts):
    cards = [
        replace(
            card,
            upstream={**card.upstream, "label": str(number)},
            metrics={**card.metrics, "si_sdr": {**card.metrics["si_sdr"], "value": value}},
        )
        for number, value in enumerate(values)
    ]
    figure, axes = plt.subplots()
    plots.draw_results(axes, cards, ["0", "1"])
    assert {text.get_text() for text in axes.texts} == texts
    assert axes.get_xlim()[0] <= min(0, *values)
    assert "dB" in axes.get_xlabel()
    plt.close(figure)


def test_a_unit_of_an_unknown_metric_is_refused(tiny):
    class Wrong(Denoiser):
        units = {"pesk": Unit("", 1.0, 2)}

    with pytest.raises(UserError, match="SE: `units` names pesk, which is not a metric"):
        Wrong(Fbank(cmvn=False), learning_rate=1e-3).build(["a", "b"])
