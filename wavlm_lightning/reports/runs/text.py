"""Captions and sentences of a report."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wavlm_lightning.metrics.superb import TASKS
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.runs.comparison import (
    Against,
    against,
    best_against,
    remark_on_tests,
    unlike_searches,
    winners,
)
from wavlm_lightning.reports.runs.curves import PretrainingFacts, PretrainingRun
from wavlm_lightning.reports.runs.layers import CONTENT, SPEAKER
from wavlm_lightning.reports.runs.results import Collection, Column
from wavlm_lightning.reports.runs.tables import board_cards
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
BARS = "The main metric of each task"
VERDICTS = ("ahead", "level", "behind")  # as `significance.Verdict`, in the order of sentences
RADAR = "One radar per upstream, its own outline in colour and the others' in grey; further out is better. "
RADAR_ALONE = "Further out is better. "
RADAR_POINTS = "Centre: FBANK's figure, 0 SUPERB points; rim: 1000 points, the best published in 2021."
RADAR_PERCENT = "Rim: 100 % right (accuracy, F1, or 100 minus an error rate); centre: nothing right."
HEADS = "The main metric on the validation split during the training of the heads"
RATES = (
    "Test figures over the learning rates that were tried. The large dot is the rate that is best on validation, which is "
    "the one that counts; test figures were not used for that choice."
)
LAYERS = (
    "Every head reads a learned mixture of the encoder's layers; each row is one task and sums to 100 %. Layer 0 is what "
    "enters the transformer, the last is its output."
)
LAYERS_ORDER = " Speaker tasks are at the top, content tasks at the bottom."
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
# Series of the curves -> what their panel shows; a caption explains only what is drawn.
PRETRAINING = {
    "valid/": "Held out is the validation split.",
    "valid/masked_accuracy": "Masked accuracy is the share of hidden frames whose label the encoder guesses.",
    "valid/perplexity": "Perplexity is the number of labels in effective use: near 1 the model has collapsed onto a few.",
    "health/effective_rank/": (
        "Effective rank is that of the top layer on clean speech: a run whose rank falls towards 1 has collapsed."
    ),
    "health/audio_seconds_per_second": (
        "Speed counts audio of all processes and includes loading and checkpoints, but not validation."
    ),
}
RADAR_FIRST = " Only the first {} of {} upstreams have a radar of their own."
GREY = " With more than seven names, only the best and the worst at the end have a colour."
MOST_DUELS = 4  # upstreams up to which the one of the lead is compared with each of the others in a sentence


def lead(collection: Collection, runs: Sequence[PretrainingRun], control: str | None) -> str:
    """The result in one sentence: the best upstream against the control, in metrics ahead, level and behind."""
    if not collection.results:
        return f"{_count(len(runs), 'pre-training run')}, nothing scored yet."
    tasks, upstreams = collection.tasks, list(collection.results)
    if len(upstreams) == 1:
        return f"{upstreams[0]} on {_count(len(tasks), 'task')}: {', '.join(tasks)}."
    if control is not None and (best := best_against(collection, control)) is not None:
        return f"{best.upstream} against {control}: {_counts(best)} of {_count(len(best.columns), 'metric')}."
    best_figures = winners(collection)
    if not best_figures:
        return f"{_count(len(upstreams), 'upstream')}, no two of which were scored on the same task."
    counts = {name: sum(name == some for some in best_figures.values()) for name in upstreams}
    top = max(counts.values())
    leaders = [name for name in upstreams if counts[name] == top]
    of = f"{top} of {_count(len(best_figures), 'metric')}"
    if len(leaders) > 3 or not top:
        return f"No upstream of {len(upstreams)} stands out: none is ahead of all others on more than {of}."
    if len(leaders) > 1:
        return f"{', '.join(leaders[:-1])} and {leaders[-1]} are ahead of all others on {of} each."
    won = ", ".join(_column(column) for column, name in best_figures.items() if name == leaders[0])
    return f"{leaders[0]} is ahead of all others on {of} ({won})."


def _counts(found: Against) -> str:
    return ", ".join(f"{verdict} on {len(found.of(verdict))}" for verdict in VERDICTS)


def details(collection: Collection, control: str | None) -> str:
    """On which metrics the upstream of the lead is ahead of, level with and behind each of the others."""
    names = list(collection.results)
    if len(names) < 2 or len(names) > MOST_DUELS:
        return ""
    if control is None:
        won = winners(collection)
        upstream = max(names, key=lambda name: sum(name == some for some in won.values()))
    else:
        best = best_against(collection, control)
        if best is None:
            return ""
        upstream = best.upstream
    sentences = []
    for rival in sorted(names, key=lambda name: name != control):
        found = against(collection, upstream, rival)
        if rival == upstream or not found.columns:
            continue
        parts = [
            f"{verdict} on {len(some)} ({', '.join(map(_column, some))})" if some else f"{verdict} on 0"
            for verdict in VERDICTS
            for some in [found.of(verdict)]
        ]
        if rival == control:  # the lead has the counts
            parts = [
                f"{verdict} on {', '.join(map(_column, found.of(verdict)))}"
                for verdict in VERDICTS
                if found.of(verdict)
            ]
        sentences.append(f"Against {rival}: {'; '.join(parts)}.")
    return " ".join(sentences)


def results_caption(collection: Collection) -> str:
    """How to read the table of results: intervals, bold, and what is not tested; only what the table holds."""
    measured = [
        result.measured[column.metric]
        for column in collection.columns
        for result in collection.of_column(column).values()
    ]
    known = [one for one in measured if one.interval is not None]
    parts = []
    if known:
        over = " or ".join(sorted({one.resampled for one in known}))
        parts.append(f"In brackets: 95 % interval, bootstrap over the {over} of the test; decimals follow it.")
        parts.append("It covers the choice of test data, not that of the seed.")
    if len(known) < len(measured):
        some = "Figures without brackets" if known else "These figures"
        notes = sorted({card.interval_note for card in collection.cards if card.interval_note})
        why = f" ({'; '.join(notes)})" if notes else ""
        parts.append(f"{some} have no results of each utterance{why}, so they have no interval and are not tested.")
    if any(one.deviation is not None for one in measured):
        parts.append("±: standard deviation over seeds.")
    if any(winners(collection).values()):
        seeds = " and beyond the spread of seeds" if any(one.deviation is not None for one in measured) else ""
        # F1 has intervals and no paired test, see `significance.difference`.
        tested = [one for one in known if one.utterances is None or not one.utterances.metric.endswith("f1")]
        test = "paired test, p < 0.05" if tested else "at the digits shown"
        if 0 < len(tested) < len(measured):
            test += "; where there is none, at the digits shown"
        test += seeds
        parts.append(f"Bold: ahead of every other row ({test}) and above chance.")
    elif len(collection.results) > 1:
        parts.append("No figure is ahead of all others of its column and above chance, so none is bold.")
    if any(unlike_searches(collection, task) for task in collection.tasks):
        parts.append(
            "**Some rows were tuned more than others**: where a task was trained at different numbers of learning rates, each "
            "figure says how many."
        )
    return " ".join(parts)


def control_caption(found: Sequence[Against]) -> str:
    """What the comparison with the control means, with a remark on many tests."""
    parts = [
        f"Difference: figure minus that of {found[0].reference}; ahead and behind take the direction into account."
    ]
    if any(one.tested for one in found):
        parts.append(
            "In brackets: 95 % interval of the difference, a bootstrap of the paired utterances (or speakers). "
            "p: paired permutation test on the utterances that both have heard (for verification a bootstrap of trials); "
            "level means p ≥ 0.05."
        )
    if any(one.tested < len(one.columns) for one in found):
        parts.append(
            "Without results of each utterance there is no test: level then means equal digits, or both at chance."
        )
    return " ".join(filter(None, [*parts, remark_on_tests(found)]))


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


def pretraining_caption(runs: Sequence[PretrainingRun]) -> str:
    """How to read the curves of pre-training that are drawn."""
    keys = {key for run in runs for key in run.curves.series}
    parts = [words for start, words in PRETRAINING.items() if any(key.startswith(start) for key in keys)]
    if len(runs) == 1:
        levels = [
            ("valid/majority_accuracy", "what always guessing the commonest label scores"),
            ("valid/target_perplexity", "the perplexity of the targets"),
        ]
        if dashed := [words for key, words in levels if key in keys]:
            parts.append(f"Dashed: {', and '.join(dashed)}.")
    return " ".join(parts)


def heads_caption(collection: Collection) -> str:
    """How to read the curves of the heads."""
    several = any(len(row.cards) > 1 for results in collection.results.values() for row in results.values())
    folds = any(card.details.get("folds") for card in collection.cards)
    over = " and ".join([*(["seeds"] if several else []), *(["folds"] if folds else [])])
    grey = GREY if len(collection.results) > 7 else ""
    return HEADS + (f"; mean over {over}." if over else ".") + grey


def radar_caption(drawn: int, points: bool) -> str:
    """How to read a number of radars; `points`: their spokes are SUPERB points."""
    return (RADAR if drawn > 1 else RADAR_ALONE) + (RADAR_POINTS if points else RADAR_PERCENT)


def bars_caption(collection: Collection) -> str:
    """How to read the bars, as far as they are drawn, and the names of SUPERB's tasks among them."""
    measured = [
        result.measured[metric]
        for row in collection.results.values()
        for result in row.values()
        for metric in result.card.shown
        if metric in result.measured
    ]
    parts = [BARS]
    if any(winners(collection).values()):
        parts[0] += ", in bold if ahead of all others"
    if any("chance" in one.metric for one in measured):
        parts.append("dotted line: score of guessing")
    if any(one.interval is not None for one in measured):
        parts.append("whisker: 95 % interval")
    if any(one.interval is None and one.deviation is not None for one in measured):
        parts.append("whisker without interval: deviation over seeds")
    names = [f"{task} is {TASK_NAMES[task]}" for task in collection.tasks if task in TASK_NAMES]
    return "; ".join(parts) + "." + (f" {'; '.join(names)}." if names else "")


