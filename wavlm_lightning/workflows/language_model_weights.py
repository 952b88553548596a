"""`wavlm lm tune`: weights of a language model for a trained head, searched on validation and kept in its run folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import lightning.pytorch as pl
import numpy as np
import torch
import yaml

from wavlm_lightning.metrics.alignment import aligned
from wavlm_lightning.reports.tables import metric_title
from wavlm_lightning.system.command import as_called
from wavlm_lightning.system.errors import UserError, pip_install
from wavlm_lightning.system.files import check_output, locked, write_json, write_text
from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.system.reading import read_json, reading, sha256
from wavlm_lightning.system.run_folder import BEST, checkpoint, require_run_config
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.tasks.components.beam_search import TUNED, WORD_END, BeamSearch, LanguageModel
from wavlm_lightning.tasks.decoding import DecodedTask, check_decodes
from wavlm_lightning.workflows.fit.messages import quiet
from wavlm_lightning.workflows.predict.head import open_head
from wavlm_lightning.workflows.predict.run_data import data_of_run

TRIALS = "language_model.trials.json"  # in the run folder: what was tried so far
LOCK = "language_model.lock"
# fairseq's ranges (examples/speech_recognition/new/infer.py with Ax, 4-gram).
RANGES = {"weight": (0.0, 8.0), "word_score": (-5.0, 5.0), "silence": (-10.0, 0.0)}
BEAM = 50  # fairseq's default; SUPERB's 5 drops good hypotheses at unusual weights
TEST = "test"  # how splits are called that no search may see


def tune_language_model(
    run: Path,
    lm: Path,
    lexicon: Path | None = None,
    split: str | None = None,
    trials: int = 60,
    beam: int = BEAM,
    threshold: float = 25.0,
    seed: int = 0,
    corpus: Path | None = None,
    device: str | None = None,
) -> list[str]:
    """Search the weights of a language model for a head, and write `RUN/language_model.yaml`.

    The head runs once over the split; its outputs go to a temporary file. The first trial has SUPERB's weights, so that the
    result is never worse than these on the split. The others are drawn by Optuna's TPE. An interrupted search goes on where
    it stopped, and draws what it would have drawn.

    Args:
        run: run folder of an ASR or PR head.
        lm: ARPA file, or with a lexicon a KenLM binary.
        lexicon: words and their letters; None: those of the model, or no words at all (see `LanguageModel`).
        split: of the run's corpus; never the test. None: the one that the run validates on.
        trials: sets of weights to try.
        beam: hypotheses kept at each frame, here and in the file.
        threshold: see `LanguageModel`.
        seed: of the drawn weights.
        corpus: where the corpus is now, if not where the run says.
        device: such as `cuda`; the GPU if there is one by default.

    Returns:
        Lines that say what was found.

    Raises:
        UserError: the split is of the test, the files do not fit the head, or another search runs in the folder.

    Example:
        >>> tune_language_model(Path("runs/asr"), Path("lm.arpa"))[0]
        'runs/asr/language_model.yaml: weight 1.92, word_score 0.41, silence -0.3'
    """
    if trials < 1:
        raise UserError(f"--trials {trials}: give at least 1")
    try:
        import optuna
    except ImportError as error:
        raise UserError(f"wavlm lm tune needs Optuna: {pip_install('sweep')}") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data = data_of_run(run, corpus)
    split = data.splits["valid"] if split is None else split
    _check_split(split, data.splits["test"])
    check_output(run, "RUN")
    head = open_head(run, device)
    task = check_decodes(head.task, str(run))
    task.language_model = None  # what the run was tested with is not searched
    start = LanguageModel(
        None if lexicon is None else str(lexicon.resolve()), str(lm.resolve()), beam=beam, threshold=threshold
    )
    search = task.search_with(start)
    if not search.has_words:
        start = replace(start, word_score=0.0)
    names = ["weight", *(["word_score"] if search.has_words else []), *(["silence"] if WORD_END in task.labels else [])]
    with (
        locked(run / LOCK, f"{run}: another `wavlm lm tune` is searching there; wait for it", temporary=True),
        tempfile.TemporaryFile() as file,
    ):
        facts: dict[str, Any] = {"split": split, "corpus": data.corpus.sha256, "seed": seed}
        facts |= {"beam": beam, "threshold": threshold, "names": names, "model_sha256": sha256(lm)}
        facts |= {"head_sha256": sha256(checkpoint(run, BEST))}
        facts |= {} if lexicon is None else {"lexicon_sha256": sha256(lexicon)}
        heard = Heard(file)
        precision = (require_run_config(run).get("trainer") or {}).get("precision")  # as in the test
        _hear(task, data, split, heard, search, device, precision)
        tried = _search(Trials(run / TRIALS, facts), start, names, trials, seed, search, heard)
    best = min(tried, key=lambda trial: trial["errors"])  # the first of equal ones
    found = replace(start, **{name: best[name] for name in names})
    rates = {"greedy": heard.greedy, "start": tried[0]["errors"], "tuned": best["errors"]}
    kept = {name: facts[name] for name in facts if name.endswith("sha256")}
    searched = {
        **{"run": str(run), "split": split, "corpus": data.corpus.name, "trials": len(tried), "seed": seed},
        **{"metric": task.metric, task.counted: heard.units, "utterances": len(heard.references)},
        "percent": {name: round(100 * errors / heard.units, 4) for name, errors in rates.items()},
        **kept,
    }
    content = {name: value for name, value in asdict(replace(found, searched=searched)).items() if value is not None}
    write_text(run / TUNED, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    lines = [
        f"{run / TUNED}: " + ", ".join(f"{name} {best[name]:.4g}" for name in names),
        f"{metric_title(task.metric)} on {split} ({heard.units:,} {task.counted}): greedy {searched['percent']['greedy']:.2f} %, "
        f"first weights {searched['percent']['start']:.2f} %, best of {len(tried)} trials {searched['percent']['tuned']:.2f} %",
    ]
    if search.note:
        lines.append(search.note)
    for name in names:
        low, high = RANGES[name]
        # A weight near 0 is no sign of a range that is too small.
        if any(end and abs(best[name] - end) < 0.01 * (high - low) for end in (low, high)):
            lines.append(f"note: {name} is at the end of its range, {low:g} to {high:g}")
    lines.append(f"next: {as_called('test', run, '--model.language_model', run / TUNED)}")
    return lines


def _check_split(split: str, test: str) -> None:
    for part in split.split("+"):
        if part in test.split("+") or part.startswith(TEST):
            raise UserError(
                f"--split {split}: {part} is a test split, and weights that are searched there make the test worthless; name "
                "the validation split"
            )


class Heard:
    """References of a split, and what the head says of it: emissions in a file, so that no split is too long for memory.

    Args:
        file: open for reading and writing, empty.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.references: list[str] = []
        self.shapes: list[tuple[int, int]] = []
        self.greedy = 0  # errors without a language model
        self.units = 0  # in all references

    def add(self, emissions: torch.Tensor, reference: str, greedy: str) -> None:
        """Add an utterance with its emissions, float32 `(frames, symbols)`."""
        self.file.write(emissions.numpy().tobytes())
        self.shapes.append((emissions.shape[0], emissions.shape[1]))
        self.references.append(reference)
        edits = aligned(reference.split(), greedy.split()).edits
        self.greedy += edits.errors
        self.units += edits.units

    def __iter__(self) -> Iterator[tuple[torch.Tensor, str]]:
        self.file.seek(0)
        for (frames, symbols), reference in zip(self.shapes, self.references, strict=True):
            content = bytearray(self.file.read(4 * frames * symbols))
            yield torch.from_numpy(np.frombuffer(content, np.float32).reshape(frames, symbols)), reference


