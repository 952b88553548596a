"""The asked-for speaker (`target`): two talkers at once, an enrolment of one, and what that one says alone.

Every mixture occurs twice, once for each of its talkers: only the enrolment says whom to listen to.
"""

from functools import partial

import numpy as np

from wavlm_lightning.data.corpus import Utterance
from wavlm_lightning.data.mini import grammar
from wavlm_lightning.data.mini.dialogues import activity, overlap
from wavlm_lightning.data.mini.effects import Conditions, motor, noise, record
from wavlm_lightning.data.mini.plans import SPLITS, Plan, Size
from wavlm_lightning.data.mini.readings import readers, sentences, talker_pairs
from wavlm_lightning.data.mini.scripted_utterance import (
    ComposedUtterance,
    ScriptedUtterance,
    Studio,
    padded,
    rows,
    speak,
)
from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.phones import PHONES
from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE, Speech, spoken_words
from wavlm_lightning.data.mini.synthesis.voices import Speaker

# No room: the reference of an extraction is what the talker says, not the room's answer to it.
_TALKER = Conditions(room=0.0, noise=0.0, gain_db=0.0)
_RATIO_DB = 5.0  # largest level difference of the two talkers
_NOISY, _NOISE_DB = 0.5, (15.0, 25.0)  # share of the mixtures, and range of the ratio of the talkers to the noise
_PEAK = 0.9
_STEPS = 32_768  # of a 16-bit file


def target(size: Size, seed: int) -> Plan:
    """Plan pairs of talkers; each pair gives two utterances, in which the one or the other is asked for.

    No two splits share a speaker, a voice variant or a sentence, and the noise of the test is of another kind.
    """
    splits: dict[str, list[ComposedUtterance]] = {}
    heard: dict[str, list[str]] = {}
    for split, count, group_size in zip(SPLITS, size.target, size.speakers, strict=True):
        texts = sentences(("target", split), split, 4 * count, seed)
        group = readers("target", split, group_size, 2 * count, seed)
        splits[split] = []
        for i, pair in enumerate(talker_pairs(group)):
            mixture = _Mixture(f"target-{split}-{i:04d}", split, pair, texts[4 * i : 4 * i + 4])
            splits[split] += [
                ComposedUtterance(mixture.key_of(asked), partial(mixture.render, asked)) for asked in (0, 1)
            ]
        heard[split] = sorted({speaker.name for speaker in group})
    return Plan(splits, {"phones": list(PHONES), "speakers": heard})


class _Mixture:
    """A sentence of each of two speakers at once, and one more of each as enrolments."""

    def __init__(self, name: str, split: str, pair: tuple[Speaker, Speaker], lines: list[str]) -> None:
        self.name, self.split, self.pair, self.lines = name, split, pair, lines

    def key_of(self, asked: int) -> str:
        return f"{self.name}-{asked + 1}"

    def _speech(self, talker: int, studio: Studio, rng: np.random.Generator) -> Speech:
        text = grammar.written([self.lines[talker]])
        script = ScriptedUtterance(f"{self.name}-{talker + 1}", self.pair[talker], text, ("target", self.split))
        return speak(script, studio.synthesiser, rng)

    def render(self, asked: int, studio: Studio) -> Utterance:
        """The utterance in which the talker `asked`, 0 or 1, is the target; the mixture is the same for both."""
        rng = generator(studio.seed, "target", self.split, self.name)
        dry = [self._speech(talker, studio, rng) for talker in (0, 1)]
        # One begins while the other speaks, so that each is alone for a while.
        first, margin, after = int(rng.integers(2)), rng.uniform(0.1, 0.5), rng.uniform(0.1, 0.4)
        starts = [margin, margin]
        starts[1 - first] += rng.uniform(0.05, 0.7) * dry[first].seconds
        end = max(start + speech.seconds for start, speech in zip(starts, dry, strict=True)) + after
        samples = round(end * SAMPLE_RATE)
        ratio = rng.uniform(-_RATIO_DB, _RATIO_DB)
        speech, alone = [], []
        for talker, start in enumerate(starts):
            recorded, _ = record(dry[talker].waveform, _TALKER, studio.rooms(self.split), rng)
            recorded = recorded * np.float32(10 ** (ratio * (0.5, -0.5)[talker] / 20))
            before = round(start * SAMPLE_RATE)
            behind = samples - before - len(recorded)
            alone.append(np.pad(recorded, (before, behind)))
            speech.append(padded(dry[talker], before / SAMPLE_RATE, behind / SAMPLE_RATE))
        background, snr = np.zeros(samples, np.float32), None
        if rng.random() < _NOISY:
            snr = rng.uniform(*_NOISE_DB)
            background = _noise(self.split, samples, rng)
            power = np.mean(np.square(alone[0] + alone[1], dtype=np.float64)) * 10 ** (-snr / 10)
            background = background * np.float32(np.sqrt(power / np.mean(np.square(background, dtype=np.float64))))
        gain = min(1.0, _PEAK / float(np.abs(alone[0] + alone[1] + background).max()))
        # Whole steps of the file, so that the parts add up to the mixture without an error, whichever is asked for.
        one, two, background = (
            np.round(part * np.float32(gain * _STEPS)) / np.float32(_STEPS) for part in (*alone, background)
        )
        clean, rest = ((one, two), (two, one))[asked]
        rest = rest + background
        names = [speaker.name for speaker in self.pair]
        turns = [turn for one, name in zip(speech, names, strict=True) for turn in activity(one, name)]
        recording = {"ratio_db": round(ratio * (1, -1)[asked], 1)} | ({"snr_db": round(snr, 1)} if snr else {})
        meta = {
            **self.pair[asked].labels,
            "interferer": names[1 - asked],
            "same_pitch_class": self.pair[0].pitch_class == self.pair[1].pitch_class,
            "language": "en",
            "text": " ".join(spoken_words(grammar.written([self.lines[asked]]))),
            "phones": rows(speech[asked].phones),
            "words": rows(speech[asked].words),
            "turns": rows(sorted(turns, key=lambda turn: turn.start)),
            "overlap": round(overlap(turns), 4),
            "recording": recording,
        }
        audio = {"clean": clean, "other": rest, "enrolment": self._enrolment(asked, studio)}
        return Utterance(self.key_of(asked), clean + rest, meta, audio=audio)

    def _enrolment(self, asked: int, studio: Studio) -> np.ndarray:
        """Another sentence of the talker, in a room and with a frequency response of its own."""
        key = f"{self.key_of(asked)}-enrolment"
        text = grammar.written([self.lines[2 + asked]])
        return ScriptedUtterance(key, self.pair[asked], text, ("target", self.split)).render(studio).waveform


def _noise(split: str, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of a kind that depends on the split: steady and coloured, or, in the test, a motor."""
    return motor(samples, rng) if split == "test" else noise(samples, rng.uniform(0.0, 2.0), -26.0, rng)