def layers_caption(collection: Collection) -> str:
    """How to read the heat maps; with the even weight if all encoders have the same number of layers."""
    weighted = {
        task: result.card.layer_weights
        for row in collection.results.values()
        for task, result in row.items()
        if len(result.card.layer_weights) > 1
    }
    both = weighted.keys() & set(SPEAKER) and weighted.keys() & set(CONTENT)
    text = LAYERS + (LAYERS_ORDER if both else "")
    layers = {
        len(result.card.layer_weights)
        for row in collection.results.values()
        for result in row.values()
        if len(result.card.layer_weights) > 1
    }
    if len(layers) != 1:
        return text
    (count,) = layers
    return f"{text} An even mixture would show {100 / count:.0f} in each of the {count} cells of a row."


def card_notes(collection: Collection) -> list[str]:
    """What a reader must know before quoting a figure: meaning of the metrics, precision, seeds, choice of checkpoint."""
    cards = collection.cards
    titles = dict.fromkeys(metric_title(column.metric) for column in collection.columns)
    lines = [METRIC_MEANINGS[title] for title in titles if title in METRIC_MEANINGS]
    sizes = [
        result.card.corpus["utterances"]
        for row in collection.results.values()
        for result in row.values()
        if metric_title(result.card.headline) == "accuracy" and result.utterances is None
    ]
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


