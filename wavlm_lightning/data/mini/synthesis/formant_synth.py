"""A deterministic formant synthesiser in numpy, which replaces espeak-ng in tests and where espeak-ng is missing.

It maps letters to phones by rough rules, and its speech is not intelligible; alignment and voices are exact enough to
test everything that uses them.
"""

import numpy as np

from wavlm_lightning.data.mini.seeding import generator
from wavlm_lightning.data.mini.synthesis.phones import SILENCE
from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE, Segment, Speech, SpeechRequest
from wavlm_lightning.data.mini.synthesis.voices import VARIANTS

# Formants in Hz of a male voice; diphthongs glide from the first three to the last three.
_VOWELS: dict[str, tuple[int, ...]] = {
    "AA": (730, 1090, 2440),
    "AE": (660, 1720, 2410),
    "AH": (620, 1190, 2390),
    "AO": (570, 840, 2410),
    "AW": (730, 1200, 2440, 440, 1020, 2240),
    "AY": (730, 1090, 2440, 390, 1990, 2550),
    "EH": (530, 1840, 2480),
    "ER": (490, 1350, 1690),
    "EY": (480, 1900, 2500, 330, 2200, 2800),
    "IH": (390, 1990, 2550),
    "IY": (270, 2290, 3010),
    "OW": (520, 900, 2400, 380, 850, 2250),
    "OY": (570, 840, 2410, 390, 1990, 2550),
    "UH": (440, 1020, 2240),
    "UW": (300, 870, 2240),
    "L": (360, 1000, 2600),
    "R": (420, 1200, 1600),
    "W": (300, 650, 2200),
    "Y": (280, 2200, 2900),
    "M": (250, 1000, 2200),
    "N": (250, 1500, 2500),
    "NG": (250, 1900, 2700),
}
# Centre and width of the noise in Hz, whether it is voiced, whether a closure comes first.
_NOISES: dict[str, tuple[int, int, bool, bool]] = {
    "B": (700, 900, True, True),
    "CH": (3200, 1800, False, True),
    "D": (3500, 1800, True, True),
    "DH": (4500, 4000, True, False),
    "F": (5500, 5000, False, False),
    "G": (1900, 900, True, True),
    "HH": (1500, 2500, False, False),
    "JH": (3000, 1800, True, True),
    "K": (2000, 1000, False, True),
    "P": (900, 1200, False, True),
    "S": (6300, 2000, False, False),
    "SH": (3500, 1800, False, False),
    "T": (4200, 2200, False, True),
    "TH": (6000, 4500, False, False),
    "V": (4500, 4500, True, False),
    "Z": (6200, 2000, True, False),
    "ZH": (3400, 1800, True, False),
}
# Longest spelling first; letters that are not listed are silent.
_SPELLINGS: dict[str, list[str]] = {
    spelling: phones.split()
    for line in """
    tion:SH AH N  sure:ZH ER  ough:AO  igh:AY  tch:CH  dge:JH  air:EH R  ear:IY R  our:AW ER  sh:SH  ch:CH  th:TH
    ng:NG  ph:F  wh:W  qu:K W  ck:K  kn:N  wr:R  ee:IY  ea:IY  oo:UW  oi:OY  oy:OY  ou:AW  ow:OW  ai:EY  ay:EY
    au:AO  aw:AO  ar:AA R  or:AO R  er:ER  ir:ER  ur:ER  bb:B  cc:K  dd:D  ff:F  gg:G  ll:L  mm:M  nn:N  pp:P  rr:R
    ss:S  tt:T  zz:Z  a:AE  b:B  c:K  d:D  e:EH  f:F  g:G  h:HH  i:IH  j:JH  k:K  l:L  m:M  n:N  o:AA  p:P  q:K
    r:R  s:S  t:T  u:AH  v:V  w:W  x:K S  y:IY  z:Z
    """.strip().splitlines()
    for spelling, _, phones in (entry.partition(":") for entry in line.strip().split("  "))
}
_FRAME = 512
_HOP = 128


class FormantSynthesiser:
    """A synthesiser that needs nothing but numpy.

    Example:
        >>> speech = FormantSynthesiser().speak(SpeechRequest("A cat.", "en-US", "f2", rate=160, pitch=50, pitch_range=50))
        >>> [phone.name for phone in speech.phones][:2]
        ['AE', 'K']
    """

    name = "buzz"  # stored in corpora

    def speak(self, request: SpeechRequest) -> Speech:
        rng = generator("buzz", request)
        phones, words = _timed(request, rng)
        seconds = phones[-1].end if phones else 0.1
        samples = round(seconds * SAMPLE_RATE)
        envelope, voicing = _envelopes(request, phones, samples)
        waveform = _filtered(_pulses(request, samples, rng), envelope * voicing[:, None], samples)
        hiss = rng.standard_normal(samples).astype(np.float32) * 0.3
        waveform += _filtered(hiss, envelope * (1 - voicing[:, None]), samples)
        waveform *= 0.5 / max(float(np.abs(waveform).max()), 1e-6)
        return Speech(waveform.astype(np.float32), tuple(phones), tuple(words))

    def close(self) -> None:
        pass


