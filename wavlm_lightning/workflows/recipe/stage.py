"""One command of a recipe, and how its configuration is named on a command line."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import LAST, can_resume
from wavlm_lightning.system.shipped_configs import configs_folder

LABELLED, OF_TEACHER, PSEUDO = "the labelled corpus", "the labelled corpus of the teacher", "the pseudo-labelled corpus"


@dataclass(frozen=True)
class RecipeStage:
    """One command of a recipe.

    Attributes:
        name: `codebook/LABELS`, `align/LABELS`, `labels/LABELS`, `export`, or of a run `fit/RUN`, `average/RUN`, `test/RUN`,
            `lm/RUN`, `tune/RUN`, `pseudo/RUN`.
        headline: description for `--dry-run`.
        command: arguments of `wavlm` for the first call.
        product: the file that is written last; if it exists, the stage is done.
        run_folder: of a `fit`, which resumes from its newest checkpoint.
        corpora: those of fine-tuning which it reads, and that which it writes, by names for messages; their hashes are kept when
            it is done. Those of pre-training are settings of the recipe.
    """

    name: str
    headline: str
    command: tuple[str, ...]
    product: Path | None = None
    run_folder: Path | None = None
    corpora: Mapping[str, Path] = field(default_factory=dict)

    def facts(self) -> dict[str, str]:
        """Hashes of its corpora, of those that are here."""
        found: dict[str, str] = {}
        for name, path in self.corpora.items():
            with contextlib.suppress(UserError):
                found[name] = Corpus.open(path).sha256
        return found

    @property
    def has_checkpoint(self) -> bool:
        """Whether an interrupted `fit` left a checkpoint to resume from."""
        return self.run_folder is not None and can_resume(self.run_folder)

    def words(self) -> list[str]:
        """Arguments of `wavlm` for the next call."""
        return [*self.command, *(("--ckpt_path", LAST) if self.has_checkpoint else ())]


def pasteable(path: Path) -> str:
    """Path of a configuration for a command line: `configs/...`, which works anywhere, if we ship it."""
    folder, full = configs_folder(), path.resolve()
    return str(Path("configs") / full.relative_to(folder) if full.is_relative_to(folder) else path)
