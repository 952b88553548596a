"""Results of a report: for each task and upstream the cards of its seeds, with folds and learning rates resolved."""

import math
import re
import shlex
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

from wavlm_lightning.metrics.superb import TASKS
from wavlm_lightning.reports.aggregate import best_rate, combine_folds, validation
from wavlm_lightning.reports.cards import CARD_NAME, DECIMALS, ResultCard
from wavlm_lightning.reports.significance import Difference, Measured, over_seeds, results_of
from wavlm_lightning.reports.superb_table import METRIC_OF
from wavlm_lightning.reports.utterances import UtteranceResults
from wavlm_lightning.system.errors import UserError

# At the end of the name of a row that is a control, as `wavlm superb --controls` names it.
PERMUTED_ROW = "permuted labels"
MOST_NAMED = 3  # results that are left out with their names in one sentence
SEED = re.compile(r"[-_ ]?\d+$")  # the number at the end of a label that names a seed: "full-0", "full-1"


@dataclass(frozen=True)
class Result:
    """One cell of the tables: a task on an upstream."""

    cards: Sequence[ResultCard]  # one per seed
    files: Sequence[Path]  # of the cards
    rates: Mapping[float, Sequence[float]]  # learning rate -> test values of the headline, one per seed
    utterances: UtteranceResults | None = None  # of the headline: of all folds, and the mean over the seeds

    @cached_property
    def card(self) -> ResultCard:
        """The first card, with metrics and layer weights replaced by their means over the seeds."""
        first = self.cards[0]
        if len(self.cards) == 1:
            return first
        metrics = {
            name: {**value, "value": statistics.fmean(card.metrics[name]["value"] for card in self.cards)}
            for name, value in first.metrics.items()
            if all(name in card.metrics for card in self.cards)
        }
        # A seed lacks a headline whose package was not installed where it was tested.
        headlines = [name for name in first.headlines if name in metrics]
        weights = [card.layer_weights for card in self.cards]
        even = len({len(some) for some in weights}) == 1
        mean = [statistics.fmean(column) for column in zip(*weights, strict=True)] if even else first.layer_weights
        return replace(first, metrics=metrics, headlines=headlines, layer_weights=mean)  # type: ignore[arg-type]

    def value(self, metric: str) -> float:
        """The mean over the seeds, in the unit of the metric."""
        return self.card.metrics[metric]["value"]

    @cached_property
    def measured(self) -> dict[str, Measured]:
        """Metric -> the figure with its interval and its deviation over seeds, as far as the runs tell."""
        alone = len(self.cards) == 1
        given = self.card.interval if alone else None
        others = self.card.intervals if alone else {}
        return {
            name: Measured(value, self.utterances, self.deviation(name), given)
            if name == self.card.headline
            else Measured(value, None, self.deviation(name), others.get(name))
            for name, value in self.card.metrics.items()
        }

    @property
    def rates_tried(self) -> int | None:
        """Learning rates (in a sweep, settings) of which the run was chosen; None if nothing says that there was no choice."""
        found = max([len(self.rates), *(card.rates_tried or 0 for card in self.cards)])
        known = found > 1 or all(card.rates_tried is not None for card in self.cards)
        return found if known else None

    def deviation(self, metric: str) -> float | None:
        """Sample standard deviation over the seeds, in the unit of the metric; None for a single seed."""
        values = [card.metrics[metric]["value"] for card in self.cards if metric in card.metrics]
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass(frozen=True)
class Column:
    """A column of the tables: a metric of a task."""

    task: str
    metric: str
    unit: str
    better: str
    decimals: int = DECIMALS


