"""The words of the demo's report: its facts, captions, setup and notes, made from the summary and the cards."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import Curves
from wavlm_lightning.reports.tables import metric_title

UPSTREAMS = ("pre-trained", "random weights", "FBANK")
TASKS = {"PR": "phoneme recognition", "KS": "keyword spotting", "SID": "speaker identification"}

NO_CURVES = "No pre-training metrics yet: `metrics.csv` appears after the first logged step. Run `wavlm demo` again."
NO_LAYERS = "No layer weights yet: they come with the result cards of an encoder with several layers."
CURVES_CAPTION = (
    "Held out means speakers that pre-training never heard. Masked accuracy is the share of hidden frames whose label "
    "the encoder guesses; the dashed line is what always guessing the commonest label scores. Perplexity is the number "
    "of labels in effective use: near 1 the model has collapsed onto a few, near the dashed line it uses them as the "
    "targets do."
)


@dataclass(kw_only=True)
class DemoSummary:
    """What the demo did; anything unknown stays None or empty and is left out of the page.

    Args:
        corpus: name of the corpus.
        minutes: minutes of audio that pre-training could draw from.
        speakers: speakers in it.
        clusters: size of the codebook.
        pnmi: phone-normalised mutual information of the labels, 0..1.
        purity: phone purity of the labels, 0..1.
        unigram: share of the commonest label, 0..1.
        parameters: parameters of the encoder with its pre-training head.
        steps: optimiser steps of pre-training.
        audio_seconds: seconds of audio that pre-training saw, repetitions counted.
        stages: name -> wall seconds, in order.
        machine: what to print about it, such as {"CPU": ..., "threads": "2", "precision": "bf16", "torch": ...}.
        verdict: a further sentence under the one computed from the cards, such as whether the demo's gate was met.
    """

    corpus: str = ""
    minutes: float | None = None
    speakers: int | None = None
    clusters: int | None = None
    pnmi: float | None = None
    purity: float | None = None
    unigram: float | None = None
    parameters: int | None = None
    steps: int | None = None
    audio_seconds: float | None = None
    stages: dict[str, float] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)
    verdict: str = ""


def duration(seconds: float) -> str:
    """Seconds as people say them: "0.4 s", "42 s", "5 min 03 s", "24 h 10 min"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def key_facts(summary: DemoSummary) -> list[tuple[str, str]]:
    """(what, figure) pairs for the top of the page."""
    facts = []
    if summary.minutes is not None:
        speakers = f", {summary.speakers} speakers" if summary.speakers else ""
        facts.append((f"of speech{speakers}", f"{summary.minutes:.0f} min"))
    if summary.parameters is not None:
        facts.append(("parameters pre-trained", _count(summary.parameters)))
    if summary.steps is not None:
        facts.append(("pre-training steps", f"{summary.steps:,}"))
    if summary.audio_seconds is not None:
        facts.append(("of audio heard at most, repetitions counted", duration(summary.audio_seconds)))
    if summary.stages:
        facts.append(("wall time, all stages", duration(sum(summary.stages.values()))))
    return facts


def missing_pairs(cards: Sequence[ResultCard], upstreams: Sequence[str], tasks: Sequence[str]) -> str:
    """A sentence that names what has no card yet; empty if all is there."""
    found = {(card.task, card.upstream["label"]) for card in cards}
    missing = [f"{task} on {label}" for label in upstreams for task in tasks if (task, label) not in found]
    if not missing:
        return ""
    return f"Not measured yet: {', '.join(missing)}. `wavlm demo` goes on where it stopped."


def curves_sentence(history: Curves) -> str:
    """Where held-out masked accuracy ended, against always guessing the commonest label.

    Lightning counts logged steps from 0: what it calls step 99 was measured after 100.
    """
    accuracy, majority = history.get("valid/masked_accuracy"), history.get("valid/majority_accuracy")
    if accuracy is None:
        return ""
    sentence = (
        f"After {accuracy.steps[-1] + 1:,} steps the encoder names {100 * accuracy.last:.1f} % of the hidden frames "
        "of unseen speakers correctly"
    )
    if majority is None or majority.last <= 0:
        return sentence + "."
    return sentence + (
        f", {accuracy.last / majority.last:.1f} times the {100 * majority.last:.1f} % "
        "of always guessing the commonest label."
    )


