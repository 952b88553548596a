"""From the few characters that a user types to an upstream: `fbank`, `runs/demo/pretrain`, `hf:NAME`, `LABEL=...`.

There is no form for APC, VQ-APC, NPC, Mockingjay, TERA, DeCoAR 2.0 or PASE+: nothing but s3prl and its forks reads their
checkpoints, so who needs such a row wraps s3prl in an `Upstream` of their own and gives its dotted path.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.tensor_files import read_json
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.base import Upstream
from wavlm_lightning.upstreams.fairseq import FIRST_BLOCK, is_wavlm
from wavlm_lightning.upstreams.fairseq_files import words
from wavlm_lightning.upstreams.torchaudio_models import find_bundle
from wavlm_lightning.upstreams.wavlm import PRESETS

SPECTRAL: dict[str, tuple[str, dict[str, Any]]] = {
    "fbank": ("Fbank", {"cmvn": True}),
    "fbank_no_cmvn": ("Fbank", {"cmvn": False, "label": "FBANK (no CMVN)"}),
    "mfcc": ("Mfcc", {"cmvn": True}),
    "mfcc_no_cmvn": ("Mfcc", {"cmvn": False, "label": "MFCC (no CMVN)"}),
}
FORMS = (
    f"one of {', '.join([*SPECTRAL, *PRESETS])}; a path to a pre-training run or a checkpoint; hf:NAME_OR_FOLDER; "
    "torchaudio:BUNDLE; or package.module.Class; each may follow LABEL="
)
CHECKPOINTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
LABELLED = re.compile(r"(?P<label>[^=/:]+)=(?P<spec>.+)", re.DOTALL)


def resolve(spec: str) -> tuple[str, dict[str, Any]]:
    """Which class, with which arguments, a specification means; nothing is loaded or downloaded.

    Args:
        spec: `fbank`, `fbank_no_cmvn`, `mfcc`, `mfcc_no_cmvn`; `tiny`, `base`, `base_plus`, `large`, `hubert_base` or
            `hubert_large` for an encoder with random weights; the folder of a pre-training run, a `.ckpt`, `.pt` or
            Hugging Face folder; `hf:` and a name on the hub or a folder; `torchaudio:` and a name in
            `torchaudio.pipelines`; or the dotted path of an `Upstream` of your own. In front of it, `LABEL=` says what
            tables call it.

    Returns:
        Dotted path of the class and its arguments, as in a YAML's `class_path` and `init_args`.

    Raises:
        UserError: it is none of these.

    Example:
        >>> resolve("pre-trained=runs/demo/pretrain")
        ('wavlm_lightning.upstreams.WavLMUpstream', {'source': 'runs/demo/pretrain', 'label': 'pre-trained'})
    """
    labelled = None if Path(spec).exists() else LABELLED.fullmatch(spec)  # a folder may be called learning_rate=0.1
    if labelled is None:
        return _plain(spec.strip())
    class_path, arguments = _plain(labelled["spec"].strip())
    if "label" not in inspect.signature(_class(class_path)).parameters:
        raise UserError(f"{spec}: {class_path} takes no label, so leave out {labelled['label']}=")
    return class_path, {**arguments, "label": labelled["label"].strip()}


def build(spec: str) -> Upstream:
    """The upstream that a specification means; see `resolve`.

    Raises:
        UserError: it means nothing, or cannot be loaded.

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
    if spec in PRESETS:
        return _ours("WavLMUpstream"), {"source": spec, "label": f"random weights ({spec})"}
    kind, colon, rest = spec.partition(":")
    if colon and kind == "hf" and rest:
        return _ours("HuggingFaceUpstream"), {"source": rest}
    if colon and kind == "torchaudio" and rest:
        find_bundle(rest)
        return _ours("TorchaudioUpstream"), {"bundle": rest}
    path = Path(spec).expanduser()
    if spec and path.exists():
        name, argument = _checkpoint(path)
        return _ours(name), {argument: str(path)}
    if "/" in spec or "\\" in spec or path.suffix in CHECKPOINTS:
        raise UserError(f"{spec}: no such file or folder; an upstream is {FORMS}")
    if DOTTED.fullmatch(spec):
        _class(spec)
        return spec, {}
    near = difflib.get_close_matches(spec.lower(), [*SPECTRAL, *PRESETS], n=1)
    hint = f"did you mean {near[0]}? It" if near else "it"
    raise UserError(f"{spec!r} names no upstream; {hint} is {FORMS}")


def _checkpoint(path: Path) -> tuple[str, str]:
    """The class that reads what lies there, and what it calls the place."""
    if path.is_dir():
        if path.suffix == ".ckpt" or (path / "checkpoints" / "last.ckpt").exists():
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
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError as error:
        # Otherwise the user's own module is there, and what it imports is not: that deserves its traceback.
        if error.name is None or not (module == error.name or module.startswith(f"{error.name}.")):
            raise
        raise UserError(f"{path}: there is no module {error.name}; an upstream is {FORMS}") from error
    if not (isinstance(found, type) and issubclass(found, Upstream)):
        raise UserError(f"{path}: no Upstream of that name in {module}; an upstream is {FORMS}")
    return found