class _Listener(pl.Callback):
    """Keeps the emissions of each utterance while Lightning predicts."""

    def __init__(self, heard: Heard, search: BeamSearch, split: str) -> None:
        self.heard, self.search, self.split = heard, search, split

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = sum(trainer.num_predict_batches)
        self.bar = progress_bar(total=total, desc=f"head on {self.split}", unit="batch", leave=False)

    def on_predict_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        assert isinstance(pl_module, DecodedTask)
        references = pl_module.references(batch.targets)
        rows = zip(outputs["outputs"], outputs["lengths"].tolist(), outputs["readable"], references, strict=True)
        for row, frames, said, reference in rows:
            self.heard.add(self.search.emissions(row[:frames]), reference, said[pl_module.text_key])
        self.bar.update()

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.bar.close()


def _hear(
    task: DecodedTask,
    data: TaskData,
    split: str,
    heard: Heard,
    search: BeamSearch,
    device: str | None,
    precision: Any,
) -> None:
    """Run the head over a split, as a test would."""
    data.splits = {**data.splits, "test": split}  # what a prediction reads
    with quiet():
        trainer = pl.Trainer(
            accelerator="cpu" if device == "cpu" else "auto",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            precision=precision,
            callbacks=[_Listener(heard, search, split)],
        )
        trainer.predict(task, data, return_predictions=False)
    if not heard.units:
        raise UserError(f"--split {split}: holds no {task.counted}, so there is nothing to search on")