def spell(word: str) -> list[str]:
    """Phones of a word by rules of thumb; at least one."""
    phones: list[str] = []
    position = 0
    while position < len(word):
        for length in (4, 3, 2, 1):
            piece = word[position : position + length]
            if len(piece) == length and piece in _SPELLINGS:
                phones += _SPELLINGS[piece]
                break
        position += length
    # A final e is silent in longer words.
    if len(phones) > 2 and word.endswith("e") and phones[-1] == "EH":
        phones.pop()
    return phones or ["AH"]


def _timed(request: SpeechRequest, rng: np.random.Generator) -> tuple[list[Segment], list[Segment]]:
    # 160 words a minute is about 11 phones a second.
    usual = 0.09 * 160 / request.rate
    phones: list[Segment] = []
    words: list[Segment] = []
    now = 0.0
    for token in request.text.split():
        word = "".join(c for c in token.lower() if c.isalnum() or c == "'")
        start = now
        for name in spell(word):
            length = usual * (1.3 if len(_VOWELS.get(name, ())) == 6 else 1.0) * rng.uniform(0.8, 1.25)
            phones.append(Segment(name, now, now + length))
            now += length
        words.append(Segment(word, start, now))
        if token.endswith((".", "?", "!", ",")):
            phones.append(Segment(SILENCE, now, now + 2.5 * usual))
            now += 2.5 * usual
    return phones, words


def _pulses(request: SpeechRequest, samples: int, rng: np.random.Generator) -> np.ndarray:
    hertz = next((pool[request.variant] for pool in VARIANTS.values() if request.variant in pool), 120.0)
    hertz *= request.tract * 1.01 ** (request.pitch - 50)
    time = np.arange(samples) / SAMPLE_RATE
    swing = 0.004 * request.pitch_range
    contour = hertz * (1 - 0.06 * time + swing * np.sin(2 * np.pi * (time / 0.7 + rng.random())))
    phase = np.cumsum(np.maximum(contour, 50.0)) / SAMPLE_RATE
    return np.diff(np.floor(phase), prepend=0.0).astype(np.float32) * np.float32(np.sqrt(SAMPLE_RATE / hertz))


def _envelopes(request: SpeechRequest, phones: list[Segment], samples: int) -> tuple[np.ndarray, np.ndarray]:
    """The magnitude, (frames, bins), and the degree of voicing of each frame, (frames,)."""
    voice = generator("buzz voice", request.variant, request.accent)
    scale = (
        request.tract * voice.uniform(0.92, 1.08, 3) * (1.12 if request.variant.startswith(("f", "A", "l")) else 1.0)
    )
    frames = samples // _HOP + 1
    hertz = np.fft.rfftfreq(_FRAME, 1 / SAMPLE_RATE)
    envelope, voicing = np.zeros((frames, len(hertz)), np.float32), np.zeros(frames, np.float32)
    for name, start, end in phones:
        first, last = round(start * SAMPLE_RATE / _HOP), round(end * SAMPLE_RATE / _HOP)
        count = max(0, min(last, frames) - first)
        if count == 0 or name == SILENCE:
            continue
        span = slice(first, first + count)
        if name in _VOWELS:
            targets = np.array(_VOWELS[name], dtype=float)
            glide = np.linspace(targets[:3], targets[-3:], count) * scale
            peaks = np.zeros((count, len(hertz)))
            for formant, (width, height) in enumerate(((90, 1.0), (120, 0.6), (180, 0.3))):
                peaks += height / (1 + ((hertz - glide[:, formant, None]) / width) ** 2)
            envelope[span] = peaks * (0.5 if name in ("M", "N", "NG") else 1.0)
            voicing[span] = 1.0
        else:
            centre, width, voiced, closure = _NOISES[name]
            band = np.exp(-0.5 * ((hertz - centre * request.tract) / (width / 2)) ** 2) * 0.7
            loud = np.ones(count)
            if closure:
                loud[: count // 2] = 0.05
            envelope[span] = loud[:, None] * (band + (0.4 * np.exp(-hertz / 300) if voiced else 0.0))
            voicing[span] = 0.4 if voiced else 0.0
    return envelope, voicing


def _filtered(source: np.ndarray, envelope: np.ndarray, samples: int) -> np.ndarray:
    """Shape `source` (samples,) by one spectral envelope for each hop, by overlap-add."""
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    padded = np.pad(source, (_FRAME // 2, _FRAME))
    starts = np.arange(len(envelope)) * _HOP
    pieces = padded[starts[:, None] + np.arange(_FRAME)] * window
    shaped = np.fft.irfft(np.fft.rfft(pieces) * envelope).astype(np.float32) * window
    out = np.zeros(len(padded) + _FRAME, dtype=np.float32)
    for start, piece in zip(starts, shaped, strict=True):
        out[start : start + _FRAME] += piece
    return out[_FRAME // 2 : _FRAME // 2 + samples]
