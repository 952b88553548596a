"""`wavlm convert VOCODER FILE... --voice PATH --out DIR`: recordings in another voice."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.system.arguments import whole


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm convert`; names of options are those of arguments of `convert_recordings`."""
    parser = argparse.ArgumentParser(
        prog="wavlm convert",
        description="Say recordings in the voice of other recordings, in any language and any words (kNN-VC): each frame of "
        "an encoder becomes the mean of the nearest frames of that voice, and a vocoder makes them audible.",
    )
    run = "run folder of a vocoder (wavlm fit -c configs/fullstack/vocoder.yaml); or an encoder (run folder, hf:NAME), which "
    parser.add_argument("run", metavar="VOCODER", help=f"{run}Griffin-Lim makes audible")
    parser.add_argument("recordings", type=Path, nargs="+", metavar="FILE", help="recordings, or folders of them")
    voice = "recordings of one speaker, or folders of them; five minutes are plenty"
    parser.add_argument("--voice", type=Path, nargs="+", required=True, metavar="PATH", help=voice)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the conversions")
    layer = "layer whose frames are compared, from 0; by default that at a quarter of the height, 6 of WavLM Large"
    parser.add_argument("--layer", type=int, metavar="N", help=layer)
    parser.add_argument(
        "--k", type=whole, default=4, metavar="N", help="nearest frames that are averaged (%(default)s)"
    )
    parser.add_argument(
        "--audio-format",
        choices=("wav", "flac"),
        default="wav",
        help="of the conversions: 16 bit, 16 kHz (%(default)s)",
    )
    on_error = "a recording that cannot be used: stop there, or skip it with a warning; by default fail at the end"
    parser.add_argument("--on-error", choices=("stop", "skip"), help=on_error)
    parser.add_argument("--device", help="such as cuda; the GPU if there is one by default")
    return parser


def main(argv: list[str]) -> int:
    """Print the path of each conversion."""
    options = vars(build_parser().parse_args(argv))
    from wavlm_lightning.workflows.convert import convert_recordings

    for row in convert_recordings(**options):
        clipped = f", {row['clipped']} samples clipped" if "clipped" in row else ""
        print(f"{row['file']}: {row['audio']} ({row['seconds']:.1f} s{clipped})", flush=True)
    return 0
