"""`wavlm convert`: recordings in the voice of other recordings, by kNN-VC."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output

if TYPE_CHECKING:
    import torch

    from wavlm_lightning.tasks.generation.voice_matching import VoiceMatching

ENOUGH = 300.0  # seconds of a voice, after which kNN-VC gets hardly better (Baas et al. 2023, section 4)
LITTLE = 30.0  # seconds of a voice, below which a note says so


def convert_recordings(
    run: str | Path,
    recordings: Sequence[str | Path],
    voice: Sequence[str | Path],
    out: str | Path,
    *,
    layer: int | None = None,
    k: int = 4,
    audio_format: str = "wav",
    on_error: Literal["stop", "skip"] | None = None,
    device: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Say recordings in another voice: each frame becomes the mean of its `k` nearest frames of that voice (kNN-VC).

    Args:
        run: run folder of a vocoder (`configs/fullstack/vocoder.yaml`), or an encoder as `wavlm superb` takes it, whose
            conversions Griffin-Lim makes audible without any training.
        recordings: audio files, or folders of them.
        voice: recordings of one speaker, or folders of them; five minutes are plenty.
        out: folder for the conversions, one file for each recording.
        layer: of the encoder, whose frames are compared; that at a quarter of its height by default, 6 of WavLM Large.
        k: frames of the voice of which the mean is taken.
        audio_format: `wav` or `flac`; 16 bit, 16 kHz.
        on_error: `stop` at a recording that cannot be used, or `skip` it with a warning. By default all others are converted, and
            an error at the end says how many are left out. A recording of the voice that cannot be used always stops.
        device: such as `cuda`; the GPU if there is one by default.

    Yields:
        For each recording `file`, `audio` (the path of the conversion), `seconds`, and if samples beyond full scale had to be
        clipped their number, `clipped`.

    Raises:
        UserError: the run is no vocoder, the voice has too little speech or is among the recordings, or (unless
            `on_error="skip"`) a recording cannot be used.

    Example:
        >>> for row in convert_recordings("runs/mini/heads/vocoder", ["me.wav"], ["her"], "converted"):
        ...     print(row["audio"])
    """
    check_output(out)
    if k < 1:
        raise UserError(f"--k {k}: give 1 or more")
    import numpy as np

    from wavlm_lightning.audio import SAMPLE_RATE
    from wavlm_lightning.data.finding import printable
    from wavlm_lightning.system.files import locked
    from wavlm_lightning.system.progress import progress_bar
    from wavlm_lightning.workflows.predict.audio_files import AudioWriter
    from wavlm_lightning.workflows.predict.recordings import audio_files
    from wavlm_lightning.workflows.predict.written import LOCK

    given = [Path(each) for each in recordings]
    paths = list(dict.fromkeys(path for each in given for path in audio_files(each)))
    references = list(dict.fromkeys(path for each in voice for path in audio_files(Path(each))))
    heard = {path.resolve() for path in paths}
    if both := next((path for path in references if path.resolve() in heard), None):
        raise UserError(
            f"--voice: {printable(both)} is one of the recordings to be converted, whose frames would find themselves; leave "
            "it out of one of the two"
        )
    matching, reader = open_matching(run, layer, k, device)
    failures: list[str] = []
    with contextlib.ExitStack() as stack:
        place = Path(out)
        writer = AudioWriter(place, paths, [*given, *map(Path, voice)], audio_format)
        busy = f"{place}: another process is writing there; wait for it, or choose another --out"
        stack.enter_context(locked(place / LOCK, busy, optional=True, temporary=True))
        # Once: it also names a file that cannot be used before anything is converted.
        target = matching.voice(reader.read(path) for path in references)
        seconds = len(target) * matching.hop / SAMPLE_RATE
        if len(target) < k:
            raise UserError(
                f"--voice: {len(target)} frames of speech, and --k {k} asks for as many; give more recordings"
            )
        print(described(matching, len(references), seconds), file=sys.stderr)
        hidden = len(paths) < 2 or sys.stdout.isatty()
        bar = stack.enter_context(progress_bar(total=len(paths), unit=" files", desc="convert", disable=hidden))
        for path in paths:
            try:
                recording = reader.read(path)
            except UserError as error:
                if on_error == "stop" or (on_error is None and len(paths) == 1):
                    raise
                failures.append(str(error))
                print(f"left out: {error}", file=sys.stderr)
                bar.update()
                continue
            answer = (matching.convert(recording, target) / reader.factor).cpu().numpy()  # at the level of the voice
            if not np.isfinite(answer).all():
                raise UserError(f"{run}: its answer holds NaN or infinite numbers; it has diverged in training")
            row = writer.write(path, answer)
            bar.update()
            yield {
                "file": printable(path),
                **row,
                "audio": str(place / row["audio"]),
                "seconds": round(len(answer) / SAMPLE_RATE, 2),
            }
    if failures and on_error is None:
        raise UserError(
            f"{len(failures)} of {len(paths)} recordings are left out ({failures[0]}); repair them or move them away, or accept "
            "it with --on-error skip"
        )


