"""Compare the upstreams of a report: with the control, with each other, and whether a difference is beyond chance."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wavlm_lightning.reports.runs.results import Collection, Column
from wavlm_lightning.reports.significance import ALPHA, Difference, difference, leader, small_tests
from wavlm_lightning.system.errors import UserError

# Labels of encoders that start from fresh weights: "random weights" (demo), "random:base" (sources).
RANDOM = re.compile(r"random\b", re.IGNORECASE)
MANY = 5  # with this number of tests or more, a remark says how many differences chance alone would show


@dataclass(frozen=True)
class Against:
    """An upstream against a reference: the columns of each verdict."""

    upstream: str
    reference: str
    columns: Mapping[Column, Difference]

    def of(self, verdict: str) -> list[Column]:
        return [column for column, found in self.columns.items() if found.verdict == verdict]

    @property
    def tested(self) -> int:
        """Columns with a paired test."""
        return sum(found.p_value is not None for found in self.columns.values())


def control_of(collection: Collection, wanted: str | None = None) -> str | None:
    """The row that others are compared with: the wanted one, else random weights, else spectral features, else none.

    Raises:
        UserError: no row has the wanted name.
    """
    names = list(collection.results)
    if wanted is not None:
        if wanted not in names:
            raise UserError(f"--control: no upstream is called {wanted!r}; there are {', '.join(names) or 'none'}")
        return wanted
    if len(names) < 2:
        return None
    names = [name for name in names if not _is_permuted(collection, name)]
    random = [name for name in names if RANDOM.match(name)]
    # Features that nothing was trained for have no parameters.
    features = [
        name
        for name in names
        if not any(result.card.upstream["parameters"] for result in collection.results[name].values())
    ]
    return next(iter([*random, *features]), None)


def _is_permuted(collection: Collection, upstream: str) -> bool:
    """Whether all figures of a row are those of permuted labels, so that it is neither a rival nor what others start from."""
    return all(result.card.is_control for result in collection.results[upstream].values())


def against(collection: Collection, upstream: str, reference: str) -> Against:
    """Compare an upstream with a reference on every metric that both have."""
    columns = {}
    for column in collection.columns:
        found = collection.of_column(column)
        if upstream in found and reference in found:
            columns[column] = compared(collection, column, reference, upstream)
    return Against(upstream, reference, columns)


def compared(collection: Collection, column: Column, reference: str, upstream: str) -> Difference:
    """One upstream against another on one metric; tests are made once for a report."""
    place = (column, reference, upstream)
    if place not in collection.differences:
        found = collection.of_column(column)
        one, other = (found[name].measured[column.metric] for name in (reference, upstream))
        places = [found[name].card.corpus for name in (reference, upstream)]
        tested = {(each["name"], each["split"]) for each in places}
        contents = {each.get("sha256", "") for each in places}
        # Metrics without results of utterances know nothing of the data.
        unlike = Difference(other.value - one.value, "level", None, 0, "not the same test data")
        collection.differences[place] = (
            unlike if len(tested) > 1 or (len(contents) > 1 and all(contents)) else difference(one, other)
        )
    return collection.differences[place]


def winners(collection: Collection) -> dict[Column, str | None]:
    """Column -> the upstream that is ahead of all others and above chance, or None; columns with two figures or more."""
    found = {}
    for column in collection.columns:
        rows = {name: result for name, result in collection.of_column(column).items() if not result.card.is_control}
        figures = {name: result.measured[column.metric] for name, result in rows.items()}
        if len(figures) > 1:

            def ahead(best: str, other: str, column: Column = column) -> bool:
                return compared(collection, column, other, best).verdict == "ahead"

            found[column] = leader(figures, ahead)
    return found


def best_against(collection: Collection, control: str) -> Against | None:
    """The upstream that is ahead of the control most often; None if no other one shares a metric with it.

    Of equal ones that which is behind least often, then that which is ahead of the others more often than behind them.
    """
    rivals = [name for name in collection.results if name != control and not _is_permuted(collection, name)]
    found = [one for one in (against(collection, name, control) for name in rivals) if one.columns]

    def balance(one: Against) -> int:
        duels = [against(collection, one.upstream, other.upstream) for other in found if other is not one]
        return sum(len(duel.of("ahead")) - len(duel.of("behind")) for duel in duels)

    return max(found, key=lambda one: (len(one.of("ahead")), -len(one.of("behind")), balance(one)), default=None)


def remark_on_tests(found: Sequence[Against]) -> str:
    """How many differences chance alone would show, and how many remain at Bonferroni's level; empty below `MANY` tests."""
    values = [each.p_value for one in found for each in one.columns.values() if each.p_value is not None]
    if len(values) < MANY:
        return ""
    strict = ALPHA / len(values)
    kept, beyond = (sum(value < level for value in values) for level in (strict, ALPHA))
    return (
        f"These are {len(values)} tests at the {100 * ALPHA:.0f} % level: without any true difference, about "
        f"{ALPHA * len(values):.1f} of them would still come out below p = {ALPHA:g}. {beyond} of {len(values)} are below it, "
        f"and {kept} below {strict:.2g}, the level that allows for the number of tests (Bonferroni)."
    )


def warning(collection: Collection) -> str:
    """A warning that names small test sets and wide intervals; empty if there are none."""
    figures = []
    for column in collection.columns:
        results = collection.of_column(column)
        sizes = [result.card.corpus["utterances"] for result in results.values()]
        if sizes and column.metric in {result.card.headline for result in results.values()}:
            figures.append((column.task, min(sizes), [each.measured[column.metric] for each in results.values()]))
    return small_tests(figures)


def unlike_searches(collection: Collection, task: str) -> bool:
    """Whether the upstreams of a task tried different numbers of learning rates, so that one is tuned more than another."""
    return len({result.rates_tried or 1 for result in collection.of_task(task).values()}) > 1
