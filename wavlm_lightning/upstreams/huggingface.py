"""Speech encoders of the transformers library: wav2vec 2.0, HuBERT, WavLM, data2vec, UniSpeech, DistilHuBERT."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.labels_seen import labels_seen
from wavlm_lightning.encoder.checkpoints.tensor_files import check_finite, check_sums
from wavlm_lightning.system.errors import UserError, pip_install
from wavlm_lightning.system.reading import reason_of, shown
from wavlm_lightning.upstreams.fine_tuning import FineTuning, new_mask_embedding
from wavlm_lightning.upstreams.run_checkpoints import newest_checkpoint, read_trained
from wavlm_lightning.upstreams.waveform_encoder import WaveformEncoder

# Values of `model_type` in `config.json` whose models are built from the same parts.
MODEL_TYPES = ("wav2vec2", "hubert", "wavlm", "data2vec-audio", "unispeech", "unispeech-sat")
# The library itself neither drops layers nor masks frames: SUPERB does not, and fine-tuning does so in `Upstream`.
SWITCHED_OFF = {"layerdrop": 0.0, "mask_time_prob": 0.0, "mask_feature_prob": 0.0, "apply_spec_augment": False}
# Dropouts of `FineTuning` -> fields of these configurations.
DROPOUT_FIELDS = {
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "activation_dropout": "activation_dropout",
    "input_dropout": "feat_proj_dropout",
}
EMBEDDING = "masked_spec_embed"
# Entries of a configuration that do not change the features.
UNINFORMATIVE = ("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype")


class HuggingFaceUpstream(WaveformEncoder):
    """An encoder from the Hugging Face hub or from a folder in its format, with all hidden states.

    The waveform is normalised if the checkpoint's `preprocessor_config.json` says `do_normalize`; without that file,
    if the convolutions have layer norms. The hub's copies of wav2vec 2.0 Base and HuBERT Base normalise although the
    originals do not. Their group norm removes nearly all of the difference; `normalize=False` removes the rest.

    Args:
        source: a name on the hub, such as `facebook/hubert-base-ls960`, a folder, or the run folder or checkpoint of a head
            that trained such an encoder.
        label: name in tables; the source by default.
        frozen: False trains the encoder with the head.
        overrides: fields of the model's configuration to change, such as dropouts.
        normalize: whether waveforms get zero mean and unit variance; None asks the checkpoint.
        differentiable: let gradients pass a frozen encoder to the waveform.
        fine_tuning: how the encoder is trained, if it is not frozen.

    Raises:
        UserError: transformers is missing, or the model cannot be loaded or is of another type.

    Example:
        >>> HuggingFaceUpstream("ntu-spml/distilhubert").num_layers
        3
    """

    source_argument = "source"

    def __init__(
        self,
        source: str,
        label: str | None = None,
        frozen: bool = True,
        overrides: dict[str, Any] | None = None,
        normalize: bool | None = None,
        differentiable: bool = False,
        fine_tuning: FineTuning | None = None,
    ) -> None:
        super().__init__(frozen, differentiable, fine_tuning)
        self.label = label or str(source)
        overrides = overrides or {}
        if fine_tuning is not None:
            overrides = {**overrides, **fine_tuning.dropouts(DROPOUT_FIELDS, overrides)}
        masked = fine_tuning is not None and fine_tuning.time_mask_probability > 0
        self.model, do_normalize = load(str(source), overrides, masked)
        if Path(source).exists():  # not a name on the hub
            self.labelled = tuple(labels_seen(newest_checkpoint(Path(source))))
        config = self.model.config
        self.dim, self.num_layers = config.hidden_size, config.num_hidden_layers + 1
        layers = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.describe_convolutions(layers, self.model.feature_extractor)
        if do_normalize is None:
            do_normalize = not self.averages_over_time
        self.normalize = do_normalize if normalize is None else normalize
        self.freeze()

    def blocks(self) -> list[nn.Module]:
        return list(self.model.encoder.layers)

    def waveform_convolutions(self) -> nn.Module:
        return self.model.feature_extractor

    def after_blocks(self) -> list[nn.Module]:
        pre_norm = getattr(self.model.config, "do_stable_layer_norm", False)
        return [self.model.encoder.layer_norm] if pre_norm else []

    @property
    def mask_embedding(self) -> nn.Parameter | None:
        return getattr(self.model, "masked_spec_embed", None)

    def rebuilding(self) -> dict[str, Any]:
        values = json.loads(json.dumps(self.model.config.to_dict(), default=str))
        return {"config": values, "do_normalize": self.normalize}

    def settings(self) -> str:
        values = {k: v for k, v in self.model.config.to_dict().items() if k not in UNINFORMATIVE}
        return json.dumps({"config": values, "normalize": self.normalize}, sort_keys=True, default=str)

    def convolve(self, waveforms: Tensor) -> Tensor:
        return self.model.feature_extractor(waveforms).transpose(1, 2)

    def transform(self, features: Tensor, padding: Tensor) -> list[Tensor]:
        projected = self.model.feature_projection(features)
        if isinstance(projected, tuple):  # all models but HuBERT also return the normalised features
            projected = projected[0]
        projected = self.mask_inputs(projected, (~padding).sum(1))
        encoder = self.model.encoder
        states: list[Tensor] = []
        # Hooks, because `hidden_states` of transformers omits the final norm of pre-norm models, and has changed between
        # versions.
        with ExitStack() as hooks:
            for block in encoder.layers:
                hooks.callback(block.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0])).remove)
            hooks.enter_context(self.fine_tuned_blocks())
            if padding.any():
                hooks.enter_context(_zero_padding(encoder.pos_conv_embed, padding))
                last = encoder(projected, attention_mask=~padding).last_hidden_state
            else:
                last = encoder(projected).last_hidden_state
        return [*states, last]


@contextmanager
def _zero_padding(positional: nn.Module, padding: Tensor) -> Iterator[None]:
    """Let each positional convolution see zeros in the padding, as it would at the end of an unpadded row.

    Otherwise the second of data2vec's five convolutions would see what the first wrote into the padding, and a batch norm
    before a convolution would turn zeros into other values.
    """
    outside = padding[:, None, :]
    convolutions = [module for module in positional.modules() if isinstance(module, nn.Conv1d)]
    handles = [c.register_forward_pre_hook(lambda _, x: (x[0].masked_fill(outside, 0.0),)) for c in convolutions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def load(source: str, overrides: dict[str, Any], masked: bool = False) -> tuple[nn.Module, bool | None]:
    """The model in fp32 on the CPU, from the hub or a folder, and `do_normalize` of its preprocessor, if any.

    With `masked`, it has a mask embedding, a new one if the checkpoint has none.
    """
    try:
        import transformers
    except ImportError as error:
        raise UserError(f"hf:{source} needs the transformers library: {pip_install('hf')}") from error
    if (kept := read_trained(source, "config")) is not None:
        return _from_run(transformers, source, overrides, masked, *kept)
    if not Path(source).is_dir() and (source.startswith(("/", ".", "~")) or source.count("/") > 1):
        raise UserError(f"hf:{source}: no such folder, and not a name on the Hugging Face hub (those are OWNER/NAME)")
    try:
        for weights in sorted(Path(source).glob("*.bin")):  # none if `source` is a name on the hub
            check_sums(weights)
    except CheckpointError as error:
        raise UserError(f"hf:{error}") from error
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # otherwise it prints a table of the tensors that are left out on purpose
    try:
        found = transformers.AutoConfig.from_pretrained(source, trust_remote_code=False)
        config = _configure(found, source, overrides, masked)
        preprocessor = _preprocessor(transformers, source)
        model, report = transformers.AutoModel.from_pretrained(
            source, config=config, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except UserError:
        raise
    except Exception as error:  # the library validates with exceptions of its own
        raise UserError(f"hf:{source}: {_reason(source, error)}") from error
    finally:
        transformers.logging.set_verbosity(verbosity)
    try:
        check_finite(model.state_dict(), f"hf:{source}")
    except CheckpointError as error:
        raise UserError(str(error)) from error
    missing = sorted(set(map(str, report["missing_keys"])) - {EMBEDDING})
    if missing:
        raise UserError(f"hf:{source}: the weights do not fit config.json; they lack {', '.join(missing[:3])}")
    if EMBEDDING in report["missing_keys"]:
        model.masked_spec_embed = nn.Parameter(new_mask_embedding(config.hidden_size))
    config.mask_time_prob = 0.0
    return model, preprocessor.get("do_normalize")


def _from_run(
    transformers: Any,
    source: str,
    overrides: dict[str, Any],
    masked: bool,
    record: dict[str, Any],
    state: dict[str, Tensor],
) -> tuple[nn.Module, bool]:
    """The same from a head's checkpoint that holds the encoder."""
    values = dict(record["config"])
    config = _configure(transformers.AutoConfig.for_model(**values), source, overrides, masked)
    state = {name.removeprefix("model."): value for name, value in state.items()}
    if masked and EMBEDDING not in state:
        state[EMBEDDING] = new_mask_embedding(config.hidden_size)
    elif not masked:
        state.pop(EMBEDDING, None)
    with torch.random.fork_rng(devices=[]):  # the random weights are overwritten
        model = transformers.AutoModel.from_config(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{source}: its weights do not fit the fields that were changed ({', '.join(overrides) or 'none'}); do not "
            "change fields that set the shape of the encoder"
        ) from error
    config.mask_time_prob = 0.0
    return model.eval(), record["do_normalize"]