@dataclass
class Collection:
    """All results of a report."""

    results: dict[str, dict[str, Result]] = field(default_factory=dict)  # upstream -> task -> result
    files: dict[Path, ResultCard] = field(default_factory=dict)  # every card that could be read
    counted: set[Path] = field(default_factory=set)  # the rest are folds, losing learning rates and older runs
    problems: list[str] = field(default_factory=list)  # a sentence for each thing that was left out
    # (column, reference, upstream) -> their difference, filled by `comparison.compared`: a test takes thousands of draws
    differences: dict[tuple[Column, str, str], Difference] = field(default_factory=dict)

    @property
    def tasks(self) -> list[str]:
        """Tasks with a result: SUPERB's in the order of its board, then the others."""
        found = list(dict.fromkeys(task for row in self.results.values() for task in row))
        return [task for task in TASKS if task in found] + [task for task in found if task not in TASKS]

    @property
    def columns(self) -> list[Column]:
        """The board's metrics of SUPERB's tasks, and the headlines of every other task."""
        columns: dict[tuple[str, str], Column] = {}
        for task in self.tasks:
            for card in (row[task].card for row in self.results.values() if task in row):
                for name in board_metrics(card) or card.shown:
                    metric = card.metrics[name]
                    columns.setdefault(
                        (task, name),
                        Column(task, name, metric["unit"], metric["better"], metric.get("decimals", DECIMALS)),
                    )
        return list(columns.values())

    @property
    def cards(self) -> list[ResultCard]:
        """The cards of all results, one per seed."""
        return [card for row in self.results.values() for result in row.values() for card in result.cards]

    def of_task(self, task: str) -> dict[str, Result]:
        """Upstream -> result, for the upstreams with a result on a task."""
        return {upstream: row[task] for upstream, row in self.results.items() if task in row}

    def of_column(self, column: Column) -> dict[str, Result]:
        """Upstream -> result, for the upstreams with a figure in a column."""
        return {name: each for name, each in self.of_task(column.task).items() if column.metric in each.card.metrics}


def board_metrics(card: ResultCard) -> list[str]:
    """Names of the card's metrics that SUPERB's board shows; empty if the card lacks any of them."""
    names = [METRIC_OF[column] for column in TASKS.get(card.task, ())]
    return names if all(name in card.metrics for name in names) else []


def collect(
    files: Mapping[Path, ResultCard], problems: Sequence[str], name: Callable[[Path], str], group_seeds: bool = False
) -> Collection:
    """Combine cards: folds become their mean, of learning rates the best on validation counts, seeds form one result.

    The folds and learning rates behind a card of `wavlm superb` lie in subfolders of its folder. Runs whose corpus, length or
    protocol differs from the newest run of the same task and upstream are left out and reported, and so are other systems
    (another head, other labels, averaged weights) than the one that was chosen among several, or is best on validation.
    Figures on permuted labels have a row of their own, and YAML files of one head whose systems differ, as those of a suite do,
    a column each. `name` makes the text for a path in sentences.
    """
    collection = Collection(files=dict(files), problems=list(problems))
    cards = _combined(_without_copies(files, collection.problems, name), collection.problems, name)
    parts = {path: parent for path in cards if (parent := _whole(path, cards)) is not None}
    whole = {path: card for path, card in cards.items() if path not in parts}
    names = row_names(whole.values(), collection.problems, group_seeds)
    cells: dict[tuple[str, str], list[Path]] = {}
    rows = {path: names[card.upstream["label"], weights_of(card)] for path, card in whole.items()}
    for path, row in rows.items():
        if whole[path].is_control and PERMUTED_ROW not in row:
            rows[path] = f"{row}, {PERMUTED_ROW}"
    titles = _titles(whole, rows)
    for path, row in rows.items():
        cells.setdefault((row, titles[path]), []).append(path)
    for (upstream, task), paths in cells.items():
        what = f"{task} on {upstream}"
        chosen = _newest_setting(paths, cards, what, collection.problems, name)
        chosen = _best_system(chosen, cards, what, collection.problems, name)
        kept = _of_seeds(chosen, cards, collection.problems, name)
        members = [*chosen, *(part for part, parent in parts.items() if parent in chosen)]
        rates = _rates([*sorted((cards[path] for path in members), key=_created), *(cards[path] for path in kept)])
        utterances = _utterances([(path, cards[path]) for path in kept], collection.problems)
        result = Result([cards[path] for path in kept], kept, rates, utterances)
        collection.results.setdefault(upstream, {})[task] = result
        collection.counted.update(kept)
        for path in kept:
            card = cards[path]
            if card.updates is not None and card.updates < card.steps:
                collection.problems.append(
                    f"{what}: the training of {name(path)} was stopped after {card.updates:,} of {card.steps:,} updates."
                )
    return collection


def _without_copies(
    files: Mapping[Path, ResultCard], problems: list[str], name: Callable[[Path], str]
) -> dict[Path, ResultCard]:
    kept: dict[Path, ResultCard] = {}
    by_time: dict[tuple[str, str], list[Path]] = {}
    for path, card in files.items():
        alike = by_time.setdefault((card.task, card.created), [])
        # The card of a cell may equal that of its chosen learning rate in a subfolder: this pair is not a copy.
        twin = next((o for o in alike if kept[o] == card and not path.parent.is_relative_to(o.parent)), None)
        if twin is not None:
            problems.append(f"{name(path)} is a copy of {name(twin)} and is left out.")
        else:
            alike.append(path)
            kept[path] = card
    return kept


