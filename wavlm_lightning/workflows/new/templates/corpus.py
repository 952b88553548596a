"""MyCorpus: recordings in DIR/SPEAKER/NAME.wav; change it to match your folders.

wavlm prepare my_corpus.MyCorpus DIR --out data/my_corpus
wavlm data info data/my_corpus
"""

import argparse
from pathlib import Path

from wavlm_lightning.data.recordings import CorpusPlan, Recording, clean_key, hold_out
from wavlm_lightning.system.errors import UserError


class MyCorpus:
    """A corpus recipe: lists the recordings with their metadata and splits; it decodes no audio."""

    HELP = "one folder for each speaker, with WAV or FLAC files"

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Options of your own, beside --out, --workers, --on-error and --allow-partial."""
        parser.add_argument("--valid", type=float, default=0.1, help="share of the speakers (default 0.1)")
        parser.add_argument("--test", type=float, default=0.1, help="share of the speakers (default 0.1)")

    @staticmethod
    def plan(root: Path, arguments: argparse.Namespace) -> CorpusPlan:
        """All recordings, by split."""
        files = sorted(path for path in root.glob("*/*") if path.suffix.lower() in (".wav", ".flac"))
        if not files:
            raise UserError(f"{root}: no SPEAKER/NAME.wav or .flac here")
        speakers = {path.parent.name for path in files}
        split_of = hold_out(speakers, {"valid": arguments.valid, "test": arguments.test}, "speakers")
        splits: dict[str, list[Recording]] = {"train": [], "valid": [], "test": []}
        for path in files:
            speaker = path.parent.name
            # Tasks read these metadata: add `text`, `language`, `phones`, or a field of your own.
            recording = Recording(path, clean_key(f"{speaker}-{path.stem}"), {"speaker": speaker})
            splits[split_of[speaker]].append(recording)
        return CorpusPlan("my_corpus", "unknown", splits, inventories={"speakers": sorted(speakers)})
