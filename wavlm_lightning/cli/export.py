"""`wavlm export CKPT DIR`: a pre-trained encoder for everybody else."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="wavlm export",
        description="Write a Hugging Face directory that transformers loads: weights, configuration and a model card "
        "with the facts of the run; of a pre-training run also the head, so that pre-training can go on from there. "
        "Shards of FSDP2 are put together.",
    )
    parser.add_argument(
        "checkpoint", type=Path, help="a .ckpt of a pre-training run (sharded or not), its folder, or a unilm .pt"
    )
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args(argv)

    from wavlm_lightning.cli.model_card import is_ours, model_card
    from wavlm_lightning.pretraining.head_file import DESCRIPTION, WEIGHTS, write_head
    from wavlm_lightning.upstreams.wavlm import load_encoder, newest_checkpoint, read_run_checkpoint

    directory: Path = arguments.directory
    source = newest_checkpoint(arguments.checkpoint)
    encoder = load_encoder(source)
    encoder.save_pretrained(directory)
    for name in (WEIGHTS, DESCRIPTION):  # of what was exported here before
        (directory / name).unlink(missing_ok=True)
    checkpoint = read_run_checkpoint(source) if source.suffix == ".ckpt" else None
    if checkpoint is not None:
        write_head(directory, checkpoint["state_dict"], checkpoint.get("codebooks", {}))
    card, command = directory / "README.md", shlex.join(["wavlm", "export", *argv])
    if card.is_file() and not is_ours(card.read_text(encoding="utf-8")):
        print(f"{card}: kept, since `wavlm export` has not written it")
    else:
        card.write_text(model_card(directory, encoder, source, checkpoint, command), encoding="utf-8")
    print(f"{directory}: {encoder.parameter_count():,} parameters")
    return 0