def _combined(
    cards: Mapping[Path, ResultCard], problems: list[str], name: Callable[[Path], str]
) -> dict[Path, ResultCard]:
    """Combine the cards in `fold1`, `fold2`, ... whose parent has no card into one, kept under the first fold's path."""
    folders: dict[Path, list[Path]] = {}
    for path in cards:
        folder = path.parent
        if folder.name.startswith("fold") and folder.name[4:].isdigit() and folder.parent / path.name not in cards:
            folders.setdefault(folder.parent, []).append(path)
    result = dict(cards)
    for parent, folds in folders.items():
        some = [cards[path] for path in folds]
        if len(some) > 1 and len({(card.task, card.upstream["label"], card.headline) for card in some}) == 1:
            for path in folds:
                del result[path]
            result[folds[0]] = combine_folds(some)
            if len(some) != 5:
                problems.append(f"{name(parent)} has {len(some)} folds instead of five; the mean is over these.")
    return dict(sorted(result.items()))


def _whole(path: Path, cards: Mapping[Path, ResultCard]) -> Path | None:
    """The card of the same task and upstream above folds and rates, which `wavlm superb` writes; it says what is behind it."""
    card = cards[path]
    for folder in path.parent.parents:
        other = cards.get(folder / CARD_NAME)
        if (
            other is not None
            and (other.task, other.upstream["label"]) == (card.task, card.upstream["label"])
            and other.details.keys() & {"run", "folds", "learning_rates"}
        ):
            return folder / CARD_NAME
    return None


def _titles(cards: Mapping[Path, ResultCard], rows: Mapping[Path, str]) -> dict[Path, str]:
    """The column of each card: its task, with the name of its YAML where a row has other systems or data by other files.

    `wavlm superb` names the columns of a suite in the same way. Files for each seed or upstream alone divide nothing.
    """
    titles: dict[Path, str] = {}
    tasks: dict[str, list[Path]] = {}
    for path, card in cards.items():
        tasks.setdefault(card.task, []).append(path)
    for task, paths in tasks.items():
        files = {path: _config_of(cards[path]) for path in paths}
        told = all(cards[path].labelled for path in paths)
        content = _say_content(cards[path] for path in paths)
        systems = {path: (_setting(cards[path], content), *_system(cards[path], told).values()) for path in paths}
        named = [path for path in paths if files[path]]
        several = any(
            rows[one] == rows[other] and files[one] != files[other] and systems[one] != systems[other]
            for one, other in combinations(named, 2)
        )
        for path in paths:
            plain = not several or files[path] in ("", task.lower())
            titles[path] = task if plain else f"{task} ({files[path]})"
    return titles


def _config_of(card: ResultCard) -> str:
    """The name of the YAML that the command of a card gives with `-c`; empty without one, or for that of a run folder."""
    try:
        words = shlex.split(card.command)
    except ValueError:  # written by hand
        return ""
    found = [Path(file).stem for option, file in pairwise(words) if option in ("-c", "--config")]
    return found[-1] if found and found[-1] != "config" else ""


def _setting(card: ResultCard, told: bool) -> tuple[Any, ...]:
    """What results of one task and upstream must share; `told`: whether all cards say what their test data hold."""
    corpus = card.corpus
    content = corpus.get("sha256", "") if told else ""
    return corpus["name"], corpus["split"], content, corpus["utterances"], card.steps, card.protocol


def _say_content(cards: Iterable[ResultCard]) -> bool:
    """Whether all cards hold a hash of their test data, as older ones do not."""
    return all(card.corpus.get("sha256") for card in cards)


def _newest_setting(
    paths: Sequence[Path], cards: Mapping[Path, ResultCard], what: str, problems: list[str], name: Callable[[Path], str]
) -> list[Path]:
    """The cards with the same corpus, length and protocol as the newest card.

    A further test below the folder of a run, such as one on a noisy corpus, does not take the place of the run's own.
    """

    told = _say_content(cards[path] for path in paths)

    def text(path: Path) -> str:
        corpus, split, content, utterances, steps, protocol = _setting(cards[path], told)
        parts = [corpus, split, f"{utterances:,} utterances", f"{steps:,} updates", protocol and f"protocol {protocol}"]
        # Corpora of one name.
        several = (
            len({cards[other].corpus.get("sha256") for other in paths if cards[other].corpus["name"] == corpus}) > 1
        )
        return ", ".join(filter(None, [*parts, f"test data {content[:6]}" if content and several else ""]))

    folders = {path.parent for path in paths}
    outer = [path for path in paths if folders.isdisjoint(path.parent.parents)]
    newest = max(outer, key=lambda path: cards[path].created)
    kept = [path for path in paths if _setting(cards[path], told) == _setting(cards[newest], told)]
    if len(kept) < len(paths):
        others = [f"{name(path)} ({text(path)})" for path in paths if path not in kept]
        problems.append(
            f"{what} was run with several settings or tested on several data; the newest counts ({text(newest)}), "
            f"{_left_out(others)}."
        )
    return kept


