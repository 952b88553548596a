"""wav2vec 2.0, HuBERT and WavLM of torchaudio: its pipelines, or a model that you built."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn
from torchaudio.models import Wav2Vec2Model, wav2vec2_model, wavlm_model

from wavlm_lightning.encoder import CheckpointError
from wavlm_lightning.encoder.checkpoints.formats import match_state
from wavlm_lightning.encoder.checkpoints.huggingface import rename
from wavlm_lightning.encoder.checkpoints.labels_seen import labels_seen
from wavlm_lightning.encoder.checkpoints.tensor_files import read_tensors
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.system.reading import reading
from wavlm_lightning.upstreams.fine_tuning import FineTuning, new_mask_embedding
from wavlm_lightning.upstreams.run_checkpoints import newest_checkpoint, read_trained
from wavlm_lightning.upstreams.waveform_encoder import WaveformEncoder

BUILDERS = {"Wav2Vec2": wav2vec2_model, "WavLM": wavlm_model}  # by `_model_type` of a bundle
# Names in a `TorchaudioModel` -> in a `Wav2Vec2Model`.
PARTS = {
    "front_end.": "feature_extractor.",
    "feature_projection.": "encoder.feature_projection.",
    "transformer.": "encoder.transformer.",
}
EMBEDDING = "masked_spec_embed"


class TorchaudioModel(WaveformEncoder):
    """A torchaudio `Wav2Vec2Model` that you built, with all hidden states.

    Args:
        model: from `torchaudio.models` (`wav2vec2_model`, `hubert_base`, `wavlm_model`, ...) or from one of
            torchaudio's importers; a fine-tuned model's output layer is left out.
        normalize: whether waveforms get zero mean and unit variance.
        label: name in tables.
        frozen: False trains the encoder with the head.
        differentiable: let gradients pass a frozen encoder to the waveform.
        fine_tuning: how the encoder is trained, if it is not frozen.
        mask_embedding: what stands for masked frames in fine-tuning, `(dim,)`; torchaudio's models have none. A new one if
            left out.

    Example:
        >>> model = torchaudio.models.wav2vec2.utils.import_huggingface_model(hubert)
        >>> TorchaudioModel(model, normalize=False, label="my HuBERT").num_layers
        13
    """

    def __init__(
        self,
        model: Wav2Vec2Model,
        normalize: bool,
        label: str,
        frozen: bool = True,
        differentiable: bool = False,
        fine_tuning: FineTuning | None = None,
        mask_embedding: Tensor | None = None,
    ) -> None:
        super().__init__(frozen, differentiable, fine_tuning)
        self.label, self.normalize = label, normalize
        self.front_end = model.feature_extractor
        self.feature_projection = model.encoder.feature_projection
        self.transformer = model.encoder.transformer
        self.dim = self.transformer.pos_conv_embed.embed_dim
        self.num_layers = len(self.transformer.layers) + 1
        layers = [(layer.kernel_size, layer.stride) for layer in self.front_end.conv_layers]
        self.describe_convolutions(layers, self.front_end)
        self.masked_spec_embed: nn.Parameter | None = None
        if fine_tuning is not None:
            if fine_tuning.time_mask_probability > 0:
                if mask_embedding is None:
                    mask_embedding = new_mask_embedding(self.dim)
                self.masked_spec_embed = nn.Parameter(mask_embedding.detach().clone().float())
            self._set_dropouts(fine_tuning)
        self.freeze()

    def _set_dropouts(self, settings: FineTuning) -> None:
        blocks = self.transformer.layers
        insides = [block.feed_forward for block in blocks]
        modules = {
            "dropout": [self.transformer.dropout, *(b.dropout for b in blocks), *(i.output_dropout for i in insides)],
            "activation_dropout": [inside.intermediate_dropout for inside in insides],
            "input_dropout": [self.feature_projection.dropout],
        }
        for name, found in modules.items():
            for module in found:
                module.p = module.p if getattr(settings, name) is None else getattr(settings, name)
        for block in blocks:
            if settings.attention_dropout is not None:
                block.attention.dropout = settings.attention_dropout

    def blocks(self) -> list[nn.Module]:
        return list(self.transformer.layers)

    def waveform_convolutions(self) -> nn.Module:
        return self.front_end

    def after_blocks(self) -> list[nn.Module]:
        return [] if self.transformer.layer_norm_first else [self.transformer.layer_norm]

    @property
    def mask_embedding(self) -> nn.Parameter | None:
        return self.masked_spec_embed

    def settings(self) -> str:
        block = self.transformer.layers[0]
        # Relative positions of WavLM; other models do not have these attributes.
        distances = [getattr(block.attention, name, None) for name in ("num_buckets", "max_distance")]
        return (
            f"normalize={self.normalize} convolutions={self.convolutions} heads={block.attention.num_heads} "
            f"pre_norm={block.layer_norm_first} groups={self.transformer.pos_conv_embed.conv.groups} {distances}"
        )

    def convolve(self, waveforms: Tensor) -> Tensor:
        return self.front_end(waveforms, None)[0]

    def transform(self, features: Tensor, padding: Tensor) -> list[Tensor]:
        # torchaudio's own loop gives block outputs only, without the final norm, and cannot mask a WavLM.
        x = self.mask_inputs(self.feature_projection(features), (~padding).sum(1))
        masks: dict[str, Tensor] = {}
        if padding.any():
            x = x.masked_fill(padding[:, :, None], 0.0)
            batch, frames = padding.shape
            if hasattr(self.transformer.layers[0].attention, "rel_attn_embed"):
                masks["key_padding_mask"] = padding
            else:
                masks["attention_mask"] = ~padding[:, None, None, :].expand(batch, 1, frames, frames)
        # `layer_norm_first` of the transformer means a norm before all blocks, which post-norm models have.
        norm_before = self.transformer.layer_norm_first
        x = x + self.transformer.pos_conv_embed(x)
        x = self.transformer.dropout(self.transformer.layer_norm(x) if norm_before else x)
        states, position_bias = [], None
        with self.fine_tuned_blocks():
            for block in self.transformer.layers:
                states.append(x)
                x, position_bias = block(x, position_bias=position_bias, **masks)
        return [*states, x if norm_before else self.transformer.layer_norm(x)]


class TorchaudioUpstream(TorchaudioModel):
    """A model of `torchaudio.pipelines`, with all hidden states.

    Args:
        bundle: name in `torchaudio.pipelines`, such as `HUBERT_BASE`, `WAV2VEC2_LARGE_LV60K` or `WAVLM_BASE_PLUS`.
        label: name in tables; the name of the bundle by default.
        weights: file with its state dict, for machines without a network, or the run folder or checkpoint of a head that
            trained such an encoder; by default torchaudio downloads it once.
        frozen: False trains the encoder with the head.
        differentiable: let gradients pass a frozen encoder to the waveform.
        fine_tuning: how the encoder is trained, if it is not frozen.

    Raises:
        UserError: there is no such bundle, its weights cannot be loaded, or the file does not fit.

    Example:
        >>> TorchaudioUpstream("HUBERT_BASE").num_layers
        13
    """

    source_argument = "weights"

    def __init__(
        self,
        bundle: str = "HUBERT_BASE",
        label: str | None = None,
        weights: str | None = None,
        frozen: bool = True,
        differentiable: bool = False,
        fine_tuning: FineTuning | None = None,
    ) -> None:
        found, embedding = find_bundle(bundle), None
        if weights and (kept := read_trained(weights, "bundle")) is not None:
            if kept[0]["bundle"] != bundle:
                raise UserError(f"{weights}: its encoder is torchaudio's {kept[0]['bundle']}; set bundle to that")
            model, embedding = rebuild(BUILDERS[found._model_type], found._params, kept[1], Path(weights))
        else:
            model = _read(found, bundle, Path(weights)) if weights else _download(found, bundle)
        super().__init__(
            model, found._normalize_waveform, label or bundle, frozen, differentiable, fine_tuning, embedding
        )
        self.bundle = bundle
        if weights:
            self.labelled = tuple(labels_seen(newest_checkpoint(Path(weights))))

    def rebuilding(self) -> dict[str, Any]:
        return {"bundle": self.bundle}


def bundles() -> dict[str, Any]:
    """The models of `torchaudio.pipelines` by name."""
    kind = torchaudio.pipelines.Wav2Vec2Bundle
    found = {name: getattr(torchaudio.pipelines, name) for name in torchaudio.pipelines.__all__}
    return {name: bundle for name, bundle in found.items() if isinstance(bundle, kind)}


def find_bundle(name: str) -> Any:
    """The bundle of a name; a UserError lists the names."""
    known = bundles()
    if name not in known:
        hint = nearest(name.upper(), list(known)) or f"; it has {', '.join(sorted(known))}"
        raise UserError(f"torchaudio:{name}: torchaudio.pipelines has no model {name!r}{hint}")
    return known[name]


def _download(bundle: Any, name: str) -> Wav2Vec2Model:
    try:
        # Without weights_only, torch.hub would unpickle whatever the server sends.
        model: nn.Module = bundle.get_model(dl_kwargs={"weights_only": True, "map_location": "cpu"})
    except Exception as error:
        raise UserError(
            f"torchaudio:{name}: its weights could neither be read from the torch hub cache nor downloaded "
            f"({type(error).__name__}); fetch them where there is a network and give weights=FILE"
        ) from error
    # The wrapper of some models normalises over the whole batch, padding included.
    return model if isinstance(model, Wav2Vec2Model) else model.model


def _read(bundle: Any, name: str, path: Path) -> Wav2Vec2Model:
    if not path.is_file():
        raise UserError(f"torchaudio:{name}: no file {path}; weights is the state dict of that model")
    try:
        state = rename(read_tensors(path))
    except CheckpointError as error:
        raise UserError(str(error)) from error
    with reading(path, f"the weights of torchaudio:{name}"):
        return build(BUILDERS[bundle._model_type], bundle._params, state, path)


def rebuild(
    builder: Any, parameters: dict[str, Any], state: dict[str, Tensor], path: Path
) -> tuple[Wav2Vec2Model, Tensor | None]:
    """The model and the mask embedding, if there is one, from the weights of a `TorchaudioModel` that a run has trained."""
    embedding = state.get(EMBEDDING)
    places = {name: next((old for old in PARTS if name.startswith(old)), "") for name in state if name != EMBEDDING}
    renamed = {PARTS.get(old, "") + name.removeprefix(old): state[name] for name, old in places.items()}
    return build(builder, parameters, renamed, path), embedding


def build(builder: Any, parameters: dict[str, Any], state: dict[str, Tensor], path: Path) -> Wav2Vec2Model:
    """A model with given weights under torchaudio's names; an output layer among them is left out.

    `builder` is `wav2vec2_model` or `wavlm_model`. A UserError says if the weights, read from `path`, do not fit.
    """
    # The random weights are overwritten, so the caller's random numbers should not change.
    with torch.random.fork_rng(devices=[]):
        model = builder(**{**parameters, "aux_num_out": None})
    state = {name: tensor for name, tensor in state.items() if not name.startswith("aux.")}
    try:
        model.load_state_dict(match_state(state, model.state_dict(), path))
    except CheckpointError as error:
        raise UserError(str(error)) from error
    return model.eval()