@dataclass(frozen=True)
class Trials:
    """The trials of a search in a file, written after each; a file of another search is replaced."""

    path: Path
    facts: dict[str, Any]  # all that the results depend on

    def read(self) -> list[dict[str, Any]]:
        """What was tried so far, each with its weights and `errors`."""
        if not self.path.is_file():
            return []
        content = read_json(self.path, "the trials of a search", "remove it, and the search begins anew")
        with reading(self.path, "the trials of a search", "remove it, and the search begins anew"):
            return list(content["trials"]) if content["facts"] == self.facts else []

    def write(self, trials: Sequence[dict[str, Any]]) -> None:
        write_json(self.path, {"facts": self.facts, "trials": list(trials)})


def _search(
    kept: Trials, start: LanguageModel, names: Sequence[str], count: int, seed: int, search: BeamSearch, heard: Heard
) -> list[dict[str, Any]]:
    """The first `count` trials: those that an earlier call has made, and the rest."""
    tried = kept.read()
    bar = progress_bar(total=count, initial=min(len(tried), count), desc="weights", unit="trial", leave=False)
    with bar:
        while len(tried) < count:
            weights = {name: getattr(start, name) for name in names} if not tried else _drawn(tried, names, seed)
            errors = _errors(search.reweighted(replace(start, **weights)), heard)
            tried.append({**weights, "errors": errors})
            kept.write(tried)
            best = min(trial["errors"] for trial in tried)
            bar.set_postfix_str(f"best {100 * best / heard.units:.2f} %", refresh=False)
            bar.update()
    return tried[:count]


def _errors(search: BeamSearch, heard: Heard) -> int:
    """Wrong, missing and additional words or phones of a split."""
    total = 0
    for emissions, reference in heard:
        total += aligned(reference.split(), search.search_row(emissions)[0].text.split()).edits.errors
    return total


def _drawn(tried: Sequence[dict[str, Any]], names: Sequence[str], seed: int) -> dict[str, float]:
    """The weights of the next trial. They depend on the seed and on what was tried, so that a resumed search is the same."""
    import optuna

    drawn = int(np.random.SeedSequence([seed, len(tried)]).generate_state(1)[0])
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=drawn))
    ranges: dict[str, optuna.distributions.BaseDistribution] = {
        name: optuna.distributions.FloatDistribution(*RANGES[name]) for name in names
    }
    for trial in tried:
        params = {name: trial[name] for name in names}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=ranges, value=trial["errors"]))
    return study.ask(ranges).params
