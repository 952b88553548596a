"""Panels of a report's pictures: bars, radar, layer weights, curves of heads and of pre-training, learning rates."""

from collections.abc import Collection as Names
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from wavlm_lightning.metrics.superb import TASKS, points
from wavlm_lightning.reports import plots
from wavlm_lightning.reports.cards import percent, scale
from wavlm_lightning.reports.curves import Curves, Series
from wavlm_lightning.reports.figures import Draw
from wavlm_lightning.reports.runs.comparison import winners
from wavlm_lightning.reports.runs.curves import PretrainingRun, run_curves, runs_of, top_rank
from wavlm_lightning.reports.runs.layers import CONTENT, SPEAKER, layer_weights
from wavlm_lightning.reports.runs.results import Collection, Result, seed_stems
from wavlm_lightning.reports.runs.tables import board_cards
from wavlm_lightning.reports.superb_table import board_values
from wavlm_lightning.reports.tables import metric_title
from wavlm_lightning.system.errors import UserError

MOST_RADARS = 12
Lines = list[tuple[str, Series]]
Panels = tuple[list[Draw], tuple[float, float]]  # panels and the size of one in inches


def bar_panels(collection: Collection) -> Panels:
    """One panel of bars per task and headline, and the size of a panel."""
    names = plots.short_names(list(collection.results))
    panels: list[Draw] = []
    best = {(column.task, column.metric): name for column, name in winners(collection).items()}
    for task, metric in _headlines(collection):
        cards, deviations, intervals, texts = [], {}, {}, {}
        for upstream, result in collection.of_task(task).items():
            card = result.card
            if metric not in card.metrics:
                continue
            # draw_results finds its rows by label; a row of the report may be a part of a label or several labels.
            cards.append(replace(card, task=task, headline=metric))
            cards[-1].upstream = {**card.upstream, "label": names[upstream]}
            if (deviation := result.deviation(metric)) is not None:
                deviations[names[upstream]] = deviation
            if (ends := result.measured[metric].interval) is not None:
                intervals[names[upstream]] = ends
                texts[names[upstream]] = result.measured[metric].text
        strong = best.get((task, metric))
        draw = partial(plots.draw_results, cards=cards, upstreams=list(names.values()), deviations=deviations)
        panels.append(partial(draw, intervals=intervals, texts=texts, strong=strong and names[strong]))
    return panels, (4.0, 1.2 + 0.27 * len(names))


def radar_panels(collection: Collection, reserved: Names[str]) -> tuple[list[Draw], int, bool]:
    """One radar per upstream, the others' outlines in grey; the number of spokes, and whether they are SUPERB points.

    Upstreams with at least three of SUPERB's tasks have a radar; the spokes are the tasks that all of them share. If all
    may be compared with the published rows, the rim is 1000 points (the best of 2021) and the centre FBANK; otherwise
    the rim is 100 % right.
    """
    cards = {upstream: board_cards(row) for upstream, row in collection.results.items()}
    cards = {upstream: some for upstream, some in cards.items() if len(some) >= 3}
    tasks = [task for task in TASKS if all(task in some for some in cards.values())]
    if not cards or len(tasks) < 3:
        return [], 0, False
    official = not any(upstream in reserved for upstream in cards)
    outlines = {}
    for upstream, some in cards.items():
        values = board_values({task: some[task] for task in tasks})
        if official:
            outlines[upstream] = [sum(points(m, values[m]) for m in TASKS[t]) / len(TASKS[t]) / 1000 for t in tasks]
        else:
            mains = [some[task].main for task in tasks]
            outlines[upstream] = [
                (percent(main) if main["better"] == "higher" else 100 - percent(main)) / 100 for main in mains
            ]
    panels: list[Draw] = []
    for upstream in list(outlines)[:MOST_RADARS]:
        others = [outline for other, outline in outlines.items() if other != upstream]
        panels.append(partial(plots.draw_radar, title=upstream, names=tasks, own=outlines[upstream], others=others))
    return panels, len(tasks), official


def weight_panels(collection: Collection) -> Panels:
    """One heat map per upstream, speaker tasks at the top and content tasks at the bottom, and the size of a panel."""
    tasks = _by_group(collection.tasks)
    names = plots.short_names(list(collection.results))
    weights = {names[upstream]: layer_weights(row, tasks) for upstream, row in collection.results.items()}
    most = max((len(rows) for rows in weights.values()), default=0)
    return layer_panels(weights), (4.0, 1.05 + 0.26 * most)


def head_panels(collection: Collection, problems: list[str]) -> Panels:
    """One panel per task and headline on the validation split over training steps, and the size of a panel."""
    panels: list[Draw] = []
    order = list(collection.results)
    longest = 1
    for task, metric in _headlines(collection):
        results = {name: each for name, each in collection.of_task(task).items() if metric in each.card.metrics}
        lines = [(name, series) for name, each in results.items() for series in _validation(each, metric, problems)]
        if lines:
            main, title = next(iter(results.values())).card.metrics[metric], f"{task}, validation"
            unit = f"{metric_title(metric)} {main['unit']}".strip()
            draw = partial(plots.draw_lines, title=title, unit=unit, lines=lines, order=order, better=main["better"])
            panels.append(draw)
            longest = max(longest, len({name for name, _ in lines}))
    return panels, line_size(longest)


