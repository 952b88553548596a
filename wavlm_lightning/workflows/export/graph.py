"""`wavlm export --format onnx|torch`: an encoder, alone or with its head, as a graph that runs without this package."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import wavlm_lightning
from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.batch import Waveforms
from wavlm_lightning.encoder import Layers, WavLM
from wavlm_lightning.encoder.exportable import ExportableEncoder
from wavlm_lightning.system.errors import UserError, pip_install
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.progress import timed
from wavlm_lightning.upstreams import WavLMUpstream
from wavlm_lightning.workflows.predict.head import TrainedHead

FILES: dict[str, str] = {"onnx": "model.onnx", "torch": "model.pt2"}
DESCRIPTION = "model.json"
VALID_FRAMES = "int64 (batch,), valid frames of each row"
# Largest accepted difference from the model's output, relative to its largest number, or absolute if that is below 1.
TOLERANCE = 1e-4


class ExportableHead(nn.Module):
    """Encoder of the WavLM family, weighted sum and head in one graph.

    Example:
        >>> scores, lengths = ExportableHead(open_head(Path("runs/demo/ks")))(waveforms, lengths)
    """

    def __init__(self, head: TrainedHead) -> None:
        super().__init__()
        upstream = head.task.upstream
        assert isinstance(upstream, WavLMUpstream)
        self.task, self.factor = head.task, 10 ** (head.gain_db / 20)
        self.states = slice(-upstream.num_layers, None)  # a head of transformers may read only the last layer
        eps = getattr(upstream, "normalize_eps", None)
        self.encoder = ExportableEncoder(upstream.encoder, _normalize_eps(upstream.encoder) if eps is None else eps)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Waveforms `(batch, samples)` and lengths `(batch,)` to what the task's `forward` returns."""
        waveforms = waveforms * self.factor
        hidden, frames = self.encoder(waveforms, lengths)
        layers = Layers(hidden[self.states], frames, self.task.upstream.frame_rate)
        outputs, valid = self.task.from_layers(layers, Waveforms(waveforms, lengths))
        if self.task.answer == "waveform":
            return outputs / self.factor, valid.clone()  # ONNX has no graph whose output is an input
        return outputs, valid


def write_encoder(encoder: WavLM, folder: Path, form: str) -> float:
    """Write all hidden states of an encoder as a graph; see `write_graph`."""
    outputs = {"hidden": "all hidden states, (layers + 1, batch, frames, dim)", "frames": VALID_FRAMES}
    facts = {"outputs": outputs, "layers": encoder.config.layers}

    def expected(waveforms: Tensor, lengths: Tensor) -> Tensor:
        return encoder(waveforms, lengths).hidden

    return write_graph(ExportableEncoder(encoder, _normalize_eps(encoder)), expected, folder, form, encoder, facts, 2)


def write_head_graph(head: TrainedHead, folder: Path, form: str) -> float:
    """Write encoder and head as a graph, see `write_graph`; a `UserError` if that is impossible for this head."""
    task = head.task
    if not isinstance(task.upstream, WavLMUpstream):
        kind, ours = type(task.upstream).__name__, "only encoders of the WavLM family are exported as graphs"
        raise UserError(f"--format {form}: the upstream of this head is a {kind}, and {ours}")
    if all(name.startswith("upstream.") for name, _ in task.named_parameters()):
        raise UserError(f"--format {form}: {task.name} has no head; export its encoder with --encoder")
    if task.answer == "text":
        raise UserError(
            f"--format {form}: {task.name} searches its answer label by label, which a graph does not; export its encoder with "
            "--encoder, and run the head with `wavlm predict`"
        )
    if any(isinstance(module, nn.RNNBase) for name, module in task.named_modules() if not name.startswith("upstream.")):
        raise UserError(
            f"--format {form}: the LSTMs of this {task.name} head would be fixed to one length by torch.export; export its "
            "encoder with --encoder and run the head with `wavlm predict`"
        )
    outputs = {"scores": "outputs of the head, see labels", "frames": VALID_FRAMES}
    if task.answer == "waveform":
        samples = "int64 (batch,), valid samples of each row"
        outputs = {"waveform": "float32 (batch, samples), sample by sample as the input", "samples": samples}
    facts = {"outputs": outputs, "task": task.name, "labels": task.labels}
    if head.gain_db:
        facts["gain_db"] = f"{head.gain_db:g}, in the graph"
    if head.trim:
        facts["trim"] = "quiet stretches were removed before training; remove them before the graph, too"

    def expected(waveforms: Tensor, lengths: Tensor) -> Tensor:
        factor = 10 ** (head.gain_db / 20)
        outputs, _ = task(Waveforms(waveforms * factor, lengths))
        return outputs / factor if task.answer == "waveform" else outputs

    # torch.export specialises a single frame.
    frames = 2 + task.lost_frames
    return write_graph(ExportableHead(head), expected, folder, form, task.upstream.encoder, facts, frames)


