"""Labels, pre-training and probes of a speedrun in one folder, and what they cost on four clocks."""

from __future__ import annotations

import copy
import csv
import shutil
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import yaml
from composing import HERE, Recipe, compose, digest, first_run, rename_labels
from stages import Commands, Stage

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import WavLMConfig
from wavlm_lightning.encoder.checkpoints.formats import ENCODER_KEY
from wavlm_lightning.pretraining.health import Health, Totals
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import Curves, read_curves
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import write_json, write_text
from wavlm_lightning.system.hardware import cpu_bf16_instructions, processor_name, usable_cores
from wavlm_lightning.system.reading import read_json
from wavlm_lightning.system.run_folder import LAST, checkpoint, curve_files
from wavlm_lightning.system.yaml_files import read_yaml
from wavlm_lightning.upstreams.run_checkpoints import read_entries
from wavlm_lightning.workflows.plan import StagePlan, plan
from wavlm_lightning.workflows.plan.training import PreTraining

MASKED = "masked"
"""Column of the masked accuracy, which compares recipes with the same labels only."""


@dataclass(frozen=True)
class Clocks:
    """What a run has cost, labels and first runs included.

    Attributes:
        audio: seconds of crops read, repetitions counted, masked copies not.
        encoder: seconds of frames that the encoder computed in training, every copy counted.
        flops: of training, of teachers, and of encoders that make labels.
        wall: seconds of all commands.
        cpu: seconds of all cores.
        attempts: of the commands; more than their number after interruptions.
        commands: number of timed pieces of work.
    """

    audio: float = 0.0
    encoder: float = 0.0
    flops: float = 0.0
    wall: float = 0.0
    cpu: float = 0.0
    attempts: int = 0
    commands: int = 0

    def __add__(self, other: Clocks) -> Clocks:
        return Clocks(*(mine + its for mine, its in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @classmethod
    def of(cls, stage: Stage, **others: float) -> Clocks:
        """Those of a timed stage."""
        body = stage.body
        return cls(wall=body["seconds"], cpu=body["cpu_seconds"], attempts=body["attempts"], commands=1, **others)


class Speedrun:
    """All runs in one folder.

    Args:
        track: content of a file in `tracks`.
        out: the folder.
        commands: runs what is run.
        corpus: folder with the track's corpora; None to make them in `out`.
        size: of the mini corpora that are made; the track's if None.
        speech: folder of recordings for the track that has no other corpora, see experiments/real_speech.
        head_steps: updates of every head; those of configs/superb/mini if None.
        facts: kept with every result: commit, jobs, ...
    """

    def __init__(
        self,
        track: Mapping[str, Any],
        out: Path,
        commands: Commands,
        corpus: Path | None = None,
        size: str | None = None,
        speech: Path | None = None,
        head_steps: int | None = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.track, self.out, self.commands, self.head_steps = track, out, commands, head_steps
        self.given, self.speech = corpus is not None, speech
        self.corpus = out / "corpus" if corpus is None else corpus
        self.size = size or track["corpora"].get("size")
        self.facts = dict(facts or {})
        # On a CPU it is not timed: a resumed run must get the same.
        self.precision = "32-true" if track["device"] == "cpu" and not cpu_bf16_instructions() else "bf16-mixed"
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    @property
    def pretrain_corpus(self) -> Path:
        return self.corpus / self.track["corpora"]["pretrain"]

    def prepare(self) -> None:
        """Make the corpora, which no clock counts, unless they are given."""
        corpora = self.track["corpora"]
        wanted = [corpora["pretrain"], *corpora["others"]]
        if not self.given and corpora["recipe"] == "mini":
            words = ["prepare", "mini", "--out", self.corpus, "--size", self.size, "--datasets", *wanted]
            self.commands.run(words, self.out / "prepare.txt")
        elif not self.given and corpora["recipe"] == "real_speech":
            prepare_real_speech(self.speech, self.corpus)
        for name in wanted:
            if not (self.corpus / name / "corpus.json").is_file():
                raise UserError(
                    f"no corpus {name} in {self.corpus}; make it with `wavlm prepare`, and name the folder with --corpus"
                )
            made = Corpus.open(self.corpus / name).body["source"].get("size")
            if corpora["recipe"] == "mini" and made != self.size:
                raise UserError(
                    f"{self.corpus / name} is the mini corpus of size {made}, and these runs are of size {self.size}; name "
                    f"another folder with --corpus, or give --size {made} for a trial"
                )

    def folder(self, recipe: Recipe, seed: int) -> Path:
        """The run folder of a recipe's seed."""
        return self.out / "runs" / recipe.key / f"seed{seed}"

    def result(self, recipe: Recipe, seed: int) -> dict[str, Any] | None:
        """The result of a finished run."""
        path = self.folder(recipe, seed) / "result.json"
        return (
            read_json(path, "the result of a speedrun", "remove it, and it is made again") if path.is_file() else None
        )

    def run(self, recipe: Recipe, seed: int) -> dict[str, Any]:
        """Make labels, pre-train and probe, each unless it is done; the result is kept in the run's folder."""
        done = self.result(recipe, seed)
        if done is not None:
            return done
        clocks = self.pretrain(recipe, seed)
        folder = self.folder(recipe, seed)
        # The clocks are those of the call that pre-trained; a later call may have trained the heads.
        trained = Stage(folder / "pretrain.json").body
        facts = {name: trained.get(name, value) for name, value in self._facts().items()}
        result = {
            "recipe": recipe.name,
            "key": recipe.key,
            "switches": list(recipe.switches),
            "supervised": recipe.supervised,
            "budget": recipe.budget,
            "updates": recipe.updates,
            "seed": seed,
            "figures": {**self.probe(recipe, seed), **masked_accuracy(folder)},
            "clocks": asdict(clocks),
            **facts,
        }
        write_json(folder / "result.json", result)
        return result

    def _facts(self) -> dict[str, Any]:
        return {"threads": self.commands.threads, "processor": processor_name(), **self.facts}

    def bill(self, recipe: Recipe) -> PreTraining:
        """What `wavlm plan` says of a recipe, without its labels and first runs."""
        path = self.out / "plans" / f"{recipe.key}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Phones, which nobody has counted yet, count as the clusters of the base.
        base = next(iter(self.track["codebooks"].values()))["fit"]["clusters"]
        sizes = {name: how.get("fit", {}).get("clusters", base) for name, how in recipe.codebooks.items()}
        codebook = {"clusters": next(iter(sizes.values()), None)} if recipe.codebooks else None
        section = {**recipe.content["recipe"], "codebook": codebook, "label_sizes": sizes}
        write_text(path, yaml.safe_dump({**recipe.content, "recipe": section}, sort_keys=False))
        return planned(path).training

    def pretrain(self, recipe: Recipe, seed: int) -> Clocks:
        """Train an encoder after what its labels need; the clocks of all of it."""
        folder = self.folder(recipe, seed)
        with self._lock_of(str(folder)):  # a first run may serve several
            return self._pretrain(recipe, seed, folder)

    def _pretrain(self, recipe: Recipe, seed: int, folder: Path) -> Clocks:
        made = {name: self.make_labels(name, how, seed) for name, how in recipe.codebooks.items()}
        content = copy.deepcopy(recipe.content)
        rename_labels(content, {name: labels for name, (labels, _) in made.items()})
        content["data"]["init_args"] |= {"corpus": str(self.pretrain_corpus), "seed": seed}
        content["model"]["init_args"]["seed"] = seed
        if noise := self.track["corpora"].get("noise"):
            content["data"]["init_args"]["noise_corpus"] = str(self.corpus / noise)
        content["trainer"] |= {"default_root_dir": str(folder), "precision": self.precision}
        sizes = {labels: self.size_of(labels) for labels, _ in made.values()}
        content["recipe"] |= {
            "codebook": {"clusters": next(iter(sizes.values()))} if sizes else None,
            "label_sizes": sizes,
        }
        path = folder / "recipe.yaml"
        if not path.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, yaml.safe_dump(content, sort_keys=False))
        stage = Stage(folder / "pretrain.json")
        if not stage.done:
            resumed = ["--ckpt_path", LAST] if checkpoint(folder, LAST).exists() else []
            if not resumed:  # killed before the first checkpoint
                for name in ("checkpoints", "curves"):
                    shutil.rmtree(folder / name, ignore_errors=True)
            stage.run(self.commands, folder / "log.txt", ["fit", "-c", path, *resumed], **self._facts())
        total = Clocks.of(stage, **training_costs(folder))
        for _, clocks in made.values():
            total += clocks
        return total

    def size_of(self, labels: str) -> int:
        """Number of labels of a codebook."""
        return int(read_json(self.out / "codebooks" / labels / "codebook.json", "a codebook")["size"])

    def make_labels(self, name: str, how: Mapping[str, Any], seed: int) -> tuple[str, Clocks]:
        """Make a codebook and its labels, unless they are there; their name in the corpus, and what they cost.

        Labels from an encoder are made for every seed, by a first run with the same seed; others once. In a corpus that several
        folders use, each has its own: labels that are there would cost nothing.
        """
        recipe, clocks = first_run(self.track, how), Clocks()
        where = str(self.out.resolve()) if self.given else None
        labels = f"{name}-{digest([how, recipe and [recipe.key, seed], where])}"
        folder = self.out / "codebooks" / labels
        with self._lock_of(labels):
            options = words_of(how.get("fit") or how.get("phones") or {})
            recipe_codebook: dict[str, Any] | None = None
            if recipe is not None:
                clocks += self.pretrain(recipe, seed)
                run = self.folder(recipe, seed)
                options += ["--encoder", run]
                recipe_codebook = {
                    "one_pass": not how.get("apply"),
                    "checkpoint": str(run),
                    "layer": how["fit"].get("layer"),
                    "clusters": how["fit"]["clusters"],
                }
            stage = Stage(folder.with_suffix(".json"))
            kind = "fit" if "fit" in how else "phones"
            make = ["codebook", kind, self.pretrain_corpus, *options, "--out", folder]
            apply = [
                "codebook",
                "apply",
                folder,
                self.pretrain_corpus,
                "--name",
                labels,
                *words_of(how.get("apply") or {}),
            ]
            lines = [apply] if (folder / "codebook.json").is_file() else [make, apply]
            if recipe and lines == [make, apply] and not how.get("apply"):  # the encoder hears the corpus once
                lines = [[*make, "--apply", labels]]
            stage.run(self.commands, self.out / "codebooks" / f"{labels}.txt", *lines)
            flops = 0.0 if recipe_codebook is None else self._labelling_flops(folder, recipe_codebook)
        return labels, clocks + Clocks.of(stage, flops=flops)

    def _labelling_flops(self, folder: Path, codebook: Mapping[str, Any]) -> float:
        """Operations of the encoder that makes labels, as `wavlm plan` counts them for the base with this codebook."""
        recipe, splits = compose(self.track, [], 1), Corpus.open(self.pretrain_corpus).body["splits"].values()
        heard = {"codebook": dict(codebook), "hours": sum(split["hours"] for split in splits)}
        content = {**recipe.content, "recipe": {**recipe.content["recipe"], **heard}}
        path = folder / "plan.yaml"
        write_text(path, yaml.safe_dump(content, sort_keys=False))
        labelling = planned(path).labelling
        assert labelling is not None
        return labelling.flops

    def _lock_of(self, name: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(name, threading.Lock())

    def probe(self, recipe: Recipe, seed: int) -> dict[str, float]:
        """The headline of every head of the track on the frozen encoder, with the demo's configurations."""
        folder, tasks = self.folder(recipe, seed), self.track["heads"]
        label = recipe.name
        words = ["superb", f"{label}={folder}", "--data", self.corpus, "--output", folder / "heads", "--tasks", *tasks]
        # One thread a head, as in the demo: the number of threads moves the last digits.
        words += ["--jobs", usable_cores()] if self.track["device"] == "cpu" else []
        words += [] if self.head_steps is None else ["--steps", self.head_steps]
        stage = Stage(folder / "heads.json")
        stage.run(self.commands, folder / "heads.txt", words)
        with suppress(OSError):
            shutil.rmtree(folder / "heads" / "cache")
        named = [Path(task).stem for task in tasks]
        return {task: ResultCard.read(folder / "heads" / label / task).value for task in named}


def prepare_real_speech(speech: Path | None, out: Path) -> None:
    """Make the corpora of experiments/real_speech: `all`, `noise`, and `pr`, the English prompts with their phones."""
    if speech is None:
        raise UserError("this track needs recordings; name their folder with --speech, see experiments/real_speech")
    spec = spec_from_file_location("real_speech", HERE.parent / "real_speech" / "run.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    module.prepare(speech, out)
    if not (out / "pr").exists():
        (out / "pr").symlink_to("english")


_PLANNING = threading.Lock()


def planned(path: Path) -> StagePlan:
    """`wavlm plan` of a configuration; one at a time, because its parser is not made for threads."""
    with _PLANNING:
        return plan(str(path))[-1]


def words_of(options: Mapping[str, Any]) -> list[object]:
    """Options of a command: `{level_normalised: true, clusters: 100}` as `--level-normalised --clusters 100`."""
    words: list[object] = []
    for name, value in options.items():
        words += [
            f"--{name.replace('_', '-')}",
            *([] if value is True else value if isinstance(value, list) else [value]),
        ]
    return words


def curves_of(folder: Path) -> Curves:
    """The curves of a pre-training run."""
    return read_curves(curve_files(folder))


def training_costs(folder: Path) -> dict[str, float]:
    """Audio, frames and operations of a finished pre-training run.

    Audio and frames are those that the run has counted (`health/audio_seconds`, `health/encoder_seconds`), up to its last
    update, which the curves reach only where it is logged. Operations are those of `wavlm plan` for its configuration, at
    the audio that was read.
    """
    totals, config = last_entries(folder)
    audio, frames = totals.audio + totals.new[0], totals.frames + totals.new[1]
    hours = read_yaml(folder / "recipe.yaml", "a recipe")["recipe"]["hours"]
    training = planned(folder / "recipe.yaml").training
    flops = training.flops * audio / (training.epochs * hours * 3600)
    return {"audio": audio, "encoder": frames / config.frame_rate, "flops": flops}


def last_entries(folder: Path) -> tuple[Totals, WavLMConfig]:
    """What a run of one process has counted up to its last checkpoint, and the shape of its encoder."""
    entries = read_entries(checkpoint(folder, LAST))
    return Totals(**entries["callbacks"][Health.__qualname__]["totals"]), WavLMConfig.from_dict(entries[ENCODER_KEY])


def masked_accuracy(folder: Path) -> dict[str, float]:
    """Masked accuracy of the last validation, %; nothing without such an objective."""
    curve = curves_of(folder).get("valid/masked_accuracy")
    return {} if curve is None else {MASKED: 100 * curve.last}


CURVES = ("train/total_loss", "valid/loss", "valid/masked_accuracy")


def curves_name(recipe: Recipe, own: bool) -> str:
    """The file of a record's curves; with a budget that is not its `own` (`--updates`) another one for each."""
    return f"{recipe.name}_curves.csv" if own else f"{recipe.name}_{recipe.budget}_curves.csv"


def write_curves(folders: Sequence[Path], path: Path) -> None:
    """Write the curves of the seeds of a recipe as rows of seed, update, name and value."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("seed", "update", "curve", "value"))
        for folder in folders:
            curves = curves_of(folder)
            for name in CURVES:
                series = curves.get(name)
                for step, value in zip(series.steps, series.values, strict=True) if series is not None else ():
                    writer.writerow((folder.name.removeprefix("seed"), step, name, f"{value:.4g}"))