def rate_panels(collection: Collection) -> Panels:
    """One panel per task that was trained at several learning rates, and the size of a panel."""
    panels: list[Draw] = []
    order = list(collection.results)
    longest = 1
    for task in collection.tasks:
        tried = {name: result for name, result in collection.of_task(task).items() if len(result.rates) > 1}
        if not tried:
            continue
        lines = {n: {rate: sum(some) / len(some) for rate, some in r.rates.items()} for n, r in tried.items()}
        chosen = {name: result.card.learning_rate for name, result in tried.items()}
        card = next(iter(tried.values())).card
        unit = f"{metric_title(card.headline)} {card.main['unit']}, {card.main['better']} is better"
        panels.append(partial(plots.draw_rates, title=task, unit=unit, lines=lines, chosen=chosen, order=order))
        longest = max(longest, len(lines))
    return panels, line_size(longest)


def pretraining_panels(runs: Sequence[PretrainingRun], group_seeds: bool, upstreams: Sequence[str]) -> Panels:
    """The curves of one run in detail, or those of several runs together; gradient norm, rank and speed of both.

    `group_seeds`: runs whose names differ only by a number at the end become their mean. A run with the name of one of
    the `upstreams` gets its colour.
    """
    if not runs:
        return [], line_size(1)
    stems = seed_stems(run.name for run in runs) if group_seeds else {run.name: run.name for run in runs}
    names = list(dict.fromkeys(stems.values()))
    order = sorted(names, key=lambda name: (name not in upstreams, upstreams.index(name) if name in upstreams else 0))
    panels = curve_panels(runs[0].curves) if len(runs) == 1 else []
    wanted: list[tuple[str, str, str, float, bool]] = [
        ("Gradient norm", "train/gradient_norm", "", 1, True),
        ("Effective rank, top layer", "", "dimensions", 1, False),
        ("Speed", "health/audio_seconds_per_second", "seconds of audio a second", 1, False),
    ]
    if len(runs) > 1:
        wanted[:0] = [
            ("Loss, held out", "valid/loss", "nats", 1, False),
            ("Masked accuracy, held out", "valid/masked_accuracy", "%", 100, False),
            ("Codebook perplexity, held out", "valid/perplexity", "labels in use", 1, False),
        ]
    better = {"valid/loss": "lower", "valid/masked_accuracy": "higher"}
    for title, key, unit, factor, log in wanted:
        lines: Lines = []
        for run in runs:
            series = run.curves.get(key) if key else top_rank(run.curves)
            if series is not None:
                lines.append((stems[run.name], series.scaled(factor)))
        if lines:
            draw = partial(plots.draw_lines, title=title, unit=unit, lines=lines, order=order, log=log)
            panels.append(partial(draw, better=better.get(key, "")))
    return panels, line_size(len(names))


def curve_panels(curves: Curves) -> list[Draw]:
    """Loss, accuracy and codebook perplexity of one pre-training run."""
    return [partial(draw, curves=curves) for draw in (plots.draw_loss, plots.draw_accuracy, plots.draw_perplexity)]


def layer_panels(weights: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Draw]:
    """One heat map per upstream; `weights` is label -> task -> softmaxed weights, empty ones are left out."""
    # One scale for all: on a scale of its own, the nearly even weights of an untrained encoder look decided.
    darkest = max((max(row) for rows in weights.values() for row in rows.values() if row), default=1.0)
    return [
        partial(plots.draw_layers, rows=rows, title=label, darkest=darkest)
        for label, rows in weights.items()
        if any(rows.values())
    ]


def line_size(names: int) -> tuple[float, float]:
    """Inches of a panel of lines with a legend of that many names, in two columns below it."""
    return 4.0, 3.0 + 0.2 * (-(-names // 2) if names <= 7 else 1)


def _headlines(collection: Collection) -> list[tuple[str, str]]:
    """(task, metric) of all headlines, in the order of the tables."""
    found: dict[tuple[str, str], None] = {}
    for task in collection.tasks:
        for result in collection.of_task(task).values():
            found.update(dict.fromkeys((task, metric) for metric in result.card.shown))
    return list(found)


def _validation(result: Result, metric: str, problems: list[str]) -> list[Series]:
    """The validation curve of a metric of every run behind a result, in the card's unit."""
    found = []
    for file, card in zip(result.files, result.cards, strict=True):
        for folder in runs_of(Path(file), card):
            try:
                series = run_curves(folder).get(f"valid/{metric}")
            except UserError as error:
                problems.append(str(error))
                continue
            if series is not None and metric in card.metrics:
                found.append(series.scaled(scale(card.metrics[metric])))
    return found


def _by_group(tasks: Sequence[str]) -> list[str]:
    middle = [task for task in tasks if task not in SPEAKER + CONTENT]
    return [task for task in (*SPEAKER, *middle, *CONTENT) if task in tasks]