def machines(collection: Collection) -> str:
    """The machines that tested the heads, as far as their cards name them."""
    return "; ".join(dict.fromkeys(filter(None, map(machine, collection.cards))))


def machine(card: ResultCard) -> str:
    """Processor, cores, threads and accelerator of a test; empty on cards of older versions."""
    known = card.machine
    device = known.get("device", "CPU")
    parts = [
        known.get("processor"),
        *(_count(int(known[name]), name[:-1]) for name in ("cores", "threads") if name in known),
    ]
    return ", ".join(filter(None, [*parts, device if device != "CPU" else None]))


def test_data(collection: Collection) -> str:
    """Corpus, split, utterances and hours of the tests of each task."""
    found: dict[str, dict[str, None]] = {}
    for task in collection.tasks:
        for result in collection.of_task(task).values():
            corpus = result.card.corpus
            hours = duration(corpus["seconds"])
            words = f"{corpus['name']}, {corpus['split']}: {corpus['utterances']:,} utterances, {hours}"
            found.setdefault(words, {})[task] = None
    return "; ".join(f"{', '.join(tasks)} on {words}" for words, tasks in found.items())


def dates(collection: Collection) -> str:
    """The days of the tests."""
    days = sorted({card.created[:10] for card in collection.cards if card.created})
    return "" if not days else days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"


def origin(
    collection: Collection,
    runs: Sequence[PretrainingRun],
    facts: Sequence[PretrainingFacts],
    setup: Sequence[tuple[str, str]],
) -> list[tuple[str, str]]:
    """(what, how) pairs for the top of the page: dates, machine, versions, test data, data of pre-training."""
    given = dict(setup)
    machine = machines(collection) or ", ".join(filter(None, [given.get("machine"), given.get("device")]))
    trained = {
        ", ".join(filter(None, [known.corpus, duration(60 * known.minutes)]))
        for known in facts
        if known.minutes is not None
    }
    return [
        ("tested", dates(collection)),
        ("machine", machine or ("not recorded on these cards" if collection.results else "")),
        ("versions", versions(collection)),
        ("test data", test_data(collection)),
        ("pre-trained on", "; ".join(sorted(trained))),
    ]


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