def _best_system(
    paths: Sequence[Path], cards: Mapping[Path, ResultCard], what: str, problems: list[str], name: Callable[[Path], str]
) -> list[Path]:
    """The cards of one system: of the one that was chosen among several, else of the best on validation, else the newest."""
    told = all(cards[path].labelled for path in paths)
    systems = {path: _system(cards[path], told) for path in paths}
    groups: dict[tuple[Any, ...], list[Path]] = {}
    for path, parts in systems.items():
        groups.setdefault(tuple(parts.values()), []).append(path)
    if len(groups) == 1:
        return list(paths)
    pool = [some for some in groups.values() if any(map(_was_chosen, (cards[path] for path in some)))]
    why = "was chosen among several runs and counts"
    pool = pool or list(groups.values())
    best = pool[0]
    if len(pool) > 1:
        figures = [validation([cards[path] for path in _of_seeds(some, cards, [], name)]) for some in pool]
        selections = [cards[path].selection for some in pool for path in some]
        kinds = {(each["metric"], each.get("mode"), each["split"]) for each in selections if each is not None}
        known = [place for place, figure in enumerate(figures) if math.isfinite(figure)]
        if len(kinds) == 1 and known:
            falling = next(iter(kinds))[1] == "min"
            best = pool[(min if falling else max)(known, key=lambda place: figures[place])]
            why = "is the best on validation and counts"
        else:
            best = max(pool, key=lambda some: max(cards[path].created for path in some))
            why = "is the newest and counts"
    unlike = [part for part in systems[best[0]] if len({parts[part] for parts in systems.values()}) > 1]
    others = [name(path) for path in paths if path not in best]
    problems.append(
        f"{what} was run as {len(groups)} systems that differ in {', '.join(unlike)}; {name(best[0])} {why}, "
        f"{_left_out(others)}."
    )
    return best


def _system(card: ResultCard, told: bool) -> dict[str, Any]:
    """What tells a system from another one of the same task and upstream; equal for seeds, learning rates and reruns.

    `told`: whether all cards say how many true labels they had, as older ones do not. What depends on the seed of a run before
    (its path, its best update, the number of its pseudo-labels) is left out.
    """
    labels, pseudo = card.labelled if told else {}, card.pseudo_labelled
    return {
        "trained parameters": card.trainable_parameters,
        "labels": (labels.get("utterances"), labels.get("corpus")),
        "pseudo-labels": (bool(pseudo), pseudo.get("round"), pseudo.get("share")),
        "averaged checkpoints": len(card.averaged),
        "the weights they began with": card.started.get("with"),
        "the main metric": card.headline,
    }


def _was_chosen(card: ResultCard) -> bool:
    """Whether a search or a sweep says that this run is the best of several."""
    return (card.rates_tried or 1) > 1


def _left_out(names: Sequence[str]) -> str:
    few = names if len(names) <= MOST_NAMED + 1 else [*names[:MOST_NAMED], f"{len(names) - MOST_NAMED} more"]
    return f"and left out {'is' if len(names) == 1 else 'are'} {', '.join(few)}"


def _created(card: ResultCard) -> str:
    return card.created


def _seed(card: ResultCard) -> tuple[int, str]:
    """What tells the seeds of a result apart: that of the head, and its encoder, by the label where weights are not known."""
    return card.seed, weights_of(card) or card.upstream["label"]


def _of_seeds(
    paths: Sequence[Path], cards: Mapping[Path, ResultCard], problems: list[str], name: Callable[[Path], str]
) -> list[Path]:
    """The card of each seed."""
    seeds: dict[tuple[int, str], list[Path]] = {}
    for path in paths:
        seeds.setdefault(_seed(cards[path]), []).append(path)
    return [_one_of(some, cards, problems, name) for some in seeds.values()]


