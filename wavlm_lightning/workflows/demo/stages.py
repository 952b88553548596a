"""Stages of the demo: synthetic corpus, codebook, pre-training and heads, each a `wavlm` command; then the report."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wavlm_lightning.encoder.checkpoints.huggingface import without_a_class
from wavlm_lightning.encoder.config import PRESETS, WavLMConfig
from wavlm_lightning.system.command import wavlm
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder
from wavlm_lightning.system.ledger import Ledger, Stage
from wavlm_lightning.system.run_folder import read_run_config
from wavlm_lightning.workflows.demo.heads import TASKS, UPSTREAMS, all_heads
from wavlm_lightning.workflows.fit.head_runs import run_heads
from wavlm_lightning.workflows.fit.ownership import resumption
from wavlm_lightning.workflows.recipe.chain import Configuration, chain, short_hash
from wavlm_lightning.workflows.recipe.labels import fit_options
from wavlm_lightning.workflows.recipe.stage import pasteable

RECIPE = "tiny"  # of configs/pretrain: its section `recipe` says corpus, codebooks and the configurations that come before it
FEW_CLUSTERS = 30  # of the corpus of size `tiny`, for tests, which has too few frames for more
NOTES = (
    "Held-out utterances of pre-training are of speakers that it never heard.",
    "PR and KS are tested on speakers that neither pre-training nor the heads have heard.",
    "SID is a closed set: train and test share their speakers, as they must, but pre-training heard none of them.",
    "Every upstream is frozen; only a small head is trained on it.",
    "Both the speech and the encoder are small on purpose. These figures show that every step works; they say nothing about "
    "WavLM Base, and must not be compared with published SUPERB scores.",
)


def run_demo(
    out: Path, size: str | None = None, steps: int | None = None, head_steps: int | None = None, seed: int = 0
) -> Path:
    """Make the corpus, pre-train a tiny WavLM, train and test three heads on three upstreams, and write the report.

    Finished stages are skipped; an interrupted one continues where it stopped.

    Args:
        out: folder for everything.
        size: of the mini corpus: `tiny`, `mini`, `medium` or `pretrain`; that of configs/pretrain/tiny.yaml by default.
        steps: updates of pre-training, of each if tiny.yaml names an earlier one; those of the configuration by default.
        head_steps: updates of each head; those of configs/superb/mini by default.
        seed: of corpus and pre-training.

    Returns:
        The path of the report (HTML).

    Raises:
        UserError: a stage failed, `out` holds a demo with other settings, or a demo runs there already.
    """
    check_output(out)
    configurations = chain(RECIPE)
    for each in configurations:
        check(each)
    check_names(configurations)
    demo = _Demo(out, configurations, size or configurations[-1].recipe.size, steps, head_steps, seed)
    stages = [Stage("corpus", demo.make_corpus)]
    for each in configurations:
        of = "" if each is configurations[-1] else f" of {each.name}"
        if each.recipe.codebook is not None:
            stages.append(Stage(f"codebook{of}", partial(demo.make_codebook, each)))
        stages.append(Stage(f"pre-training{of}", partial(demo.pretrain, each)))
    stages.append(Stage("heads", demo.fit_heads))
    settings: dict[str, Any] = {"size": demo.size, "steps": steps, "head_steps": head_steps, "seed": seed}
    settings["recipe"] = {each.name: short_hash(each.content) for each in configurations}
    with own_folder(out, "demo"):
        ledger = Ledger(out / "stages.json", settings, "demo", newer=["recipe"])
        for number, stage in enumerate(stages, start=1):
            ledger.run(stage, number, len(stages) + 1)
        print(f"[{len(stages) + 1}/{len(stages) + 1}] report", flush=True)
        return demo.report()


class _Demo:
    def __init__(
        self,
        out: Path,
        configurations: Sequence[Configuration],
        size: str,
        steps: int | None,
        head_steps: int | None,
        seed: int,
    ) -> None:
        self.out, self.last, self.size, self.seed = out, configurations[-1], size, seed
        self.steps, self.head_steps = steps, head_steps
        self.corpus = out / "corpus"

    def make_corpus(self) -> None:
        options = ("--size", self.size, "--seed", self.seed, "--out", self.corpus)
        wavlm("prepare", "mini", *options, "--datasets", "pretrain", *TASKS)

    def _folder(self, what: str, name: str) -> Path:
        """The codebook or the run of a configuration; those of the last have no name of their own."""
        return self.out / (what if name == self.last.name else f"{what}-{name}")

    def make_codebook(self, configuration: Configuration) -> None:
        pretrain, out = self.corpus / "pretrain", self._folder("codebook", configuration.name)
        codebook = configuration.recipe.codebook
        assert codebook is not None
        name = configuration.content["data"]["init_args"]["labels"]
        if not (out / "codebook.json").is_file():
            clusters = min(codebook.clusters or 0, FEW_CLUSTERS) if self.size == "tiny" else codebook.clusters
            options: list[Any] = ["--clusters", clusters, *fit_options(codebook, name)]
            if codebook.encoder is not None:
                options += [
                    "--encoder",
                    self._folder("pretrain", Path(codebook.encoder).stem),
                    "--layer",
                    codebook.layer,
                ]
            wavlm("codebook", "fit", pretrain, *options, "--out", out)
        soft = codebook.soft
        if soft is not None and self.size == "tiny":
            soft = min(soft, FEW_CLUSTERS)
        wavlm("codebook", "apply", out, pretrain, "--name", name, *(() if soft is None else ("--soft", soft)))

    def pretrain(self, configuration: Configuration) -> None:
        folder = self._folder("pretrain", configuration.name)
        arguments: list[Any] = ["-c", pasteable(configuration.path), "--data.corpus", self.corpus / "pretrain"]
        arguments += ["--trainer.default_root_dir", folder, "--model.seed", self.seed, "--data.seed", self.seed]
        if self.steps is not None:
            every = max(1, min(300, self.steps // 4))
            arguments += ["--trainer.max_steps", self.steps, "--trainer.val_check_interval", every]
        if resume := resumption(folder):
            # With the threads and the precision it began with: fit takes the former from the run folder.
            precision = read_run_config(folder)["trainer"]["precision"]
            wavlm("fit", *arguments, "--trainer.precision", precision, *resume)
        else:
            wavlm("fit", *arguments, *fastest_options())

    def fit_heads(self) -> None:
        from wavlm_lightning.system.progress import progress_bar

        model = self.last.content["model"]["init_args"]
        shape = model["encoder"], model.get("encoder_overrides")
        heads = [head.run() for head in all_heads(self.out, self.head_steps, *shape)]
        with progress_bar(total=len(heads), desc="heads", unit="head") as bar:
            bar.refresh()
            run_heads(heads, lambda _: bar.update())

    def report(self) -> Path:
        from wavlm_lightning.reports.cards import ResultCard
        from wavlm_lightning.workflows.report import write_report

        cards = [ResultCard.read(head.folder) for head in all_heads(self.out)]
        order = list(UPSTREAMS)
        for card in sorted(cards, key=lambda c: (TASKS.index(c.task.lower()), order.index(c.upstream["label"]))):
            for name in card.shown:
                value, unit = card.metrics[name]["value"], card.metrics[name]["unit"]
                print(f"  {card.task:<4} {card.upstream['label']:<15} {name:<9} {value:5.1f} {unit}")
        model = self.last.content["model"]["init_args"]
        shape = WavLMConfig.preset(model["encoder"], **(model.get("encoder_overrides") or {}))
        commands = next_commands(self.out, transformers=without_a_class(shape) is None)
        page, _ = write_report([self.out], self.out, setup=machine(), commands=commands, notes=NOTES)
        return page


def check(configuration: Configuration) -> None:
    """Refuse, in a sentence, a configuration whose encoder or whose labels the demo cannot make."""
    if (encoder := configuration.content["model"]["init_args"].get("encoder")) not in PRESETS:
        raise UserError(
            f"{configuration.path}: the demo compares with random weights of the same shape, so model.encoder must be one of "
            f"{', '.join(PRESETS)}, not {encoder}"
        )
    codebook = configuration.recipe.codebook
    names = configuration.content["data"]["init_args"].get("labels")
    if codebook is None:
        return
    if not isinstance(names, str):
        raise UserError(
            f"{configuration.path}: the demo makes the one label set of recipe.codebook, but data.labels names {names}; give "
            "the name of one"
        )
    for key in ("teacher", "checkpoint"):
        if getattr(codebook, key) is not None:
            raise UserError(
                f"{configuration.path}: recipe.codebook.{key} is for `wavlm recipe`; the demo makes labels of features or of an "
                "earlier configuration"
            )


def check_names(configurations: Sequence[Configuration]) -> None:
    """Refuse, before anything is trained, two configurations whose labels would have one name in the corpus."""
    before: dict[str, Configuration] = {}
    for each in configurations:
        if each.recipe.codebook is None:
            continue
        other = before.setdefault(each.content["data"]["init_args"]["labels"], each)
        if other is not each:
            raise UserError(
                f"{each.path}: data.labels has the name that the labels of {other.path} have; give one of them another name"
            )


def fastest_options() -> list[str]:
    """Options of `wavlm fit` for the precision, and on a CPU the threads, that train fastest on this machine now.

    On a CPU a few training steps are timed, which takes about ten seconds.
    """
    import torch

    from wavlm_lightning.training.trial import faster_precision, fastest_threads, threads_are_set

    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ["--trainer.precision", "bf16-mixed" if bf16 else "32-true"]
    threads: list[str] = []
    if not threads_are_set():
        torch.set_num_threads(fastest_threads())
        threads = ["--threads", str(torch.get_num_threads())]
    return [*threads, "--trainer.precision", faster_precision()]


def machine() -> list[tuple[str, str]]:
    """Processor, threads and device of this machine, as the report shows them."""
    import torch

    from wavlm_lightning.system.hardware import processor_name

    return [
        ("machine", f"{processor_name()}, {torch.get_num_threads()} threads"),
        ("device", torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"),
    ]


def next_commands(out: Path, transformers: bool = True) -> list[tuple[str, str]]:
    """(purpose, command) pairs: what to do after the demo, with its encoder or with recordings of one's own.

    `transformers` says whether that library has a class for the encoder.
    """
    encoder, until = ("encoder", "") if transformers else (RECIPE, f" --until fit/{RECIPE}")
    head = f"-c configs/superb/mini/ks.yaml --model.upstream.source runs/mine/{encoder} --trainer.default_root_dir runs/mine-ks"
    export, form = ("transformers", "") if transformers else ("torch without this package", " --format torch")
    return [
        (f"Export the encoder for {export}", f"wavlm export {out / 'pretrain'} {out / 'encoder'}{form}"),
        ("Prepare your own recordings", "wavlm prepare folder RECORDINGS --out data/mine"),
        ("Pre-train on them, in the same way", f"wavlm recipe {RECIPE} --corpus data/mine --out runs/mine{until}"),
        ("Train a head on the encoder you pre-trained", f"wavlm fit {head}\nwavlm test runs/mine-ks"),
    ]
