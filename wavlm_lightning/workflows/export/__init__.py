"""`wavlm export`: encoders and heads as Hugging Face folders, ONNX or torch.export graphs.

In reading order: `export` below (dispatch, encoders), `head` (heads and their model card), `model_card` and `run_facts`
(model card of an encoder), `graph` (ONNX and torch.export). Importing the package imports nothing heavy. Tests:
`tests/workflows/test_export*.py`.
"""

from __future__ import annotations

from pathlib import Path

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder
from wavlm_lightning.system.run_folder import check_one_head


def export(
    source: str | Path,
    directory: str | Path,
    *,
    format: str = "hf",
    encoder_only: bool = False,
    command: str = "wavlm_lightning.workflows.export.export",
) -> list[str]:
    """Write an encoder, or a head on its encoder, for use without this package; as `wavlm export` does.

    Args:
        source: a `.ckpt` of a pre-training run (sharded or not), its run folder, a unilm `.pt` file, the run folder of a
            head, or a Hugging Face folder.
        directory: where to write; made if missing.
        format: `hf` for a Hugging Face folder with a model card; `onnx` for `model.onnx`; `torch` for `model.pt2`.
        encoder_only: of a head, export only the encoder.
        command: the command for the model card.

    Returns:
        One sentence for each thing that was written or kept.

    Raises:
        UserError: the source cannot be read or exported, a graph does not agree with the model, or another process exports
            to `directory`.

    Example:
        >>> export("runs/demo/pretrain", "encoder")
        ['encoder: 3,168,832 parameters']
    """
    from wavlm_lightning.tasks.huggingface.reading import is_head_folder
    from wavlm_lightning.workflows.predict.head import holds_head

    source, directory = Path(source), Path(directory)
    check_output(directory, "DIRECTORY")
    check_one_head(source)
    with own_folder(directory, "export", "DIRECTORY"):
        # Of a folder of transformers, the encoder is read without the head, which may have changed its last norm.
        if holds_head(source) and not (encoder_only and is_head_folder(source)):
            from wavlm_lightning.workflows.export.head import export_head

            return export_head(source, directory, format, encoder_only, command)
        return _export_encoder(source, directory, format, encoder_only, command)


def _export_encoder(source: Path, directory: Path, format: str, encoder_only: bool, command: str) -> list[str]:
    from wavlm_lightning.encoder.checkpoints.formats import HEAD_KEY
    from wavlm_lightning.upstreams.run_checkpoints import read_entries
    from wavlm_lightning.upstreams.wavlm import load_encoder, newest_checkpoint, read_run_checkpoint

    source = newest_checkpoint(source)
    of_head = source.suffix == ".ckpt" and HEAD_KEY in read_entries(source)
    if of_head and not encoder_only:
        raise UserError(f"{source}: a checkpoint of a head; give its run folder, or --encoder for the encoder alone")
    encoder = load_encoder(source)
    if format in ("onnx", "torch"):
        from wavlm_lightning.workflows.export.graph import FILES, write_encoder

        difference = write_encoder(encoder.eval(), directory, format)
        return [f"{directory / FILES[format]}: off by at most {difference:.1e} from the encoder"]
    from wavlm_lightning.pretraining.head_file import PREDICTED, forget_export, without_teachers, write_head
    from wavlm_lightning.tasks.huggingface.export import check_encoder
    from wavlm_lightning.workflows.export.model_card import model_card, write_card

    check_encoder(encoder.config)
    # Card and prediction head tell of a pre-training, which a run of a head is not.
    checkpoint = read_run_checkpoint(source) if source.suffix == ".ckpt" and not of_head else None
    forget_export(directory)
    if checkpoint is not None:
        books, predicted = checkpoint.get("codebooks", {}), checkpoint.get(PREDICTED)
        write_head(directory, without_teachers(checkpoint), books, predicted)
    encoder.save_pretrained(directory)
    notes = write_card(directory, model_card(directory, encoder, source, checkpoint, command))
    return [*notes, f"{directory}: {encoder.parameter_count():,} parameters"]