def _one_of(
    paths: Sequence[Path], cards: Mapping[Path, ResultCard], problems: list[str], name: Callable[[Path], str]
) -> Path:
    """The card of one seed: that which a sweep chose, else that of the best learning rate on validation.

    A run that was made twice counts with its newest card. A further test below the folder of a run, such as one of its last
    weights, is no rerun.
    """
    folders = {path.parent for path in paths}
    if further := [path for path in paths if not folders.isdisjoint(path.parent.parents)]:
        problems.append(f"Further tests of a run do not count, {_left_out([name(path) for path in further])}.")
        paths = [path for path in paths if path not in further]
    marked = [path for path in paths if _was_chosen(cards[path])]
    newest: dict[float, Path] = {}
    for path in sorted(marked or paths, key=lambda path: cards[path].created):
        rate = cards[path].learning_rate
        if rate in newest:
            problems.append(f"{name(newest[rate])} was run again, the newer {name(path)} counts.")
        newest[rate] = path
    by_rate: dict[float | None, Path] = dict(newest.items())
    try:
        found = by_rate[best_rate({rate: [cards[path]] for rate, path in newest.items()})]
    except UserError as error:
        found = max(newest.values(), key=lambda path: cards[path].created)
        problems.append(f"{error}; until then the newest, {name(found)}, counts.")
    # Losing learning rates have a picture; what else a sweep has varied is on no card.
    rate = cards[found].learning_rate
    others = [name(path) for path in paths if path not in marked and cards[path].learning_rate == rate]
    if marked and others:
        chosen = f"{name(found)} was chosen among {cards[found].rates_tried} runs and counts"
        problems.append(f"{chosen}, {_left_out(others)}.")
    return found


def _utterances(cards: Sequence[tuple[Path, ResultCard]], problems: list[str]) -> UtteranceResults | None:
    """Results of the utterances behind the cards of a result, one per seed; None if a seed has none."""
    try:
        found = [results_of(path, card) for path, card in cards]
        known = [some for some in found if some is not None]
        return over_seeds(known) if len(known) == len(found) else None
    except UserError as error:
        problems.append(f"{error}; until then without intervals.")
        return None


def _rates(cards: Sequence[ResultCard]) -> dict[float, list[float]]:
    """Learning rate -> test values, from the cards of the rates and from the `details` of the chosen rate's card.

    Of a rate and seed the last card counts.
    """
    values: dict[float, dict[tuple[int, str], float]] = {}
    for card in cards:
        figures = {float(rate): tried["test"] for rate, tried in card.details.get("learning_rates", {}).items()}
        for rate, value in {**figures, card.learning_rate: card.value}.items():
            values.setdefault(rate, {})[_seed(card)] = value
    return {rate: list(values[rate].values()) for rate in sorted(values)}


def weights_of(card: ResultCard) -> str:
    """The sha256 of the encoder, which separates encoders of one label; empty without weights (spectral features).

    Empty also for an encoder that was trained with the head, whose weights are another result of each rate and seed.
    """
    return card.upstream["sha256"] if card.upstream["parameters"] and not card.upstream.get("trained") else ""


def row_names(
    cards: Iterable[ResultCard], problems: list[str], group_seeds: bool = False
) -> dict[tuple[str, str], str]:
    """Name the rows of a report: (label, `weights_of`) of each upstream -> name.

    `group_seeds`: labels that differ only by a number at the end ("full-0", "full-1") share a row, and so do different
    weights of one label.
    """
    hashes: dict[str, dict[str, None]] = {}  # dicts as sets that keep the order
    for card in cards:
        hashes.setdefault(card.upstream["label"], {})[weights_of(card)] = None
    stems = seed_stems(hashes)
    if group_seeds:
        return {(label, sha): stems[label] for label, some in hashes.items() for sha in some}
    for label, some in hashes.items():
        if len(some) > 1:
            problems.append(
                f"{label} names {len(some)} encoders with different weights, so each has a row of its own; "
                "`--group-seeds` shows their mean as seeds of one encoder."
            )
    alike = [label for label, stem in stems.items() if label != stem]
    if alike:
        problems.append(
            f"{', '.join(alike[:2])} and {len(alike) - 2} more labels end in a number; `--group-seeds` shows the mean "
            "of those that differ in nothing else, as seeds of one upstream."
            if len(alike) > 2
            else f"{' and '.join(alike)} differ by a number alone; `--group-seeds` shows their mean as seeds of one upstream."
        )
    return {
        (label, sha): f"{label} ({sha[:6] or 'no weights'})" if len(some) > 1 else label
        for label, some in hashes.items()
        for sha in some
    }


def seed_stems(labels: Iterable[str]) -> dict[str, str]:
    """Label -> the label without the number at its end, if another label differs from it by that number alone."""
    labels = list(labels)
    stems = {label: SEED.sub("", label) or label for label in labels}
    counts = Counter(stems.values())
    return {label: stem if counts[stem] > 1 else label for label, stem in stems.items()}
