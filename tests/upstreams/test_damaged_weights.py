"""Weights that were damaged are refused at every door, by name: flipped bits, NaN, infinity."""

from __future__ import annotations

import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from upstream_helpers import SIZES

from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.encoder import WavLM, WavLMConfig
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams import FairseqUpstream, HuggingFaceUpstream, TorchaudioUpstream, WavLMUpstream
from wavlm_lightning.upstreams.wavlm import ENCODER_KEY, load_encoder, read_run_checkpoint

TINY = WavLMConfig.preset("tiny", layers=1, ffn_dim=32)


def encoder() -> WavLM:
    torch.manual_seed(0)
    return WavLM(TINY).eval()


def run_checkpoint(folder: Path) -> Path:
    path = folder / "last.ckpt"
    state = {f"encoder.{name}": value for name, value in encoder().state_dict().items()}
    torch.save({"state_dict": state, ENCODER_KEY: TINY.to_dict()}, path)
    return path


def huggingface_folder(folder: Path, safe: bool) -> Path:
    import transformers

    torch.manual_seed(0)
    model = transformers.HubertModel(transformers.HubertConfig(**SIZES))
    model.save_pretrained(folder)
    if not safe:
        (folder / "model.safetensors").unlink()
        torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder / ("model.safetensors" if safe else "pytorch_model.bin")


# The file that is damaged, and how it is opened.
DOORS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], Any]]] = {
    "a run": (run_checkpoint, load_encoder),
    "an upstream of a run": (run_checkpoint, lambda path: WavLMUpstream(str(path))),
    "hf, safetensors": (lambda f: huggingface_folder(f, True), lambda path: HuggingFaceUpstream(str(path.parent))),
    "hf, bin": (lambda f: huggingface_folder(f, False), lambda path: HuggingFaceUpstream(str(path.parent))),
    "our reader, bin": (lambda f: huggingface_folder(f, False), lambda path: load_encoder(path.parent)),
    "our reader, safetensors": (lambda f: huggingface_folder(f, True), lambda path: load_encoder(path.parent)),
}


def change_value(path: Path, value: float) -> None:
    """Write one number into a weight, with right check sums: what a diverged training leaves."""
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file, save_file

        state = {name: tensor.clone() for name, tensor in load_file(path).items()}
        next(t for name, t in state.items() if name.endswith("attention.k_proj.weight")).view(-1)[3] = value
        save_file(state, path, metadata={"format": "pt"})
        return
    content = torch.load(path, weights_only=True)
    state = content.get("state_dict", content)
    next(t for name, t in state.items() if name.endswith("attention.k_proj.weight")).view(-1)[3] = value
    torch.save(content, path)


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_weight_that_is_no_number_is_refused(tmp_path, door, value):
    make, load = DOORS[door]
    path = make(tmp_path)
    load(path)  # as it was, it loads
    change_value(path, value)
    with pytest.raises(UserError, match=r"k_proj\.weight are NaN or infinite") as caught:
        load(path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("door", [name for name in DOORS if "safetensors" not in name])
def test_a_flipped_bit_is_refused(tmp_path, door):
    make, load = DOORS[door]
    path = make(tmp_path)
    flip_a_bit(path)
    with pytest.raises(UserError, match="damaged after it had been written") as caught:
        load(path)
    assert str(tmp_path) in str(caught.value)


def flip_a_bit(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        largest = max(archive.infolist(), key=lambda info: info.file_size)
    data = bytearray(path.read_bytes())
    names, extra = struct.unpack("<HH", data[largest.header_offset + 26 : largest.header_offset + 30])
    data[largest.header_offset + 30 + names + extra + largest.file_size // 2] ^= 1
    path.write_bytes(data)


def test_a_flipped_bit_in_a_file_of_fairseq_and_of_torchaudio_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"model": encoder().state_dict(), "cfg": {"model": {}}}, path)
    flip_a_bit(path)
    for load in (lambda: FairseqUpstream(str(path)), lambda: TorchaudioUpstream("HUBERT_BASE", weights=str(path))):
        with pytest.raises(UserError, match="damaged after it had been written"):
            load()


def test_old_files_without_check_sums_are_read(tmp_path):
    path = run_checkpoint(tmp_path)
    content = torch.load(path, weights_only=True)
    torch.save(content, path, _use_new_zipfile_serialization=False)
    assert read_run_checkpoint(path)["state_dict"].keys() == content["state_dict"].keys()


def test_a_file_of_something_else_is_no_run(tmp_path):
    path = tmp_path / "last.ckpt"
    torch.save([1, 2, 3], path)
    with pytest.raises(UserError, match="not the checkpoint of a run"):
        read_run_checkpoint(path)


def test_a_codebook_of_no_numbers_is_refused(tmp_path):
    import numpy as np

    good = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    Codebook(good, 50.0, {"kind": "mfcc"}, {}).save(tmp_path / "good")
    Codebook.load(tmp_path / "good")
    for name, centroids in (("nan", np.where(np.eye(4, 3) > 0, np.nan, good)), ("flat", good[0])):
        Codebook(centroids.astype(np.float32), 50.0, {"kind": "mfcc"}, {}).save(tmp_path / name)
        with pytest.raises(UserError, match="not a matrix of finite numbers"):
            Codebook.load(tmp_path / name)
        shutil.rmtree(tmp_path / name)
