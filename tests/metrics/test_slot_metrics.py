"""Slot scores: cases by hand and values that s3prl's functions gave for the same strings; edit distances from jiwer."""

from __future__ import annotations

import random

import jiwer
import pytest

from wavlm_lightning.metrics import SlotTypeF1, SlotValueCER, parse_slots, slot_type_f1, slot_value_cer

# Hypothesis, reference, and what s3prl's metric/slot_filling.py says of the pair: F1 of types, CER of values.
GOLDEN = [
    ("", "", 1.0, None),
    ("PLAY JAZZ", "PLAY ROCK", 1.0, None),
    ("PLAY B-artist NINA SIMONE E-artist", "PLAY B-artist NINA SIMONE E-artist", 1.0, 0.0),
    ("PLAY B-artist NINA SIMON E-artist", "PLAY B-artist NINA SIMONE E-artist", 1.0, 0.0909090909),
    ("PLAY NINA SIMONE", "PLAY B-artist NINA SIMONE E-artist", 0.0, 1.0),
    ("PLAY B-artist NINA E-artist", "PLAY NINA", 0.0, None),
    ("B-city ROME E-city", "B-artist ROME E-artist", 0.0, 1.0),
    ("B-city ROME E-city AND B-artist NINA E-artist", "B-artist NINA SIMONE E-artist", 0.6666666667, 0.6363636364),
    (
        "B-city ROME E-city AND B-city PARIS E-city",
        "B-city PARI E-city AND B-city ROMA E-city AND B-city PARIS E-city",
        1.0,
        0.1538461538,
    ),
    ("B-artist NINA B-city SIMONE E-artist", "B-artist NINA SIMONE E-artist", 1.0, 0.0),
    (
        "B-playlist MY MIX E-playlist_owner",
        "B-playlist MY MIX E-playlist ON B-playlist_owner ANNAS E-playlist_owner",
        0.6666666667,
        0.4545454545,
    ),
    ("B-artist  NINA   SIMONE  E-artist", "B-artist NINA SIMONE E-artist", 1.0, 0.0),
    ("B-artist B-artist NINA E-artist", "B-artist NINA E-artist", 1.0, 0.0),
    ("ADDB-artist NINA E-artist E-artist", "ADD B-artist NINA E-artist", 1.0, 0.0),
    (
        "B-artist A VERY LONG VALUE FOR A SHORT NAME E-artist",
        "B-artist X E-artist TO B-artist A LONG NAME E-artist",
        1.0,
        4.75,
    ),
]


@pytest.mark.parametrize(("hypothesis", "reference", "f1", "cer"), GOLDEN)
def test_golden(hypothesis, reference, f1, cer):
    assert slot_type_f1([hypothesis], [reference]) == pytest.approx(f1)
    if cer is None:
        with pytest.raises(ValueError, match="at least one slot"):
            slot_value_cer([hypothesis], [reference])
    else:
        assert slot_value_cer([hypothesis], [reference]) == pytest.approx(cer)


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("", []),
        ("PLAY SOME JAZZ", []),
        ("B-artist NINA SIMONE E-artist", [("artist", "NINA SIMONE")]),
        ("B-a X E-a AND B-a Y E-a", [("a", "X"), ("a", "Y")]),
        ("B-a X", []),
        ("X E-a", []),
        ("B-a  E-a", []),
        ("B-a X E-b", []),
        ("B-a B-b X E-b Y E-a", [("a", "X Y")]),
        ("B-a   X    Y  E-a", [("a", "X Y")]),
        ("B-playlist X E-playlist_owner", [("playlist", "X")]),
    ],
)
def test_parse(text, slots):
    assert parse_slots(text) == slots


def tagged(rng):
    """Well-formed text with up to three slots of distinct types."""
    words = ["PLAY", "NINA", "SIMONE", "BOOK", "O'NEILL", "A"]
    parts = []
    for kind in rng.sample(["artist", "city", "track"], rng.randint(0, 3)):
        value = " ".join(rng.choices(words, k=rng.randint(1, 4)))
        parts += [rng.choice(words), f"B-{kind} {value} E-{kind}"]
    return " ".join(parts)


def test_cer_is_jiwers_over_the_values():
    """One slot a type, so that no choice among hypothesis values is left."""
    rng = random.Random(0)
    references, hypotheses = ([tagged(rng) for _ in range(200)] for _ in range(2))
    expected, found = [], []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        values = dict(parse_slots(hypothesis))
        for kind, value in parse_slots(reference):
            expected.append(value)
            found.append(values.get(kind, ""))
    assert "" in found
    assert slot_value_cer(hypotheses, references) == pytest.approx(jiwer.cer(expected, found))


def test_metrics_add_up():
    rng = random.Random(1)
    references, hypotheses = ([tagged(rng) for _ in range(60)] for _ in range(2))
    for metric, function in ((SlotTypeF1, slot_type_f1), (SlotValueCER, slot_value_cer)):
        first, second = metric(), metric()
        first.update(hypotheses[:7], references[:7])
        second.update(hypotheses[7:20], references[7:20])
        second.update(hypotheses[20:], references[20:])
        first.merge_state(second)  # sums the states, as ranks do
        assert 0 < float(first.compute()) == pytest.approx(function(hypotheses, references), rel=1e-6)
        first.reset()
        first.update(references, references)
        assert float(first.compute()) == (1 if metric is SlotTypeF1 else 0)


def test_refuses():
    with pytest.raises(ValueError, match="one hypothesis for each reference"):
        slot_type_f1(["A"], [])
    with pytest.raises(ValueError, match="one hypothesis for each reference"):
        SlotValueCER().update(["A"], ["B", "C"])
    with pytest.raises(ValueError, match="at least one utterance"):
        slot_type_f1([], [])
