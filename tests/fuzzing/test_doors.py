"""Damaged files at every reader: no traceback, no hang, nothing silently wrong, nothing written outside, no vague refusal."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
from fuzzing import doors
from fuzzing.doors import DOORS, MAKE
from fuzzing.harness import FAULTS, Door, Fuzzer, anything, nothing
from fuzzing.mutations import FORMS, mutate

from wavlm_lightning.system.errors import UserError

SEED = int(os.environ.get("WAVLM_FUZZ_SEED", "0"))


def faults(fuzzer: Fuzzer, inputs: int) -> list[str]:
    answers = fuzzer.run(inputs, SEED)
    assert len(answers) >= inputs * 0.95
    return [str(answer) for answer in answers if answer.kind in FAULTS]


def test_damaged_files_at_every_door(tmp_path):
    found = faults(Fuzzer(DOORS, tmp_path, MAKE), 300)
    assert not found, "\n".join(found)


@pytest.mark.slow
@pytest.mark.long
def test_many_damaged_files_at_every_door(tmp_path):
    found = faults(Fuzzer(DOORS, tmp_path, MAKE), 3_000)
    assert not found, "\n".join(found)


def test_no_two_doors_have_one_name_and_none_is_excused():
    assert not hasattr(doors, "KNOWN")
    assert len({door.name for door in DOORS}) == len(DOORS)


# The harness itself: each kind of answer is told from the others.


def door_of(read, allowed=nothing) -> Door:
    return Door("a door", "number", {"a.txt": "bytes"}, read, allowed, refusals=(UserError,))


def write_number(folder) -> None:
    (folder / "a.txt").write_text("1" * 50)


def escapes(box):
    (box.parent / "escaped").write_text("x")


def nameless(box):
    raise UserError("this is no number")


def sentence(box):
    raise UserError(f"{box / 'a.txt'}: not a number; write one")


def loops(box):
    while True:
        pass


READERS = [
    (lambda box: 1, nothing, "same"),
    (lambda box: (box / "a.txt").read_bytes(), nothing, "silent"),
    (lambda box: (box / "a.txt").read_bytes(), anything, "changed"),
    (lambda box: {}["missing"], nothing, "traceback"),
    (sentence, nothing, "refused"),
    (nameless, nothing, "vague"),
    (escapes, nothing, "outside"),
    (loops, nothing, "hang"),
]


@pytest.mark.parametrize(("read", "allowed", "kind"), READERS)
def test_each_kind_of_answer_is_recognised(read, allowed, kind, tmp_path, monkeypatch):
    monkeypatch.setattr("fuzzing.harness.SECONDS", 0.2)
    door = door_of(read, allowed)
    fuzzer = Fuzzer([door], tmp_path, {"number": write_number})
    fuzzer._values[door.name] = (1, "1") if kind == "same" else (b"1" * 50, repr(b"1" * 50))
    found = Counter(fuzzer.one(door, 0, number).kind for number in range(5))
    assert found[kind] >= 4, found  # a mutation may leave the file as it was


def test_the_same_seed_gives_the_same_damage(tmp_path):
    for form in ("bytes", "words", "csv"):
        made = [mutate(b"a,b c\nd,e f\n" * 20, form, np.random.default_rng([1, number])) for number in range(50)]
        again = [mutate(b"a,b c\nd,e f\n" * 20, form, np.random.default_rng([1, number])) for number in range(50)]
        assert made == again and len({damaged for _, damaged in made}) > 40
    assert set(FORMS) >= {form for door in DOORS for form in door.files.values()}
