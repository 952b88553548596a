"""What the experiments of the full stack share: encoders, heads heard on other corpora, tables of figures."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.reports.cards import CARD_NAME, ResultCard, metric_text, scale
from wavlm_lightning.reports.tables import MISSING, Table, metric_title, text_table
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_json
from wavlm_lightning.system.run_folder import read_run_config
from wavlm_lightning.workflows.demo.stages import RECIPE
from wavlm_lightning.workflows.fit.head_runs import RECORD, HeadRun, run_heads
from wavlm_lightning.workflows.recipe.chain import chain
from wavlm_lightning.workflows.superb.suites import corpus_name

ABLATIONS = Path(__file__).resolve().parents[1] / "ablations" / "run.py"
ENCODERS = {"full": "pre-trained", "no_denoising": "pre-trained without mixing"}  # variants of experiments/ablations
RANDOM = f"random:{chain(RECIPE)[-1].content['model']['init_args']['encoder']}"  # the shape of both
ORACLE = "oracle"
Cards = Mapping[tuple[str, str], ResultCard]  # by task and row


def pretrain(
    out: Path, updates: int, encoder: Path | None, size: str, names: Sequence[str] = tuple(ENCODERS)
) -> dict[str, Path]:
    """Label -> folder of an encoder of the demo's recipe, made by `experiments/ablations` unless the first is given.

    Args:
        out: their folder is `encoders` in it.
        updates: of each.
        encoder: a run that is there, in place of the first.
        size: of the corpora; that of the demo's recipe unless it is `tiny`.
        names: the variants, keys of `ENCODERS`.

    Raises:
        UserError: `encoder` was trained for another number of updates than what is made beside it.
    """
    missing = [name for name in names if encoder is None or name != next(iter(ENCODERS))]
    trainer = read_run_config(encoder).get("trainer") if encoder is not None and missing else None
    if trainer and (had := trainer.get("max_steps", updates)) != updates:
        raise UserError(
            f"{encoder} has {had} updates, the encoder beside it would have {updates}; give --updates {had}"
        )
    if missing:
        options = ["--recipe", RECIPE, "--steps", updates, "--seeds", 1, "--variants", *missing, "--tasks"]
        options += ["--size", size] if size == "tiny" else []
        subprocess.run([*map(str, [sys.executable, ABLATIONS, "--out", out / "encoders", *options])], check=True)
    found = {ENCODERS[name]: out / "encoders" / "pretrain" / f"{name}-0" for name in names}
    return {**found, ENCODERS["full"]: encoder} if encoder is not None else found


def test_heads(
    out: Path,
    suite: Path,
    heads: Mapping[tuple[str, str], Path],
    corpora: Mapping[str, Corpus],
    jobs: int,
    more: Sequence[str] = (),
) -> tuple[Cards, list[str]]:
    """Trained heads, or those without training, on other corpora, and what failed.

    Returns:
        (task, row) -> card, without the tasks for which there is no corpus; sentences on the rows that failed.

    Args:
        out: folder of the runs, which is laid out as `suite` is.
        suite: folder of the heads, the output of `run_superb`.
        heads: (task, row) -> its folder in `suite`.
        corpora: the task, or the name of its mini corpus -> the corpus that is heard instead.
        jobs: runs at a time.
        more: further options of each test.

    Raises:
        UserError: `out` holds results of other heads.
    """
    runs, failures = {}, []
    for (task, row), folder in heads.items():
        name, checkpoint = corpus_name(task, mini=True), folder / "checkpoints" / "best.ckpt"
        name = task if task in corpora else name
        trains = (folder / "checkpoints").is_dir()
        if name in corpora and (checkpoint.exists() or not trains):
            # What trains has left its configuration; what does not, the options of its test.
            options = ["-c", str(folder / "config.yaml")]
            if not trains:
                options = read_json(folder / RECORD, "the record of a run", "run the suite again")["options"]
            options = [*options, "--data.corpus", str(corpora[name].directory)]
            options += ["--data.cache", "null", *(["--ckpt_path", str(checkpoint)] if trains else []), *more]
            runs[task, row] = HeadRun(out / folder.relative_to(suite), options, fits=False)
    for run in runs.values():
        run.check()
    try:
        run_heads(list(runs.values()), lambda run: None, jobs)
    except UserError as error:
        failures.append(str(error))
    cards = {place: ResultCard.read(run.folder) for place, run in runs.items() if (run.folder / CARD_NAME).is_file()}
    return cards, failures


def figures(cards: Cards, wanted: str | None = None) -> Table | None:
    """Rows by metrics: the headlines of each task, or the metrics whose names hold `wanted`."""
    columns: dict[tuple[str, str], str] = {}
    for (task, _), card in cards.items():
        for name in card.shown if wanted is None else [name for name in card.metrics if wanted in name]:
            columns.setdefault((task, name), f"{card.task} {metric_title(name)}")
    if not columns:
        return None
    body = []
    for row in dict.fromkeys(row for _, row in cards):
        cells = []
        for task, name in columns:
            card = cards.get((task, row))
            cells.append(metric_text(card.metrics[name]) if card is not None and name in card.metrics else MISSING)
        if any(cell != MISSING for cell in cells):
            body.append([row, *cells])
    return text_table(["row", *columns.values()], body)


def conditions(cards: Cards, name: str) -> Table | None:
    """The headline of a task under each condition of its test, in its unit: conditions by rows of the suite."""
    found = {row: card for (task, row), card in cards.items() if task == name and card.details.get("conditions")}
    if not found:
        return None
    card = next(iter(found.values()))
    body = []
    for condition in card.details["conditions"]:
        cells = []
        for each in found.values():
            value = each.details["conditions"].get(condition, {}).get(each.headline)
            shown = None if value is None else {**each.main, "value": scale(each.main) * value}
            cells.append(MISSING if shown is None else metric_text(shown))  # type: ignore[arg-type]
        body.append([condition.replace("_", " "), *cells])
    return text_table([f"{card.task} {metric_title(card.headline)}", *found], body)


def failed(failures: Sequence[str]) -> list[str]:
    """The end of a page that says what is missing from its tables."""
    return ["## Failed", *(f"- {failure}" for failure in failures)] if failures else []


def write_csv(path: Path, parts: Mapping[str, Cards]) -> None:
    """Every figure of every card."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "task", "row", "metric", "value", "unit", "better", "chance", "utterances"])
        for data, cards in parts.items():
            for (task, row), card in cards.items():
                for name, metric in card.metrics.items():
                    chance = metric.get("chance", "")
                    words = [metric["value"], metric["unit"], metric["better"], chance, card.corpus["utterances"]]
                    writer.writerow([data, task, row, name, *words])
