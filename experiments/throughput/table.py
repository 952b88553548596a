"""The table of README.md, made from the results."""

from __future__ import annotations

import statistics

from experiments.throughput.catalogue import ROWS
from experiments.throughput.results import Result
from wavlm_lightning.pretraining.flops import model_flops_utilisation


def render(results: list[Result]) -> str:
    """Markdown: one line a row with its goal, then one line a variant, then the machine.

    Args:
        results: what was measured.
    """
    lines = [
        "| row | settings | ours | best peer | ratio | fastest | must / aim | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [_headline(result) for result in results]
    lines += [
        "",
        "| row | variant | median | fastest | rate | of the peak | ratio of ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in results:
        lines += [_variant(result, name) for name in result.values]
    worst = [max(result.parity.values()) for result in results if result.parity]
    if worst:
        lines += ["", f"Before timing, the last hidden states agreed to {max(worst):.0e} of the largest value."]
    lines += ["", *sorted({_machine(result) for result in results})]
    return "\n".join(lines)


def _headline(result: Result) -> str:
    row = ROWS[result.row]
    rounds, ours, smaller = result.rounds, result.ours, result.unit == "GiB"
    goal = "" if row.must is None else f"{row.must:g} / {row.aim:g}"
    if not result.peers:
        return f"| {row.title} | {_settings(result)} | {_value(result, ours)} | - | - | - | {goal} | |"
    peer = result.best_peer
    if smaller:
        ratio, fastest = _share(result, peer), rounds.fastest(ours) / rounds.fastest(peer)
    else:
        ratio, fastest = rounds.ratio(ours, peer), rounds.fastest_ratio(ours, peer)
    verdict = ""
    if row.must is not None and row.aim is not None:
        reached = [ratio <= goal if smaller else ratio >= goal for goal in (row.must, row.aim)]
        verdict = "aim" if reached[1] else "must" if reached[0] else "**short**"
    return (
        f"| {row.title} | {_settings(result)} | {_value(result, ours)} | {_value(result, peer)} ({peer}) | "
        f"**{ratio:.2f}** | {fastest:.2f} | {goal} | {verdict} |"
    )


def _variant(result: Result, name: str) -> str:
    rounds = result.rounds
    median = rounds.median(name)
    rates = [f"{amount / median:,.4g} {unit}/s" for unit, amount in result.work.items()]
    use = None
    if result.flops and result.unit == "s":
        rates.append(f"{result.flops / median / 1e9:,.0f} GFLOP/s")
        use = model_flops_utilisation(result.flops / median, result.machine.get("gpu", ""))
    ratio = _share(result, name) if result.unit == "GiB" else rounds.ratio(result.ours, name)
    return (
        f"| {result.row} | {name} | {_value(result, name)} | {rounds.fastest(name):.4g} {result.unit} | "
        f"{', '.join(rates) or '-'} | {'-' if use is None else f'{100 * use:.1f} %'} | "
        f"{ratio:.2f} |"
    )


def _share(result: Result, name: str) -> float:
    """Of the memory of a variant, what ours takes: the median over the rounds."""
    return statistics.median(
        ours / theirs for ours, theirs in zip(result.values[result.ours], result.values[name], strict=True)
    )


def _value(result: Result, name: str) -> str:
    return f"{result.rounds.median(name):.4g} {result.unit}"


def _settings(result: Result) -> str:
    settings = result.settings
    words = [str(settings[name]) for name in ("size", "precision", "device") if settings.get(name)]
    if "seconds" in settings:
        words.append(f"{settings['batch']} x {settings['seconds']:g} s")
    if settings.get("dropout"):
        words.append(f"dropout {settings['dropout']:g}")
    return ", ".join([*words, f"{settings['rounds']} rounds"])


def _machine(result: Result) -> str:
    facts = result.machine
    where = ", ".join(str(facts[name]) for name in ("gpu", "processor") if facts.get(name))
    return (
        f"{where}; {facts['cores']} cores, {facts['threads']} threads, torch {facts['torch']}; "
        f"{result.settings['clock']} clock; {result.when[:10]}"
    )
