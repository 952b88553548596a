"""A speedrun of speech pre-training: which switch buys how much, and records at a fixed target.

    python experiments/speedrun/run.py switches --out runs/speedrun --jobs 2      every switch alone, short budget
    python experiments/speedrun/run.py switches context rate_high --seeds 3      some of them, and the baseline
    python experiments/speedrun/run.py slope                                     the baseline at 1/4, 1/2, 1 and 2 of its updates
    python experiments/speedrun/run.py record baseline                           a file of records/, checked against the target
    python experiments/speedrun/run.py plan --track gpu-base                     what switches would cost, by arithmetic
    python experiments/speedrun/run.py switches context --track real-speech --speech DIR --out runs/speedrun-real

The rules are in README.md. Finished work is kept, and an interrupted call resumes.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch
from composing import BASELINE, HERE, Recipe, compose, names, read_record, read_track, switches_of
from records import append, check, means, row_of
from stages import Commands, own_core
from tables import all_results, write_switches
from tqdm import tqdm
from training import Speedrun, curves_name, last_entries, write_curves

from wavlm_lightning.pretraining.memory import parameter_count
from wavlm_lightning.system.arguments import whole
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import own_folder, write_json
from wavlm_lightning.system.hardware import usable_cores
from wavlm_lightning.system.reading import read_json


def run_all(speedrun: Speedrun, runs: Sequence[tuple[Recipe, int]], jobs: int) -> list[str]:
    """Run (recipe, seed) pairs, `jobs` at a time, each job on a core of its own; the errors of those that failed."""
    slots: SimpleQueue[int] = SimpleQueue()
    for number in range(jobs):
        slots.put(number)

    failures: list[str] = []

    def one(recipe: Recipe, seed: int) -> None:
        slot = slots.get()
        try:
            with own_core(slot, jobs):
                result = speedrun.run(recipe, seed)
        except UserError as error:  # a collapsed run, for example; the others go on
            failures.append(f"{recipe.name}, seed {seed}: {error}")
            tqdm.write(f"{failures[-1]}")
            return
        finally:
            slots.put(slot)
        shown = "  ".join(f"{name} {value:.1f}" for name, value in result["figures"].items())
        tqdm.write(f"{recipe.name}, {recipe.updates} updates, seed {seed}: {shown}  ({result['clocks']['wall']:.0f} s)")

    with ThreadPoolExecutor(jobs) as pool, tqdm(total=len(runs), unit="run") as bar:
        futures = [pool.submit(one, *each) for each in runs]
        for future in futures:
            future.add_done_callback(lambda _: bar.update())
        try:
            for future in futures:
                future.result()
        except BaseException:
            for future in futures:
                future.cancel()
            speedrun.commands.stop()
            raise
    return failures


def commit() -> str:
    """The commit of this checkout, with a + if files differ from it; empty without git."""
    try:
        command = ["git", "-C", str(HERE), "describe", "--always", "--dirty=+"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--track", choices=names("tracks"), default="cpu-tiny")
    common.add_argument("--speech", type=Path, help="recordings for the track real-speech (experiments/real_speech)")
    common.add_argument("--out", type=Path, default=Path("runs/speedrun"))
    common.add_argument("--seeds", type=whole, default=3)
    common.add_argument("--first-seed", type=int, default=0)
    common.add_argument(
        "--corpus", type=Path, help="folder with the corpora, which gets the labels (default: made in --out)"
    )
    common.add_argument("--jobs", type=whole, default=1, help="runs at a time, each with one thread on its own core")
    common.add_argument("--threads", type=whole, help="of a run (default: one, or all cores with --jobs 1)")
    common.add_argument("--size", choices=("tiny", "mini"), help="of the corpora, for a trial")
    common.add_argument("--head-steps", type=whole, help="updates of every head, for a trial")
    common.add_argument("--updates", type=whole, nargs="+", help="of pre-training")
    switches = verbs.add_parser("switches", parents=[common], help="each switch alone against the baseline")
    switches.add_argument(
        "names",
        nargs="*",
        metavar="SWITCH",
        help=f"all by default; `a+b` for several at once: {', '.join(names('switches'))}",
    )
    verbs.add_parser("slope", parents=[common], help="the baseline at 1/4, 1/2, 1 and 2 of its updates")
    bill = verbs.add_parser("plan", parents=[common], help="what switches would cost, by arithmetic")
    bill.add_argument("names", nargs="*", metavar="SWITCH")
    record = verbs.add_parser("record", parents=[common], help="a record, checked against the target")
    record.add_argument("record", help=f"a name in records ({', '.join(names('records'))}) or a YAML")
    record.add_argument(
        "--log", type=Path, help="folder of records.csv (default: results/TRACK here; of a trial, --out)"
    )
    arguments = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: what runs saves a checkpoint and ends
        signal.signal(number, signal.default_int_handler)
    try:
        run(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("stopped; the same command continues")


def run(arguments: argparse.Namespace) -> None:
    """Do what the command line says."""
    track = read_track(arguments.track)
    recipes = recipes_of(arguments, track)
    threads = arguments.threads or (1 if arguments.jobs > 1 else usable_cores())
    commands = Commands(threads, gpu=track["device"] == "cuda")
    facts = {"track": arguments.track, "jobs": arguments.jobs, "date": date.today().isoformat(), "commit": commit()}
    facts["trial"] = arguments.size not in (None, track["corpora"].get("size")) or arguments.head_steps is not None
    speedrun = Speedrun(
        track, arguments.out, commands, arguments.corpus, arguments.size, arguments.speech, arguments.head_steps, facts
    )
    if arguments.verb == "plan":
        print("\n".join(bill_lines(speedrun, recipes)))
        return
    if track["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"track {arguments.track} needs a GPU, and this machine has none; `plan` prints what it would cost"
        )
    with own_folder(arguments.out, "speedrun"):
        one_kind(arguments, track)
        speedrun.prepare()
        seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
        # Seed by seed, so that a table is there early.
        failures = run_all(speedrun, [(recipe, seed) for seed in seeds for recipe in recipes], arguments.jobs)
        print(write_switches(arguments.out))
        if failures:
            raise UserError(f"{len(failures)} of {len(recipes) * len(seeds)} runs failed: {'; '.join(failures)}")
        if arguments.verb == "record":
            for recipe in recipes:
                judge(
                    speedrun,
                    recipe,
                    seeds,
                    arguments.out if facts["trial"] else arguments.log or HERE / "results" / arguments.track,
                    curves_name(recipe, own=arguments.updates is None),
                )


def one_kind(arguments: argparse.Namespace, track: dict[str, Any]) -> None:
    """Refuse a folder whose runs have another track, base, other corpora, recordings or heads: its tables compare them all."""
    path, corpus = arguments.out / "settings.json", arguments.corpus and str(arguments.corpus.resolve())
    settings = {"track": arguments.track, "corpus": corpus, "size": arguments.size, "head_steps": arguments.head_steps}
    settings["base"] = compose(track, []).key
    if arguments.speech is not None:
        settings["speech"] = str(arguments.speech.resolve())
    before = read_json(path, "the settings of a speedrun") if path.is_file() else settings
    if changed := [name for name in settings if before.get(name, settings[name]) != settings[name]]:
        name = changed[0]
        raise UserError(
            f"{arguments.out} holds runs with {name} {before.get(name)!r}, not {settings[name]!r}; choose another --out"
        )
    write_json(path, {**before, **settings})


def bill_lines(speedrun: Speedrun, recipes: Sequence[Recipe]) -> list[str]:
    """A table of what recipes cost by arithmetic; labels and first runs are not in it."""
    bills = [speedrun.bill(recipe) for recipe in recipes]
    lines = [
        "| recipe | updates | hours of audio read | PFLOP | share of the first | GPU-hours | GB a process |",
        "|---|---|---|---|---|---|---|",
    ]
    for recipe, each in zip(recipes, bills, strict=True):
        hours = each.epochs * recipe.content["recipe"]["hours"]  # less than updates times batch where batches grow
        gpu = "" if each.gpu_hours is None else f"{each.gpu_hours:.3g}"
        share = each.flops / bills[0].flops
        lines.append(
            f"| {recipe.name} | {each.updates} | {hours:.4g} | {each.flops / 1e15:.3g} | {share:.2f} | {gpu} | "
            f"{each.memory.total / 1e9:.3g} |"
        )
    return lines


def judge(speedrun: Speedrun, recipe: Recipe, seeds: Sequence[int], log: Path, curves: str) -> None:
    """Print whether a recipe reaches the target, and add it to the log of records, and its curves to a file called `curves`."""
    results = [result for seed in seeds if (result := speedrun.result(recipe, seed)) is not None]
    full = compose(speedrun.track, [], name=BASELINE)
    others = [each for each in all_results(speedrun.out) if each["key"] == full.key]
    target = speedrun.track.get("target") or means(others)
    if not target:
        raise UserError("the target of this track is the baseline's own: run `record baseline` first")
    verdict = check(results, target, others)
    print(
        "\n".join(
            [
                f"{recipe.name}: {'reaches the target' if verdict.holds else 'misses the target'}",
                *(f"  {each}" for each in verdict.reasons),
            ]
        )
    )
    row = row_of(results, verdict)
    wall = f"wall clock {row['wall']:.0f} s on {row['threads']} x {row['processor']}"
    print(
        f"  unique audio {row['audio']:.0f} s, encoder frames {row['encoder']:.0f} s, {row['flops'] / 1e15:.3g} PFLOP, {wall}"
    )
    size = parameter_count(last_entries(speedrun.folder(recipe, results[0]["seed"]))[1])
    share = ""
    if others:
        base = parameter_count(last_entries(speedrun.folder(full, others[0]["seed"]))[1])
        share = f", {100 * size / base:.0f} % of the base's"
    print(f"  {size / 1e6:.3g} M parameters of the encoder{share}")
    if any(each["jobs"] > 1 for each in results):
        print(
            "  its wall clock is that of runs beside others (--jobs); time a record in an --out of its own with --jobs 1"
        )
    if any(each["clocks"]["attempts"] > each["clocks"]["commands"] for each in results):
        print("  it was interrupted: what a killed command had computed since its last checkpoint counts in no clock")
    log.mkdir(parents=True, exist_ok=True)
    append(log, row)
    write_curves([speedrun.folder(recipe, each["seed"]) for each in results], log / curves)
    print(f"written: {log / 'records.csv'}, records.md, records.png and {curves}")


def recipes_of(arguments: argparse.Namespace, track: dict[str, Any]) -> list[Recipe]:
    """The recipes of a command line."""
    if arguments.verb in ("switches", "plan"):
        chosen = arguments.names or switches_of(track)
        updates = arguments.updates or [track["short"]]
        return [
            compose(track, [] if each == BASELINE else each.split("+"), count)
            for count in updates
            for each in dict.fromkeys([BASELINE, *chosen])
        ]
    if arguments.verb == "slope":
        full = compose(track, []).updates
        return [compose(track, [], count) for count in arguments.updates or [full // 4, full // 2, full, 2 * full]]
    return [read_record(arguments.record, track, count) for count in arguments.updates or [None]]


if __name__ == "__main__":
    main()
