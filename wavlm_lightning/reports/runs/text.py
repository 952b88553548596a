"""Captions and sentences of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wavlm_lightning.metrics.superb import TASKS
from wavlm_lightning.reports.runs.curves import PretrainingFacts, PretrainingRun
from wavlm_lightning.reports.runs.results import Collection, Column
from wavlm_lightning.reports.runs.tables import board_cards, outcome, winners
from wavlm_lightning.reports.tables import duration, metric_title

TASK_NAMES = {
    "PR": "phoneme recognition",
    "ASR": "speech recognition",
    "KS": "keyword spotting",
    "QbE": "query by example",
    "SID": "speaker identification",
    "SV": "speaker verification",
    "SD": "speaker diarization",
    "ER": "emotion recognition",
    "IC": "intent classification",
    "SF": "slot filling",
}
METRIC_MEANINGS = {
    "accuracy": "Accuracy: test utterances whose class is right, in percent; higher is better.",
    "PER": "PER, phone error rate: wrong, missing and surplus phones in percent of those spoken; lower is better.",
    "WER": "WER, word error rate: wrong, missing and surplus words in percent of those spoken; lower is better.",
    "EER": "EER, equal error rate: false alarms and misses at the threshold where both are equally frequent; lower is better.",
    "DER": "DER, diarization error rate: time of missed, false or confused speech in percent of speech; lower is better.",
    "SI-SDR": "SI-SDR, scale-invariant signal-to-distortion ratio, mean over utterances; higher is better.",
    "MTWV": "MTWV, maximum term-weighted value: 1 (here 100) if all queries are found without false alarms; higher is better.",
}
BARS = "The main metric of each task, the best in bold; dotted line: score of guessing; whisker: deviation over seeds."
RADAR = "One radar per upstream, its own outline in colour and the others' in grey; further out is better. "
RADAR_POINTS = "Centre: FBANK's figure, 0 SUPERB points; rim: 1000 points, the best published in 2021."
RADAR_PERCENT = "Rim: 100 % right (accuracy, F1, or 100 minus an error rate); centre: nothing right."
HEADS = "The main metric on the validation split during the training of the heads; mean over seeds and folds."
RATES = (
    "Test figures over the learning rates that were tried. The large dot is the rate that is best on validation, which is "
    "the one that counts; test figures were not used for that choice."
)
LAYERS = (
    "Every head reads a learned mixture of the encoder's layers; each row is one task and sums to 100 %. Layer 0 is what "
    "enters the transformer, the last is its output. Speaker tasks are at the top, content tasks at the bottom."
)
LAYERS_CLAIM = (
    "The weight analysis of the WavLM paper says: bottom layers for speakers, top layers for content. Judged by the mean "
    "layer of each task:"
)
LAYERS_CAUTION = (
    "All weights start equal: a row that is still even belongs to a head that has hardly been trained, and says little. A "
    "weight is not a contribution either: layers are summed as they are, so a layer of larger norm counts for more."
)
SOUNDS = (
    "Utterances from the beginning, the middle and the end of the test, the first seconds of each. Measures are of the whole "
    "utterance alone. Spectrograms of one utterance share a scale of 80 dB."
)
PRETRAINING = (
    "Held out is the validation split. Masked accuracy is the share of hidden frames whose label the encoder guesses. "
    "Perplexity is the number of labels in effective use: near 1 the model has collapsed onto a few. Effective rank is that "
    "of the top layer on clean speech: a run whose rank falls towards 1 has collapsed. Speed counts audio of all processes "
    "and includes loading and checkpoints, but not validation."
)
PRETRAINING_LEVELS = (
    " The dashed lines are what always guessing the commonest label scores, and the perplexity of the targets."
)
RADAR_FIRST = " Only the first {} of {} upstreams have a radar of their own."
GREY = " With more than seven names, only the best and the worst at the end have a colour."
MOST_DUELS = 4  # upstreams up to which the leading one is compared with each of the others in a sentence


def lead(collection: Collection, runs: Sequence[PretrainingRun]) -> str:
    """The result in one sentence."""
    if not collection.results:
        return f"{_count(len(runs), 'pre-training run')}, nothing scored yet."
    tasks, upstreams = collection.tasks, list(collection.results)
    if len(upstreams) == 1:
        return f"{upstreams[0]} on {_count(len(tasks), 'task')}: {', '.join(tasks)}."
    best = winners(collection)
    if not best:
        return f"{_count(len(upstreams), 'upstream')}, no two of which were scored on the same task."
    counts = {name: sum(name in some for some in best.values()) for name in upstreams}
    top = max(counts.values())
    leaders = [name for name in upstreams if counts[name] == top]
    of = f"{top} of {_count(len(best), 'metric')}"
    if len(leaders) > 3:
        return f"No upstream of {len(upstreams)} stands out: none has the best figure on more than {of}."
    if len(leaders) > 1:
        return f"{', '.join(leaders[:-1])} and {leaders[-1]} have the best figure on {of} each."
    won = ", ".join(_column(column) for column, some in best.items() if leaders[0] in some)
    return f"{leaders[0]} has the best figure on {of} ({won})."


def board_sentences(collection: Collection, reserved: Mapping[str, str]) -> list[str]:
    """Say which rows must not be compared with the published ones, and why."""
    by_reason: dict[str, list[str]] = {}
    for upstream, reason in reserved.items():
        by_reason.setdefault(reason, []).append(upstream)
    lines = [
        f"**Not comparable with the published rows**, so without Score and Rank: {_names(names)}, because {reason}."
        for reason, names in by_reason.items()
    ]
    for upstream, row in collection.results.items():
        count = len(board_cards(row))
        if upstream not in reserved and 0 < count < len(TASKS):
            lines.append(f"{upstream} has {count} of {len(TASKS)} tasks, so there is no official Score and no Rank.")
    return lines


def duels(collection: Collection) -> str:
    """Compare the leading upstream with each of the others, metric by metric; empty with too many upstreams."""
    best, names = winners(collection), list(collection.results)
    if not best or len(names) > MOST_DUELS:
        return ""
    leader = max(names, key=lambda name: sum(name in some for some in best.values()))
    clauses = []
    for rival in names:
        found: dict[str, list[str]] = {"better": [], "worse": [], "level": []}
        for column in collection.columns:
            results = collection.of_column(column)
            if rival != leader and rival in results and leader in results:
                found[outcome(column, results[rival], results[leader]).split(",")[0]].append(_column(column))
        if not any(found.values()):
            continue
        clause = f"{rival} on {len(found['better'])} of {_count(sum(map(len, found.values())), 'metric')}"
        others = [("behind on", found["worse"]), ("level on", found["level"])]
        details = [f"{words} {', '.join(some)}" for words, some in others if some]
        clauses.append(clause + (f" ({'; '.join(details)})" if details else ""))
    return f"{leader} beats {' and '.join(filter(None, [', '.join(clauses[:-1]), *clauses[-1:]]))}." if clauses else ""


def accuracy_sentence(run: PretrainingRun) -> str:
    """Masked accuracy at the last validation, against always guessing the commonest label; empty if it is not logged."""
    accuracy, majority = run.curves.get("valid/masked_accuracy"), run.curves.get("valid/majority_accuracy")
    if accuracy is None:
        return ""
    # Lightning counts logged steps from 0: step 99 was measured after 100 updates.
    sentence = (
        f"After {accuracy.steps[-1] + 1:,} updates the encoder names {100 * accuracy.last:.1f} % of the hidden frames of "
        "held-out utterances correctly"
    )
    if majority is None or majority.last <= 0:
        return sentence + "."
    return sentence + (
        f", {accuracy.last / majority.last:.1f} times the {100 * majority.last:.1f} % of always guessing the commonest label."
    )


def bars_caption(collection: Collection) -> str:
    """How to read the bars, and the names of SUPERB's tasks among them."""
    names = [f"{task} is {TASK_NAMES[task]}" for task in collection.tasks if task in TASK_NAMES]
    return BARS + (f" {'; '.join(names)}." if names else "")


