"""Which layers the heads weigh, and whether speaker tasks use lower layers than content tasks, as the WavLM paper says."""

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

from wavlm_lightning.reports.runs.results import Result
from wavlm_lightning.reports.tables import Cell, Table

SPEAKER, CONTENT = ("SID", "SV", "SD"), ("PR", "ASR", "KS", "IC", "SF")
LEVEL = 0.1 / 12  # a tenth of a layer of WavLM Base; smaller differences do not count as an order
HOLDS, ON_AVERAGE, NO_ORDER, REVERSED = "holds", "on average only", "no clear order", "the reverse"


def centre(weights: Sequence[float]) -> float:
    """Mean layer under the weights: 0 for the transformer's input, `len(weights) - 1` for its output."""
    return sum(layer * weight for layer, weight in enumerate(weights))


def reading(speaker: Iterable[Sequence[float]], content: Iterable[Sequence[float]]) -> str:
    """Whether speaker tasks weigh lower layers than content tasks, from the layer weights of at least one task each."""
    low = [centre(weights) / (len(weights) - 1) for weights in speaker]
    high = [centre(weights) / (len(weights) - 1) for weights in content]
    if abs(fmean(high) - fmean(low)) < LEVEL:
        return NO_ORDER
    if fmean(low) > fmean(high):
        return REVERSED
    return HOLDS if max(low) < min(high) else ON_AVERAGE


def layer_weights(row: Mapping[str, Result], tasks: Sequence[str]) -> dict[str, list[float]]:
    """Task -> layer weights of an upstream, in the order of `tasks`; without tasks on a single layer."""
    found = {task: row[task].card.layer_weights for task in tasks if task in row}
    return {task: weights for task, weights in found.items() if len(weights) > 1}


def layers_table(results: Mapping[str, Mapping[str, Result]], tasks: Sequence[str]) -> tuple[Table, str] | None:
    """The mean layer of speaker and of content tasks for every upstream that has both, and a sentence on all of them."""
    rows, readings = [], []
    for upstream, row in results.items():
        weights = layer_weights(row, tasks)
        groups = [{task: weights[task] for task in group if task in weights} for group in (SPEAKER, CONTENT)]
        if not all(groups):
            continue
        readings.append(reading(*(group.values() for group in groups)))
        last = max(len(some) for some in weights.values()) - 1
        cells = [Cell(f"{fmean(map(centre, group.values())):.2f}", note=_each(group)) for group in groups]
        rows.append([Cell(upstream), *cells, Cell(f"{last / 2:.1f}", note=f"of 0 to {last}"), Cell(readings[-1])])
    if not rows:
        return None
    head = ("upstream", "speaker tasks", "content tasks", "even weights", "speaker below content")
    return Table([Cell(name) for name in head], rows, wide=True), _sentence(readings)


def _sentence(readings: Sequence[str]) -> str:
    counts = {kind: readings.count(kind) for kind in (HOLDS, ON_AVERAGE, NO_ORDER, REVERSED)}
    others = [f"{kind} for {counts[kind]}" for kind in (ON_AVERAGE, NO_ORDER, REVERSED) if counts[kind]]
    of = f"{len(readings)} encoder{'' if len(readings) == 1 else 's'} with tasks of both kinds"
    return f"it **holds for {counts[HOLDS]} of {of}**" + (f" ({', '.join(others)})." if others else ".")


def _each(group: Mapping[str, Sequence[float]]) -> str:
    return ", ".join(f"{task} {centre(weights):.1f}" for task, weights in group.items())