def results_caption(cards: Sequence[ResultCard]) -> str:
    """How to read the bars."""
    names = [f"{task} is {name}" for task, name in TASKS.items() if any(card.task == task for card in cards)]
    return "; ".join([*names, "every upstream is frozen, only a small head is trained on it; bold is best"]) + "."


def layers_caption(cards: Sequence[ResultCard]) -> str:
    """How to read the heat map."""
    layers = max((len(card.layer_weights) for card in cards), default=0)
    even = f" An even mixture would show {100 / layers:.0f} in each of the {layers} cells." if layers else ""
    return (
        "Every head reads a learned mixture of the encoder's layers. Each row is one task and sums to 100 %; a dark "
        "cell is a layer that the task listens to. Layer 0 is what enters the transformer, the last is its output."
        + even
    )


def setup(summary: DemoSummary, cards: Sequence[ResultCard]) -> list[tuple[str, str]]:
    """(what, how) pairs of corpus, codebook, encoder, machine and versions; unknown ones are empty."""
    corpus = [
        summary.corpus,
        _unless_none(summary.minutes, "{:.0f} min"),
        _unless_none(summary.speakers, "{} speakers"),
    ]
    codebook = [
        _unless_none(summary.clusters, "{} clusters"),
        _unless_none(summary.pnmi, "PNMI {:.3f}"),
        _unless_none(summary.purity, "phone purity {:.3f}"),
        _unless_none(None if summary.unigram is None else 100 * summary.unigram, "commonest label {:.1f} %"),
    ]
    encoder = next((card.upstream for card in cards if card.upstream["label"] == UPSTREAMS[0]), None)
    shape = [_unless_none(summary.parameters, "{:,} parameters")]
    if encoder:
        shape += [f"{encoder['layers']} layers of output", f"{encoder['frame_rate']:g} frames a second"]
        shape += [f"weights {encoder['sha256'][:12]}"] if encoder["sha256"] else []
    versions = cards[0].versions if cards else {}
    return [
        ("corpus", ", ".join(filter(None, corpus))),
        ("codebook", ", ".join(filter(None, codebook))),
        ("encoder", ", ".join(filter(None, shape))),
        ("tested with", ", ".join(f"{name} {version}" for name, version in versions.items())),
        *summary.machine.items(),
    ]


def notes(cards: Sequence[ResultCard], summary: DemoSummary) -> list[str]:
    """What a reader must know before quoting a figure."""
    tested = {card.task for card in cards}
    lines = []
    if tested & {"PR", "KS"}:
        lines.append("PR and KS are tested on speakers that neither pre-training nor the heads have heard.")
    if "SID" in tested:
        lines.append(
            "SID is a closed set: train and test share their speakers, as they must, but pre-training heard none."
        )
    meanings = {
        "PER": "PER, phone error rate: wrong, missing and surplus phones in percent of those spoken; lower is better.",
        "accuracy": "Accuracy: test utterances whose class is right, in percent; higher is better.",
    }
    shown_metrics = dict.fromkeys(metric_title(card.headline) for card in cards)
    lines += [meanings[name] for name in shown_metrics if name in meanings]
    sizes = [card.corpus["utterances"] for card in cards if metric_title(card.headline) == "accuracy"]
    if sizes and min(sizes) > 0:
        # Half a 95 % interval of a share near one half, the widest case.
        lines.append(
            f"With {min(sizes):,} test utterances an accuracy is known to about ±{98 / min(sizes) ** 0.5:.1f} points "
            "(95 %, one training seed): do not read much into smaller differences."
        )
    if seeds := sorted({card.seed for card in cards}):
        lines.append(f"Seeds of the heads: {', '.join(map(str, seeds))}.")
    rates: dict[str, list[str]] = {}
    for card in cards:
        rates.setdefault(card.task, []).append(f"{card.upstream['label']} {card.learning_rate:g}")
    if rates:
        parts = [f"{task}: {', '.join(each)}" for task, each in rates.items()]
        lines.append(f"Learning rates of the heads: {'; '.join(parts)}.")
    if splits := sorted({card.selection["split"] for card in cards if card.selection}):
        lines.append(f"The checkpoint that is tested was chosen on: {', '.join(splits)}.")
    lines.append(
        "Both the speech and the encoder are small on purpose. These figures show that the road works; they say "
        "nothing about WavLM Base, and must not be compared with published SUPERB scores."
    )
    return lines


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"


def _unless_none(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
