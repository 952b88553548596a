"""Upstreams by specification: `fbank`, `random:base`, `runs/demo/pretrain`, `hf:NAME`, `torchaudio:BUNDLE`, `LABEL=...`.

There is no form for APC, VQ-APC, NPC, Mockingjay, TERA, DeCoAR 2.0 or PASE+, because only s3prl and its forks read
their checkpoints: wrap s3prl in your own `Upstream` and give its dotted path.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.tensor_files import read_json
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.system.plugins import import_by_path, is_dotted
from wavlm_lightning.upstreams.base import Upstream
from wavlm_lightning.upstreams.fairseq import FIRST_BLOCK, is_wavlm
from wavlm_lightning.upstreams.fairseq_files import words
from wavlm_lightning.upstreams.run_checkpoints import newest_checkpoint, trained_encoder
from wavlm_lightning.upstreams.torchaudio_models import find_bundle
from wavlm_lightning.upstreams.wavlm import PRESETS, RANDOM, note_old_word, preset_of, random_label

SPECTRAL: dict[str, tuple[str, dict[str, Any]]] = {
    "fbank": ("Fbank", {"cmvn": True}),
    "fbank_no_cmvn": ("Fbank", {"cmvn": False, "label": "FBANK (no CMVN)"}),
    "mfcc": ("Mfcc", {"cmvn": True}),
    "mfcc_no_cmvn": ("Mfcc", {"cmvn": False, "label": "MFCC (no CMVN)"}),
    "stft": ("Stft", {}),
}
FORMS = (
    f"one of {', '.join([*SPECTRAL, *(RANDOM + name for name in PRESETS)])}; a path to a pre-training run, a fine-tuned "
    "head or a checkpoint; "
    "hf:NAME_OR_FOLDER; torchaudio:BUNDLE; or package.module.Class; each may follow LABEL="
)
CHECKPOINTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
LABELLED = re.compile(r"(?P<label>[^=/:]+)=(?P<spec>.+)", re.DOTALL)


def resolve(spec: str) -> tuple[str, dict[str, Any]]:
    """The class and the arguments that a specification stands for; nothing is loaded or downloaded.

    Args:
        spec: `fbank`, `fbank_no_cmvn`, `mfcc`, `mfcc_no_cmvn`, `stft`; `random:tiny`, `random:base`, `random:base_plus`,
            `random:large`, `random:hubert_base` or `random:hubert_large` for an encoder with random weights (older
            versions wrote `base` for `random:base`, which still works); the folder of a pre-training run or of a head that
            trained its encoder, a `.ckpt`, `.pt` or Hugging Face folder; `hf:` and a name on the hub or a folder;
            `torchaudio:` and a name in `torchaudio.pipelines`; or the dotted path of an `Upstream` of your own. A `LABEL=`
            in front of it sets the name in tables.

    Returns:
        Dotted path of the class and its arguments, as in a YAML's `class_path` and `init_args`.

    Raises:
        UserError: the specification has none of these forms.

    Example:
        >>> resolve("pre-trained=runs/demo/pretrain")
        ('wavlm_lightning.upstreams.WavLMUpstream', {'source': 'runs/demo/pretrain', 'label': 'pre-trained'})
    """
    labelled = None if Path(spec).exists() else LABELLED.fullmatch(spec)  # a folder may be called learning_rate=0.1
    if labelled is None:
        return _plain(spec.strip())
    class_path, arguments = _plain(labelled["spec"].strip())
    if "label" not in inspect.signature(_class(class_path)).parameters:
        raise UserError(f"{spec}: {class_path} does not take a label; remove {labelled['label']}=")
    return class_path, {**arguments, "label": labelled["label"].strip()}


def build(spec: str) -> Upstream:
    """Build the upstream of a specification; see `resolve`.

    Example:
        >>> build("fbank").dim
        240
    """
    class_path, arguments = resolve(spec)
    kind = _class(class_path)
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise UserError(f"{spec}: {class_path} cannot be built without more arguments ({error}); use a YAML") from error
    return kind(**arguments)


def _plain(spec: str) -> tuple[str, dict[str, Any]]:
    if spec in SPECTRAL:
        name, arguments = SPECTRAL[spec]
        return _ours(name), dict(arguments)
    if (preset := preset_of(spec)) is not None:
        if spec == preset:
            note_old_word(preset)
        return _ours("WavLMUpstream"), {"source": spec, "label": random_label(preset)}
    kind, _, rest = spec.partition(":")
    if kind == "hf" and rest:
        return _ours("HuggingFaceUpstream"), {"source": rest}
    if kind == "torchaudio" and rest:
        find_bundle(rest)
        return _ours("TorchaudioUpstream"), {"bundle": rest}
    path = Path(spec).expanduser()
    if spec and path.exists():
        if (record := _record(path)) is not None:
            return record
        name, argument = _checkpoint(path)
        return _ours(name), {argument: str(path)}
    if "/" in spec or "\\" in spec or path.suffix in CHECKPOINTS:
        raise UserError(f"{spec}: no such file or folder; an upstream is {FORMS}")
    if is_dotted(spec):
        _class(spec)
        return spec, {}
    hint = nearest(spec.lower(), [*SPECTRAL, *(RANDOM + name for name in PRESETS), *PRESETS])
    raise UserError(f"{spec!r} is not an upstream{hint + ' An' if hint else '; an'} upstream is {FORMS}")


def _record(path: Path) -> tuple[str, dict[str, Any]] | None:
    """The class and the arguments that read the encoder that a head's run has trained; None if `path` holds none."""
    try:
        record = trained_encoder(path)
    except UserError:  # `build` says what is wrong with the checkpoint
        return None
    if record is None or record["argument"] is None:
        return None
    arguments = {name: record[name] for name in ("bundle",) if name in record}
    return record["class"], {**arguments, record["argument"]: str(newest_checkpoint(path))}


def _checkpoint(path: Path) -> tuple[str, str]:
    """The class that reads a checkpoint, and the name of its argument for the path."""
    if path.is_dir():
        if path.suffix == ".ckpt" or newest_checkpoint(path) != path:
            return "WavLMUpstream", "source"
        if not (path / "config.json").is_file():
            raise UserError(
                f"{path}: neither the folder of a pre-training run (checkpoints/last.ckpt) nor one in Hugging Face's "
                "format (config.json)"
            )
        try:
            model_type = read_json(path / "config.json").get("model_type", "wavlm")
        except CheckpointError as error:
            raise UserError(str(error)) from error
        return ("WavLMUpstream" if model_type == "wavlm" else "HuggingFaceUpstream"), "source"
    if path.suffix in (".ckpt", ".safetensors"):
        return "WavLMUpstream", "source"
    names = words(path)
    return ("FairseqUpstream", "path") if FIRST_BLOCK in names and not is_wavlm(names) else ("WavLMUpstream", "source")


def _ours(name: str) -> str:
    return f"wavlm_lightning.upstreams.{name}"


def _class(path: str) -> type[Upstream]:
    try:
        found = import_by_path(path)
    except UserError as error:
        raise UserError(f"{error}; an upstream is {FORMS}") from error
    if not (isinstance(found, type) and issubclass(found, Upstream)):
        raise UserError(f"{path}: not a subclass of Upstream; an upstream is {FORMS}")
    return found