def layers_caption(collection: Collection) -> str:
    """How to read the heat maps; with the even weight if all encoders have the same number of layers."""
    weights = [result.card.layer_weights for row in collection.results.values() for result in row.values()]
    layers = {len(some) for some in weights if len(some) > 1}
    if len(layers) != 1:
        return LAYERS
    (count,) = layers
    return f"{LAYERS} An even mixture would show {100 / count:.0f} in each of the {count} cells."


def card_notes(collection: Collection) -> list[str]:
    """What a reader must know before quoting a figure: meaning of the metrics, precision, seeds, choice of checkpoint."""
    cards = collection.cards
    titles = dict.fromkeys(metric_title(column.metric) for column in collection.columns)
    lines = [METRIC_MEANINGS[title] for title in titles if title in METRIC_MEANINGS]
    sizes = [card.corpus["utterances"] for card in cards if metric_title(card.headline) == "accuracy"]
    if sizes and min(sizes) > 0:
        # Half a 95 % interval of a share near one half, the widest case.
        lines.append(
            f"With {min(sizes):,} test utterances an accuracy is known to about ±{98 / min(sizes) ** 0.5:.1f} points (95 %; "
            "training seeds add to that): do not read much into smaller differences."
        )
    if cards:
        seeds = ", ".join(map(str, sorted({card.seed for card in cards})))
        lines.append(f"Seeds of the heads: {seeds}. Their learning rates are given with the cards above.")
    if splits := sorted({card.selection["split"] for card in cards if card.selection}):
        lines.append(f"The checkpoint that is tested was chosen on: {', '.join(splits)}.")
    return lines


