"""The synthetic "mini-SUPERB": small labelled corpora that the package makes in seconds, deterministically.

Reading order: `prepare` (writes the corpora), `plans` (what a data set holds, at each size); the data sets: `readings`
(pretrain, pr), `keywords` (ks), `commands` (ic, sf), `identities` (sid, sv), `dialogues` (sd), `emotions` (er), `queries`
(qbe), `target_speakers` (target), `meetings`, `ratings` and `degradations` (mos), `full_stack/` (accents, enhancement, noisy,
separation, translation, voices); their sentences: `grammar`; from a plan to samples: `scripted_utterance`, `rendering`,
`effects`, `rooms`; `synthesis/` holds the synthesisers, their voices and phones; `seeding`.

Imports `data` and `system`. Tests: `tests/data/test_mini_*.py`.
"""

from collections.abc import Sequence
from pathlib import Path

DATASETS: tuple[str, ...] = (
    "pretrain",
    "pr",
    "ks",
    "ic",
    "sid",
    "sv",
    "sd",
    "er",
    "qbe",
    "sf",
    "meetings",
    "target",
    "mos",
    "accents",
    "enhancement",
    "noisy",
    "separation",
    "translation",
    "voices",
)


def prepare_mini(
    out: Path,
    size: str = "mini",
    datasets: Sequence[str] | None = None,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Makes the mini corpus: `out/pretrain`, `out/pr`, ... each a `Corpus` of its own.

    Data sets that exist are left alone, so an interrupted call can be repeated. The content of a data set depends on size
    and seed alone, not on the number of workers or the other data sets asked for.

    Args:
        out: Directory for the corpora.
        size: `tiny` (ten minutes, for tests), `mini` (about ten hours), `medium` or `pretrain` (3 or 20 hours to pre-train on).
        datasets: Some of `DATASETS`; all by default.
        seed: Another seed gives other speakers, sentences and recordings.
        workers: Synthesisers at work at once; by default one for each usable core.
        progress: Show a bar for each data set.

    Raises:
        UserError: Unknown size or data set, `out` already holds another mini corpus, or another process writes there.

    Example:
        >>> prepare_mini(Path("corpus"), size="tiny", datasets=["ks"])
    """
    # Imported here because every synthesiser process imports this package and must start fast.
    from wavlm_lightning.data.mini.prepare import prepare

    prepare(Path(out), size, DATASETS if datasets is None else datasets, seed, workers, progress)


__all__ = ["DATASETS", "prepare_mini"]
