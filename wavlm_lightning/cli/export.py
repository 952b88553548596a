"""`wavlm export CKPT DIR`: a pre-trained encoder, or a trained head with its encoder, for other software."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm export`."""
    parser = argparse.ArgumentParser(
        prog="wavlm export",
        description="Write a Hugging Face directory that transformers loads: weights, configuration and a model card "
        "with the facts of the run; of a pre-training run also the head, so that pre-training can continue from there. "
        "Shards of FSDP2 are put together. Of a run with a head for which transformers has a class, encoder and head. "
        "With --format, one graph for ONNX Runtime or torch.export, checked against the model.",
    )
    sources = "a .ckpt of a pre-training run (sharded or not), its folder, a unilm .pt, the run folder of a head"
    parser.add_argument("checkpoint", type=Path, help=f"{sources}, or a Hugging Face directory")
    parser.add_argument("directory", type=Path)
    formats = "hf: a Hugging Face directory (default); onnx: model.onnx; torch: model.pt2 of torch.export"
    formats += "; the last two take batches and waveforms of any size"
    parser.add_argument("--format", choices=("hf", "onnx", "torch"), default="hf", help=formats)
    parser.add_argument("--encoder", action="store_true", help="of a head, only the encoder below it")
    return parser


def main(argv: list[str]) -> int:
    """Export, and print what was written."""
    arguments = build_parser().parse_args(argv)
    from wavlm_lightning.workflows.export import export

    source, directory, command = arguments.checkpoint, arguments.directory, shlex.join(["wavlm", "export", *argv])
    notes = export(source, directory, format=arguments.format, encoder_only=arguments.encoder, command=command)
    print("\n".join(notes))
    return 0
