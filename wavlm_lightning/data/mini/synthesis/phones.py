"""Maps the phone names of espeak-ng's English and Spanish voices to the 39 phones of CMUdict."""

SILENCE = "SIL"

# Sounds that begin with a closure, for which espeak-ng reports the time of the burst.
STOPS = frozenset({"P", "T", "K", "B", "D", "G", "CH", "JH"})

# An event that maps to two phones is split in half. `;` is a palatal glide between vowels and `@-` an epenthetic schwa;
# both are merged into the phone before them. One table serves all accents, in which a name stands for the same words; its last
# line has what Spanish adds, with the nearest English phone.
_FOLDS: dict[str, tuple[str, ...]] = {
    name: tuple(folded.split())
    for line in """
    ;:  @-:
    a:AE  aa:AE  aI:AY  aI2:AY  aI@:AY AH  aI3:AY ER  aU:AW  aU@:AW AH  aU3:AW ER
    A::AA  A@:AA R  A#:AH  0:AA  0#:AH  O:AO  O::AO  O2:AO  O@:AO R  o@:AO R  OI:OY
    E:EH  E2:EH  e:EH  e@:EH R  eI:EY  I:IH  I2:IH  I#:IH  IR:ER  i:IY  i::IY  i@:IY AH  i@3:IH R
    oU:OW  o:OW  o::OW  U:UH  U@:UH R  u:UW  u::UW  V:AH  VR:ER  3:ER  3::ER  @:AH  @2:AH  @5:AH  a#:AH  @L:AH L  @r:ER
    b:B  tS:CH  d:D  d#:D  D:DH  f:F  g:G  h:HH  dZ:JH  k:K  x:K  l:L  l#:L  L:L  m:M  n:N  n-:AH N  m-:AH M  N:NG
    p:P  r:R  r-:R  s:S  S:SH  t:T  t#:T  t2:T  ?:T  T:TH  t[:TH  d[:DH  v:V  w:W  w#:W  j:Y  z:Z  z#:Z  Z:ZH
    **:R  R2:R  Q:G  B:B  n^:N Y  l^:Y  oI:OY
    """.strip().splitlines()
    for entry in line.strip().split("  ")
    for name, folded in [entry.strip().rsplit(":", 1)]
}

PHONES: tuple[str, ...] = tuple(sorted({phone for folded in _FOLDS.values() for phone in folded}))


def fold(name: str) -> tuple[str, ...]:
    """The CMU phones of one espeak-ng mnemonic, with or without stress marks, such as `'aI3`.

    One or two of `PHONES`, `("SIL",)` for a pause, or nothing if the sound is merged into the phone before it.
    `KeyError` if the table lacks the name, as with another version of espeak-ng or another accent.
    """
    plain = name.lstrip("',%=")
    if not plain or plain.startswith("_"):
        return (SILENCE,)
    return _FOLDS[plain]