def versions(collection: Collection) -> str:
    """Versions of the software that tested the heads; all of them if cards differ."""
    found: dict[str, dict[str, None]] = {}
    for card in collection.cards:
        for package, version in card.versions.items():
            found.setdefault(package, {})[version] = None
    return ", ".join(f"{package} {' / '.join(some)}" for package, some in found.items())


def key_facts(
    collection: Collection, runs: Sequence[PretrainingRun], facts: Sequence[PretrainingFacts], stage_seconds: float
) -> list[tuple[str, str]]:
    """(what, figure) pairs for the top of the page; details of pre-training if there is just one run."""
    cards = collection.cards
    counts = [
        ("upstreams", len(collection.results)),
        ("tasks", len(collection.tasks)),
        ("results", len(cards)),
        ("cards in all", len(collection.files) if len(collection.files) > len(cards) else 0),
        ("pre-training runs", len(runs)),
    ]
    pairs = [(name if value > 1 else name.removesuffix("s"), f"{value:,}") for name, value in counts if value]
    if len(runs) == 1:
        (run,), (known,) = runs, facts
        if known.minutes is not None:
            speakers = f", {known.speakers} speakers" if known.speakers else ""
            pairs.append((f"of speech{speakers}", f"{known.minutes:,.0f} min"))
        if known.parameters is not None:
            pairs.append(("parameters pre-trained", f"{known.parameters / 1e6:,.1f} M"))
        pairs.append(("updates of pre-training", f"{run.steps:,}"))
        if run.audio_seconds is not None:
            pairs.append(("of audio at most, repetitions counted", duration(run.audio_seconds)))
    if stage_seconds:
        pairs.append(("wall time, all stages", duration(stage_seconds)))
    return pairs


def command_title(upstream: str, tasks: Sequence[str]) -> str:
    """The line that opens an upstream's commands."""
    return f"{upstream}: {', '.join(tasks)}"


def card_line(task: str, figures: str, learning_rate: float, seed: int, address: str) -> str:
    """A result with the link to its card."""
    return f"[{task} {figures}]({address}), learning rate {learning_rate:g}, seed {seed}:"


def file_name(path: Path, base: Path) -> str:
    """The text for a path in sentences: relative to `base` if it lies below it."""
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _column(column: Column) -> str:
    return f"{column.task} {metric_title(column.metric)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
