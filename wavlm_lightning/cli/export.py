"""`wavlm export CKPT DIR`: a pre-trained encoder, or a trained head on one, for everybody else."""

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
        "Shards of FSDP2 are put together. Of a run with a head for which transformers has a class, encoder and head. "
        "With --format, one graph for ONNX Runtime or torch.export, checked against the model.",
    )
    parser.add_argument(
        "checkpoint",
        type=Path,
        help="a .ckpt of a pre-training run (sharded or not), its folder, a unilm .pt, the run folder of a head, or a "
        "Hugging Face directory",
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument(
        "--format",
        choices=("hf", "onnx", "torch"),
        default="hf",
        help="hf: a Hugging Face directory (default); onnx: model.onnx; torch: model.pt2 of torch.export; the last two "
        "take batches and waveforms of any size",
    )
    parser.add_argument("--encoder", action="store_true", help="of a head, only the encoder below it")
    arguments = parser.parse_args(argv)

    from wavlm_lightning.tasks.huggingface.reading import is_head_folder
    from wavlm_lightning.workflows.predict.head_sources import holds_head

    command = shlex.join(["wavlm", "export", *argv])
    # The encoder of a folder from transformers is read without the head, which may have changed its last norm.
    without_head = arguments.encoder and is_head_folder(arguments.checkpoint)
    if holds_head(arguments.checkpoint) and not without_head:
        from wavlm_lightning.workflows.export.head import export_from_head

        export_from_head(arguments.checkpoint, arguments.directory, arguments.format, arguments.encoder, command)
    else:
        export_encoder(arguments.checkpoint, arguments.directory, arguments.format, command)
    return 0


def export_encoder(given: Path, directory: Path, form: str, command: str) -> None:
    """Write an encoder, and of a pre-training run the head.

    Args:
        given: where it is.
        directory: made if missing.
        form: `hf`, `onnx` or `torch`.
        command: that the user typed, for the card.

    Raises:
        UserError: there is no encoder, or the graph does not agree with it.
    """
    from wavlm_lightning.upstreams.wavlm import load_encoder, newest_checkpoint, read_run_checkpoint

    source = newest_checkpoint(given)
    encoder = load_encoder(source)
    if form in ("onnx", "torch"):
        from wavlm_lightning.workflows.export.graph import FILES, write_encoder

        difference = write_encoder(encoder.eval(), directory, form)
        print(f"{directory / FILES[form]}: off by at most {difference:.1e} from the encoder")
        return
    from wavlm_lightning.pretraining.head_file import DESCRIPTION, WEIGHTS, write_head
    from wavlm_lightning.workflows.export.model_card import is_ours, model_card

    encoder.save_pretrained(directory)
    for name in (WEIGHTS, DESCRIPTION):  # of what was exported here before
        (directory / name).unlink(missing_ok=True)
    checkpoint = read_run_checkpoint(source) if source.suffix == ".ckpt" else None
    if checkpoint is not None:
        write_head(directory, checkpoint["state_dict"], checkpoint.get("codebooks", {}))
    card = directory / "README.md"
    if card.is_file() and not is_ours(card.read_text(encoding="utf-8")):
        print(f"{card}: kept, since `wavlm export` has not written it")
    else:
        card.write_text(model_card(directory, encoder, source, checkpoint, command), encoding="utf-8")
    print(f"{directory}: {encoder.parameter_count():,} parameters")
