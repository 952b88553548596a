"""Corpora of real voices for tests alone: prompts in real noise, two talkers at once, one voice in another's place.

`--speech` is a folder with `manifest.csv` (path, speaker, language, text, seconds), the recordings, and a folder `noise`. Corpora
are laid out as the mini corpus' data sets of the same name, so that heads which were trained there can hear them.
"""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

import numpy as np
from real_voices import Clip, kept_or_written, mixture, read_clips

from wavlm_lightning.audio import SAMPLE_RATE, load_mono
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.system.errors import UserError

RATIOS_DB = (0, 5, 10)
SHORTEST = 0.5  # seconds of a noise; a shorter one would sound as a tone when it is repeated
# Beginnings of names that are no noise: music, and sound tests in which a voice says where it comes from.
NO_NOISE = ("music-", "effect-stereo-audio-channel-", "effect-stereo-audio-test")
PEAK = 0.9


def read_noises(speech: Path) -> list[tuple[str, np.ndarray]]:
    """Name and waveform of every noise that lasts long enough and is not silent; see `NO_NOISE` for what is left out."""
    paths = [path for path in sorted((speech / "noise").glob("*.flac")) if not path.name.startswith(NO_NOISE)]
    noises = [(path.stem, load_mono(path)) for path in paths]
    usable = [
        (name, wave) for name, wave in noises if len(wave) >= SHORTEST * SAMPLE_RATE and np.abs(wave).max() > 0.01
    ]
    if not usable:
        raise UserError(f"{speech / 'noise'}: no noise of {SHORTEST} s or more; give FLAC files there")
    return usable


def in_noise(key: str, clip: Clip, noise: tuple[str, np.ndarray], ratio_db: float) -> Utterance:
    """A clip in a noise that is repeated to its length; the ratio is that of mean powers over the whole clip."""
    clean = clip.waveform
    name, wave = noise
    background = np.resize(wave, len(clean))
    power = np.mean(clean.astype(np.float64) ** 2) * 10 ** (-ratio_db / 10)
    background = background * np.float32(np.sqrt(power / max(np.mean(background.astype(np.float64) ** 2), 1e-12)))
    gain = np.float32(min(1.0, PEAK / float(np.abs(clean + background).max())))
    # Whole steps of the file, so that speech and noise add up to the recording without an error.
    clean, background = (np.round(part * gain * 32768) / np.float32(32768) for part in (clean, background))
    meta = {
        "speaker": clip.speaker,
        "language": clip.language,
        "text": clip.text.lower(),
        "recording": {"noise": name, "snr_db": ratio_db},
    }
    return Utterance(key, clean + background, meta, audio={"clean": clean})


def together(key: str, one: Clip, two: Clip, rng: np.random.Generator) -> Utterance:
    """Two clips at once, the second beginning while the first speaks, and each alone."""
    made = mixture(key, one, two, one, rng)
    parts = {"s1": made.audio["clean"], "s2": made.audio["other"]}
    both = (one, two)
    meta = {
        "speakers": [clip.speaker for clip in both],
        "texts": [clip.text.lower() for clip in both],
        "overlap": made.meta["overlap"],
    }
    return Utterance(key, made.waveform, meta, audio=parts)


def make(speech: Path, out: Path, count: int, seed: int = 0) -> dict[str, dict[str, Corpus]]:
    """Condition -> name of a mini data set -> corpus in its place; `count` utterances each. Those that are there stay.

    The same clips and noises at every ratio, in turn from each speaker.

    Raises:
        UserError: a corpus that is there has another number of utterances, or is of another `speech`.
    """
    rng = np.random.default_rng(seed)
    clips = read_clips(speech, rng)
    voices = sorted(clips)[:2]
    turns = [cycle(clips[voice]) for voice in voices]
    noises = read_noises(speech)
    noises = [noises[place] for place in rng.permutation(len(noises))]
    said = [next(turns[number % 2]) for number in range(count)]
    sounds = list(islice(cycle(noises), count))
    found: dict[str, dict[str, Corpus]] = {}

    def corpus(condition: str, name: str, utterances: list[Utterance]) -> None:
        place = out / condition.replace(" ", "_") / name
        made = kept_or_written(place, f"real sounds/{name}", "generation", count, seed, speech, utterances)
        found.setdefault(condition, {})[name] = made

    for ratio in RATIOS_DB:
        pairs = enumerate(zip(said, sounds, strict=True))
        noisy = [in_noise(f"real-noisy-{number:03d}", clip, sound, ratio) for number, (clip, sound) in pairs]
        corpus(f"real noise at {ratio} dB", "enhancement", noisy)
    mixed = [
        together(f"real-mixture-{number:03d}", next(turns[number % 2]), next(turns[1 - number % 2]), rng)
        for number in range(count)
    ]
    corpus("two real voices at once", "separation", mixed)
    return found
