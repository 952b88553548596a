"""`wavlm export CKPT DIR`: a pre-trained encoder for everybody else."""

from __future__ import annotations

import argparse
from pathlib import Path


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="wavlm export",
        description="Write a Hugging Face directory that transformers.WavLMModel loads.",
    )
    parser.add_argument("checkpoint", type=Path, help="a .ckpt of a pre-training run, its folder, or a unilm .pt")
    parser.add_argument("directory", type=Path)
    arguments = parser.parse_args(argv)

    from wavlm_lightning.upstreams.wavlm import load_encoder

    encoder = load_encoder(arguments.checkpoint)
    encoder.save_pretrained(arguments.directory)
    print(f"{arguments.directory}: {encoder.parameter_count():,} parameters")
    return 0
