"""Control rows of a suite: what guessing scores, and an upstream trained on the labels of other utterances."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shuffled_labels import OF, permute_labels
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.workflows.superb.cells import UpstreamSpec
from wavlm_lightning.workflows.superb.suites import corpus_name, head_class

CHANCE, PERMUTED = "chance", "permuted"
CONTROLS = (CHANCE, PERMUTED)


def check_controls(controls: Sequence[str]) -> None:
    """Raise `UserError` for a control that does not exist."""
    for name in controls:
        if name not in CONTROLS:
            hint = nearest(name, CONTROLS)
            raise UserError(f"--controls: {name!r} is not one of {', '.join(CONTROLS)}{hint}")


def permuted_row(spec: UpstreamSpec) -> str:
    """The word of the command line for the row of an upstream on permuted labels."""
    labelled = spec.spec.startswith(f"{spec.label}=")
    label = re.sub("[=/:]+", "-", spec.label)  # which a label must not hold
    return f"{label}, permuted labels={spec.spec.partition('=')[2] if labelled else spec.spec}"


class PermutedCorpora:
    """Copies of the corpora of some tasks whose labels belong to other utterances, in the folder `permuted` of the output.

    A task whose target is audio keeps it, since it belongs to its input sample by sample: its further input (the enrolment
    of target-speaker extraction) is that of another utterance. A task without such an input has no such control.

    Args:
        tasks: as in `suites.check_tasks`.
        data: the folder of corpora.
        output: the folder of all runs.
        mini: whether the YAML for the mini corpus counts.
    """

    def __init__(self, tasks: Sequence[str], data: Path, output: Path, mini: bool) -> None:
        self.data, self.output, self.mini = data, output, mini
        self.members: dict[str, tuple[str, ...]] = {}  # task -> the audio members that are permuted; none: the labels
        for task in tasks:
            kind = head_class(task, mini)
            members = tuple(kind.extra_audio) if kind.target_audio else ()
            if members or not kind.target_audio:
                self.members[task] = members

    @property
    def tasks(self) -> list[str]:
        """The tasks that have this control."""
        return list(self.members)

    def folder(self, task: str) -> Path:
        """The folder of a task's permuted corpus."""
        return self.output / PERMUTED / "-".join([corpus_name(task, self.mini), *self.members[task]])

    def make(self) -> None:
        """Make those that are missing or that were made of other data."""
        for task, members in self.members.items():
            corpus, folder = Corpus.open(self.data / corpus_name(task, self.mini)), self.folder(task)
            made = (folder / "corpus.json").is_file() and Corpus.open(folder).body["source"].get(OF) == corpus.sha256
            if not made:
                permute_labels(corpus, folder, audio=members)

    def commands(self) -> list[str]:
        """The commands that `make` stands for."""
        found = {
            self.folder(task): [str(self.data / corpus_name(task, self.mini)), "--out", str(self.folder(task))]
            + (["--audio", *members] if members else [])
            for task, members in self.members.items()
        }
        return [shlex.join(["wavlm", "data", "permute", *words]) for words in found.values()]