@dataclass(frozen=True)
class Reader:
    """Reads recordings as the vocoder heard them in training.

    Attributes:
        gain_db: of every recording.
        shortest: samples of the shortest recording with a frame.
        device: where the waveforms go.
    """

    gain_db: float
    shortest: int
    device: torch.device

    @property
    def factor(self) -> float:
        """The gain of an amplitude."""
        return 10 ** (self.gain_db / 20)

    def read(self, path: Path) -> torch.Tensor:
        """The waveform `(samples,)`, or a `UserError`."""
        import torch

        from wavlm_lightning.audio import BadAudio, amplified, check_length, load_mono
        from wavlm_lightning.data.finding import printable

        try:
            waveform = load_mono(path)
            check_length(waveform, str(path), self.shortest)
        except (BadAudio, OSError) as error:
            raise UserError(printable(f"{error}; leave it out")) from error
        return torch.from_numpy(amplified(waveform, self.gain_db) if self.gain_db else waveform).to(self.device)


def open_matching(
    run: str | Path, layer: int | None, k: int, device: str | None = None
) -> tuple[VoiceMatching, Reader]:
    """What `run` of `convert_recordings` names, ready to convert, and what reads recordings for it.

    Raises:
        UserError: it is the run of another head, no encoder, or has no such layer.
    """
    from wavlm_lightning.system.hardware import choose_device
    from wavlm_lightning.tasks.generation.vocoder import Vocoder
    from wavlm_lightning.tasks.generation.voice_matching import VoiceMatching, matching_layer
    from wavlm_lightning.upstreams.specs import build
    from wavlm_lightning.workflows.predict.head import holds_head, open_head

    if not holds_head(Path(run)):
        place, upstream = choose_device(device), build(str(run)).eval()
        number = matching_layer(upstream, layer, "--layer")
        return VoiceMatching(upstream.to(place), None, number, k), Reader(0.0, upstream.shortest, place)
    head = open_head(Path(run), device)
    if not isinstance(head.task, Vocoder):
        raise UserError(
            f"{run}: holds a head for {head.task.name}; give the run of a vocoder (configs/fullstack/vocoder.yaml), or an "
            "encoder, whose conversions Griffin-Lim makes audible"
        )
    upstream = head.task.upstream
    matching = VoiceMatching(upstream, head.task, matching_layer(upstream, layer, "--layer"), k)
    return matching, Reader(head.gain_db, upstream.shortest, head.device)


def described(matching: VoiceMatching, recordings: int, seconds: float) -> str:
    """What a conversion uses, in one line, with a note if there is little of the voice."""
    way = "Griffin-Lim (no vocoder)" if matching.vocoder is None else "the vocoder"
    files = f"{recordings} recording{'s' if recordings > 1 else ''}"
    line = (
        f"voice: {files}, {seconds:.0f} s; layer {matching.layer} of {matching.upstream.label}, k {matching.k}, {way}"
    )
    if seconds < LITTLE:
        line += f"; with more of the voice, up to {ENOUGH / 60:.0f} minutes, conversions get better"
    return line