@timed("tracing, writing and comparing the graph")
def write_graph(
    module: nn.Module,
    expected: Callable[[Tensor, Tensor], Tensor],
    folder: Path,
    form: str,
    encoder: WavLM,
    facts: dict[str, Any],
    frames: int,
) -> float:
    """Trace and write a graph (`onnx` or `torch`), and compare it with the model on batches of several sizes and lengths.

    Args:
        module: maps waveforms `(batch, samples)` and lengths `(batch,)` to outputs and their valid frames or samples.
        expected: the same outputs, computed by the model.
        folder: made if missing; gets `model.onnx` or `model.pt2`, and `model.json` with the facts.
        form: `onnx` or `torch`.
        encoder: the encoder inside the module.
        facts: content of `model.json`.
        frames: smallest number of frames that the longest row of a batch must have.

    Returns the largest difference, measured as for `TOLERANCE`. A `UserError` if a library is missing, or if the graph
    does not agree with the model; then no file is left.
    """
    if form == "onnx":
        _need_onnx()
    module = module.eval().requires_grad_(False)
    config = encoder.config
    shortest = config.receptive_field + (frames - 1) * config.hop
    folder.mkdir(parents=True, exist_ok=True)
    path, description = folder / FILES[form], folder / DESCRIPTION
    for stale in (path, description):
        stale.unlink(missing_ok=True)
    part = path.with_name(f"{path.stem}.part{path.suffix}")
    example = _batch(3, shortest + 6000, config.receptive_field, 0)
    try:
        with _quiet(), torch.no_grad():
            _trace(module, example, part, form, list(facts["outputs"]))
            largest, tested = _compare(_runner(part, form), expected, shortest, config.receptive_field)
        if not largest <= TOLERANCE:
            raise UserError(
                f"--format {form}: the graph is off by {largest:.1e} from the model, more than {TOLERANCE:g}, so it was not "
                "kept; please report this with the versions of torch and onnxruntime"
            )
        part.rename(path)
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:  # a user's head may hold any Python code, on which tracers fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(".")
        said = "torch cannot make a graph of the model for any batch and length"
        raise UserError(f"--format {form}: {said} ({reason})") from error
    finally:
        part.unlink(missing_ok=True)
    content = {
        "inputs": {
            "waveforms": f"float32 (batch, samples), at least {shortest} samples: add zeros behind shorter rows",
            "lengths": f"int64 (batch,), valid samples of each row, at least {config.receptive_field}",
        },
        "outputs": facts.pop("outputs"),
        "sample_rate": SAMPLE_RATE,
        "frame_rate": config.frame_rate,
        **facts,
        "checked": {"batches": tested, "largest_difference": largest},
        "versions": {"wavlm_lightning": wavlm_lightning.__version__, "torch": torch.__version__},
    }
    write_json(description, content, ensure_ascii=False)
    return largest


def _trace(module: nn.Module, example: tuple[Tensor, Tensor], path: Path, form: str, names: list[str]) -> None:
    free = torch.export.Dim.AUTO  # numbers of rows and samples
    shapes = {"waveforms": {0: free, 1: free}, "lengths": {0: free}}
    program = torch.export.export(module, example, dynamic_shapes=shapes)
    if form == "torch":
        torch.export.save(program, path)
        return
    onnx = torch.onnx.export(program, dynamo=True, verbose=False, output_names=names, optimize=True)
    assert onnx is not None
    onnx.save(path, external_data=False)


def _compare(
    run: Callable[[Tensor, Tensor], Tensor], expected: Callable[[Tensor, Tensor], Tensor], shortest: int, least: int
) -> tuple[float, list[list[int]]]:
    """The largest difference, and the tested sizes `[batch, samples]`."""
    sizes = [[1, shortest], [1, SAMPLE_RATE], [2, SAMPLE_RATE + 4321], [4, 2 * SAMPLE_RATE + 77]]
    largest = 0.0
    for seed, (rows, samples) in enumerate(sizes, start=1):
        batch = _batch(rows, samples, least, seed)
        wanted, given = expected(*batch), run(*batch)
        if given.shape != wanted.shape:
            shapes = f"{tuple(given.shape)} instead of {tuple(wanted.shape)}"
            raise UserError(f"the graph gives {shapes}, so it was not kept")
        difference = (given - wanted).abs().max().item() / max(1.0, wanted.abs().max().item())
        largest = max(largest, difference) if difference == difference else float("inf")  # NaN is a difference
    return largest, sizes


def _batch(rows: int, samples: int, least: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noise of random lengths; the first row has the full length."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(least, samples + 1, (rows,), generator=generator)
    lengths[0] = samples
    waveforms = 0.1 * torch.randn(rows, samples, generator=generator)
    return waveforms.masked_fill(torch.arange(samples) >= lengths[:, None], 0.0), lengths


def _runner(path: Path, form: str) -> Callable[[Tensor, Tensor], Tensor]:
    if form == "torch":
        module = torch.export.load(path).module()
        return lambda waveforms, lengths: module(waveforms, lengths)[0]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(waveforms: Tensor, lengths: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"waveforms": waveforms.numpy(), "lengths": lengths.numpy()})[0])

    return run


def _normalize_eps(encoder: WavLM) -> float | None:
    return 1e-5 if encoder.config.normalize_waveform else None


def _need_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--format onnx needs {error.name}: {pip_install('onnx')}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide torch's messages about optional packages and deprecations."""
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logger.setLevel(before)
