"""The teacher of `wavlm pseudo-label`: a trained recogniser, how it decodes, and what it has learned from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.loading.batching import plan_batches
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.reading import read_json, sha256
from wavlm_lightning.system.run_folder import BEST, checkpoint, require_run_config
from wavlm_lightning.tasks import TaskData
from wavlm_lightning.tasks.components.beam_search import TUNED, BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.confidence import LengthNormalisation, Scores, path_scores
from wavlm_lightning.tasks.content.phoneme_recognition import PAUSE
from wavlm_lightning.tasks.decoding import DecodedTask, check_decodes
from wavlm_lightning.workflows.predict.head import TrainedHead, open_head
from wavlm_lightning.workflows.predict.run_data import data_of_run


class Teacher:
    """A trained recogniser, how it decodes, and what it has learned from.

    Args:
        run: its run folder.
        lm: a language model, see `pseudo_label`.
        batch_seconds: audio in a batch.
        min_seconds: of the shortest utterance that it hears.
        max_seconds: of the longest one.
        device: asked for by the user.

    Raises:
        UserError: the run holds no recogniser, or the language model does not fit it.
    """

    def __init__(
        self,
        run: Path,
        lm: Path | None,
        batch_seconds: float,
        min_seconds: float,
        max_seconds: float,
        device: str | None,
    ) -> None:
        require_run_config(run)
        self.run, self.device = run, device
        self.batch_seconds, self.min_seconds, self.max_seconds = batch_seconds, min_seconds, max_seconds
        self.model: LanguageModel | None
        self.model, self.note = (None, "") if lm is None else _language_model(run, lm)
        self.data = data_of_run(run, None)
        self.sha256 = sha256(checkpoint(run, BEST))

    def __getstate__(self) -> dict[str, Any]:
        # Processes that hear open the head themselves.
        return {
            name: value for name, value in self.__dict__.items() if name not in ("head", "search", "data", "corpus")
        } | {"factor": self.factor}

    @cached_property
    def head(self) -> TrainedHead:
        head = open_head(self.run, self.device)
        check_decodes(head.task, str(self.run)).language_model = None
        return head

    @property
    def task(self) -> DecodedTask:
        return check_decodes(self.head.task, str(self.run))

    @cached_property
    def search(self) -> BeamSearch | None:
        return None if self.model is None else self.task.search_with(self.model)

    @cached_property
    def factor(self) -> float:
        """What training multiplied waveforms by."""
        return self.data.factor

    @cached_property
    def corpus(self) -> Corpus | None:
        """The corpus on which it was trained, if it is still there."""
        try:
            return Corpus.open(self.data.path)
        except UserError:
            return None

    @property
    def facts(self) -> dict[str, Any]:
        """All of it that transcripts depend on."""
        limits = [self.batch_seconds, self.min_seconds, self.max_seconds]
        return {"teacher": self.sha256, "decoder": self.decoder, "limits": limits, "gain": self.factor}

    @cached_property
    def decoder(self) -> dict[str, Any]:
        """How it decodes: `greedy`, or files, weights and hashes of a beam search."""
        if self.model is None:
            return {"kind": "greedy"}
        files = {name: path for name in ("model", "lexicon") if (path := getattr(self.model, name)) is not None}
        hashes = {f"{name}_sha256": sha256(Path(path)) for name, path in files.items()}
        weights = {k: v for k, v in asdict(self.model).items() if v is not None and k not in (*files, "searched")}
        return {"kind": "beam search", **{name: str(path) for name, path in files.items()}, **hashes, **weights}

    @property
    def labelled(self) -> list[dict[str, Any]]:
        """True labels behind its transcripts: its own, those of its teachers, and those that its encoder has seen."""
        return self.task.labels_behind

    @property
    def round(self) -> int:
        """How often pseudo-labels were made before, and once more."""
        return int(self.task.trained.get("pseudo_labelled", {}).get("round", 0)) + 1

    def learned_from(self, corpus: Corpus) -> bool:
        """Whether a corpus is the one on which it was trained."""
        return self.corpus is not None and self.corpus.sha256 == corpus.sha256

    def known(self, corpus: Corpus) -> dict[str, set[str]]:
        """Name of a shard -> keys of the utterances of a corpus whose true labels it was trained on."""
        if not self.learned_from(corpus):
            return {}
        train, found = _stage(self.data, self.task, "train"), dict[str, set[str]]()
        for number in range(len(train)):
            shard, place = train.locate(number)
            found.setdefault(shard.path.name, set()).add(shard.keys[place])
        return found

    @torch.inference_mode()
    def hear(self, shards: Sequence[tuple[ShardIndex, int]]) -> Iterator[tuple[int, str, Scores | None]]:
        """Number, transcript and scores of each utterance (a shard and a place in it), in batches of similar length."""
        samples = np.array([shard.samples[place] for shard, place in shards], dtype=np.int64)
        longest = float(samples.max(initial=0)) / SAMPLE_RATE
        for batch in plan_batches(samples, batch_seconds=max(self.batch_seconds, longest), shuffle=False):
            audio = [shards[number][0].waveform(shards[number][1]) * np.float32(self.factor) for number in batch]
            outputs, lengths = self.task.answers(Waveforms.pad(audio).to(self.head.device))
            for number, logits, frames in zip(batch.tolist(), outputs, lengths.tolist(), strict=True):
                shard, place = shards[number]
                if not torch.isfinite(logits[:frames]).all():
                    raise UserError(
                        f"{shard.path}: the answer for utterance {shard.keys[place]!r} holds NaN or infinite numbers; the head "
                        f"of {self.run} has diverged in training"
                    )
                yield number, *self.transcript(logits[:frames])

    def transcript(self, logits: torch.Tensor) -> tuple[str, Scores | None]:
        """The transcript of logits `(frames, labels)` and its scores; an empty one has none."""
        if self.search is not None:
            emissions = self.search.emissions(logits)
            found = self.search.best_path(emissions)
            return found.text, path_scores(emissions, found.symbols, found.score, found.acoustic)
        task = self.task
        log_probabilities = logits.float().log_softmax(-1).cpu()
        best, path = log_probabilities.max(-1)
        # Special symbols and pauses stand for no letter or phone, so that they are as silent as the blank.
        silent = path < task.special
        if PAUSE in task.labels:
            silent |= path == task.labels.index(PAUSE)
        symbols = path.masked_fill(silent, 0).tolist()
        text = task.spell([number for number, _ in groupby(symbols) if number])
        total = float(best.sum())
        return text, path_scores(log_probabilities, symbols, total, total)

    def normalisation(self, folder: Path, needed: bool) -> LengthNormalisation | None:
        """Scores by length, fitted on the validation split of the run; None if it is not there and not `needed`."""
        if self.corpus is None:
            if needed:
                raise UserError(
                    f"--score normalised: is fitted on the validation split of {self.run}, and its corpus {self.data.path} is "
                    "not there; copy it back, or choose another --score"
                )
            return None
        path, facts = folder / "validation.json", {**self.facts, "corpus": self.corpus.sha256}
        kept = read_json(path, "scores of the validation split", "remove it") if path.is_file() else {}
        if kept.get("facts") != facts:
            split = _stage(self.data, self.task, "valid")
            places = [split.locate(number) for number in range(len(split))]
            shortest = self.task.upstream.shortest
            heard = self.hear([(shard, place) for shard, place in places if shard.samples[place] >= shortest])
            rows = [[scores.total, scores.tokens] for _, _, scores in heard if scores is not None]
            kept = {"facts": facts, "rows": rows}
            write_json(path, kept, indent=None)
        where = f"--score normalised: split {self.data.splits['valid']} of {self.data.path}"
        try:
            totals, tokens = zip(*kept["rows"], strict=True) if kept["rows"] else ((), ())
            return LengthNormalisation.fit(totals, tokens, where)
        except UserError:
            if needed:
                raise
            return None


def _stage(data: TaskData, task: DecodedTask, name: str) -> Any:
    data.needs = (task.needs(),)
    return data.open_stage((name,))[name]


def _language_model(run: Path, lm: Path) -> tuple[LanguageModel, str]:
    """The language model that `--lm` means, and a sentence about its weights."""
    if lm.is_dir() or lm.suffix in (".yaml", ".yml"):
        model, note = LanguageModel.read(lm).for_head(checkpoint(run, BEST))
        return model, f"weights of {lm}" + (", searched for another head" if note else "")
    if not lm.is_file():
        raise UserError(f"--lm {lm}: no such file; make one with `wavlm lm TEXT... --out {lm}`")
    if (run / TUNED).is_file():
        tuned = LanguageModel.read(run / TUNED)
        wanted = (tuned.searched or {}).get("model_sha256")
        if wanted == sha256(lm):
            model, note = tuned.for_head(checkpoint(run, BEST))
            return replace(model, model=str(lm)), f"weights of {run / TUNED}" + (
                ", searched for another head" if note else ""
            )
        raise UserError(
            f"--lm {lm}: the weights in {run / TUNED} were searched with another file; search them with `wavlm lm tune {run} "
            f"--lm {lm}`, or name that file"
        )
    return LanguageModel(
        None, str(lm)
    ), f"default weights, since {run / TUNED} is not there (`wavlm lm tune` searches them)"