def _configure(config: Any, source: str, overrides: dict[str, Any], masked: bool) -> Any:
    if (kind := config.model_type) not in MODEL_TYPES:
        known = ", ".join(MODEL_TYPES)
        raise UserError(f"hf:{source} is of model_type {kind}; give one of {known}, or write your own Upstream")
    for name in overrides:
        if not hasattr(config, name):
            raise UserError(f"overrides: the configuration of {source} has no field {name!r}")
        if name in SWITCHED_OFF:
            raise UserError(f"overrides: {name} is always off in an upstream; remove it")
    for name, value in {**overrides, **SWITCHED_OFF}.items():
        setattr(config, name, value)
    if masked:
        config.mask_time_prob = 1.0  # makes the library create the mask embedding
    return config


def _preprocessor(transformers: Any, source: str) -> dict[str, Any]:
    try:
        values = transformers.Wav2Vec2FeatureExtractor.get_feature_extractor_dict(source)[0]
    except OSError:  # some checkpoints have no preprocessor configuration
        return {}
    if not isinstance(values, dict):
        raise UserError(f"hf:{source}: its preprocessor_config.json holds {type(values).__name__} instead of an object")
    normalize = values.get("do_normalize")
    if normalize is not None and not isinstance(normalize, bool):
        raise UserError(
            f"hf:{source}: do_normalize in its preprocessor_config.json is {shown(normalize)}, not true or false"
        )
    rate = values.get("sampling_rate", SAMPLE_RATE)
    if rate != SAMPLE_RATE:
        raise UserError(f"hf:{source} needs audio at {rate} Hz, but corpora have {SAMPLE_RATE} Hz")
    return values


def _reason(source: str, error: Exception) -> str:
    if isinstance(error, OSError) and not Path(source).is_dir():
        return (
            "neither a folder here nor available from the Hugging Face hub (offline, no such model, or no access to "
            "it); download it elsewhere and give its folder"
        )
    return f"not loadable by the transformers library: {reason_of(error).rstrip('.')}"
