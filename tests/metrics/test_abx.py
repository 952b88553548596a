"""ABX: frames, cells, distances and averages against a plain implementation of the definition; item files."""

import itertools
import math
from collections import defaultdict
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

import numpy as np
import pytest

from wavlm_lightning.metrics.abx import (
    HEADER,
    AbxTask,
    Item,
    frames_of,
    items_from_alignments,
    read_items,
    write_items,
)
from wavlm_lightning.metrics.abx import score as scoring
from wavlm_lightning.system.errors import UserError


def angle(one, other):
    """Angle over pi; zeros get a further dimension and the direction of equal values, as in Libri-Light's code."""

    def direction(vector):
        length = math.sqrt(math.fsum(value * value for value in vector))
        if length == 0:
            return [1 / math.sqrt(len(vector))] * len(vector) + [-2e-12]
        return [value / length for value in vector] + [1e-12]

    cosine = math.fsum(a * b for a, b in zip(direction(one), direction(other), strict=True))
    return math.acos(max(-1.0, min(1.0, cosine))) / math.pi


def identical(one, other):
    return float(one != other)


def warped(x, other, distance):
    """Best path by recursion over (row, column), kept as (cost, path); ties: diagonal, then left."""
    best = {}
    for i, j in itertools.product(range(len(x)), range(len(other))):
        here = distance(x[i], other[j])
        ways = [best[way] for way in ((i - 1, j - 1), (i, j - 1), (i - 1, j)) if way in best]
        cost, length = min(ways, key=lambda way: way[0]) if ways else (0.0, 0)  # min keeps the first of equals
        best[i, j] = cost + here, length + 1
    cost, length = best[len(x) - 1, len(other) - 1]
    return cost / length


def plain_abx(items, stretches, mode, distance):
    """The error from the definition: cells in a dict, triples in loops."""
    place = dict(enumerate(stretches))
    cells = defaultdict(list)
    for a, b, x in itertools.product(range(len(items)), repeat=3):
        ia, ib, ix = items[a], items[b], items[x]
        context = (ia.previous, ia.next)
        if any((i.previous, i.next) != context for i in (ib, ix)) or ia.phone != ix.phone or ib.phone == ia.phone:
            continue
        if ia.speaker != ib.speaker or a == x or (ix.speaker == ia.speaker) != (mode == "within"):
            continue
        to_a, to_b = warped(place[x], place[a], distance), warped(place[x], place[b], distance)
        right = 1.0 if to_a < to_b else 0.5 if to_a == to_b else 0.0
        cells[ia.phone, ib.phone, ia.speaker, ix.speaker, context].append(1 - right)
    speakers = defaultdict(list)
    for (a, b, speaker, *_), errors in cells.items():
        speakers[a, b, speaker].append(sum(errors) / len(errors))
    pairs = defaultdict(list)
    for (a, b, _), errors in speakers.items():
        pairs[a, b].append(sum(errors) / len(errors))
    by_pair = {pair: sum(errors) / len(errors) for pair, errors in pairs.items()}
    return sum(by_pair.values()) / len(by_pair), by_pair, len(cells)


def random_items(rng, number, longest=6):
    """Items without times, and lengths of 1 to `longest` frames."""
    drawn = rng.integers(0, (3, 2, 2, 3), (number, 4))
    items = [Item(f"u{n}", 0, 1, "abc"[p], "kl"[c], "mn"[d], f"s{s}") for n, (p, c, d, s) in enumerate(drawn)]
    lengths = rng.integers(1, longest + 1, number)
    return items, lengths, np.cumsum(lengths) - lengths


@pytest.mark.parametrize("mode", ["within", "across"])
@pytest.mark.parametrize("seed", [0, 1])
def test_features_as_the_definition(mode, seed):
    rng = np.random.default_rng(seed)
    items, lengths, starts = random_items(rng, 36)
    features = rng.normal(size=(int(lengths.sum()), 5))
    features[rng.integers(0, len(features), 12)] = 0  # digital silence after a layer without a bias
    stretches = [features[s : s + n].tolist() for s, n in zip(starts, lengths, strict=True)]
    error, pairs, cells = plain_abx(items, stretches, mode, angle)
    found = AbxTask(items, mode, most_items=99, most_speakers=99).features_error(features, starts, lengths, threads=2)
    assert found.cells == cells
    assert found.error == pytest.approx(error, abs=1e-9)
    assert found.pairs == pytest.approx(pairs, abs=1e-9)
    assert found.interval.low <= error <= found.interval.high


@pytest.mark.parametrize("mode", ["within", "across"])
@pytest.mark.parametrize("longest", [1, 5])
def test_units_as_the_definition_with_many_equal_distances(mode, longest):
    rng = np.random.default_rng(longest)
    items, lengths, starts = random_items(rng, 36, longest)
    units = rng.integers(0, 3, int(lengths.sum()))
    stretches = [units[s : s + n].tolist() for s, n in zip(starts, lengths, strict=True)]
    error, pairs, _ = plain_abx(items, stretches, mode, identical)
    found = AbxTask(items, mode, most_items=99, most_speakers=99).units_error(units, starts, lengths)
    assert found.error == pytest.approx(error, abs=1e-9)
    assert found.pairs == pytest.approx(pairs, abs=1e-9)


def test_golden_values():
    """By hand: the way back decides the length of a path, and equal distances are half an error."""
    from wavlm_lightning.metrics.abx.kernel import warped_distance

    def distance(*rows):
        return warped_distance(np.array(rows, dtype=float), np.empty((9, 9)))

    assert distance([0.25]) == 0.25
    assert distance([1, 1, 1]) == 1  # one frame against three: all three cells
    assert distance([0, 1], [1, 0]) == 0
    # 1 + 1 on the diagonal is as cheap as a detour over a zero: the diagonal is taken back, so two cells, not three.
    assert distance([1, 0], [9, 1]) == pytest.approx(2 / 2)
    # Into the last cell the steps from the left and from above both cost 4: from the left the path has 4 cells, from above 5.
    assert distance([2, 2, 0, 1], [2, 1, 2, 0], [0, 0, 1, 0]) == 4 / 4
    items = [Item("u", 0, 1, phone, "k", "l", "s") for phone in "aab"]
    one_each = np.arange(3), np.ones(3, dtype=int)
    found = AbxTask(items).units_error(np.array([7, 7, 7]), *one_each)
    assert found.error == 0.5 and found.cells == 1
    assert AbxTask(items).units_error(np.array([7, 7, 8]), *one_each).error == 0
    assert AbxTask(items).units_error(np.array([7, 8, 7]), *one_each).error == 0.75  # wrong for x = 0, level for x = 1


def test_equal_angles_are_level():
    """Directions whose products are exact, so that both sides compute the same angles to the last bit."""
    rng = np.random.default_rng(5)
    items, lengths, starts = random_items(rng, 30, 3)
    features = np.eye(4)[rng.integers(0, 4, int(lengths.sum()))] * rng.choice([-2.0, 1.0, 4.0], (int(lengths.sum()), 1))
    stretches = [features[s : s + n].tolist() for s, n in zip(starts, lengths, strict=True)]
    error, _, _ = plain_abx(items, stretches, "within", angle)
    found = AbxTask(items, "within", 99, 99).features_error(features, starts, lengths)
    assert found.error == pytest.approx(error, abs=1e-9)


def test_frames_as_decimal_arithmetic_has_them():
    for rate, number in itertools.product((50, 100), range(400)):
        onset = Decimal(number) * Decimal("0.0025")
        for length in ("0.005", "0.02", "0.1175"):
            offset = onset + Decimal(length)
            first = int((onset * rate - Decimal("0.5")).to_integral_value(ROUND_CEILING))
            last = int((offset * rate - Decimal("0.5")).to_integral_value(ROUND_FLOOR))
            expected = (max(first, 0), max(last + 1, first, 0))
            assert frames_of(float(onset), float(offset), rate) == expected


def test_caps_thin_out_once_and_alike():
    rng = np.random.default_rng(0)
    items = [
        Item(f"u{n}", 0, 1, "ab"[n % 2], "k", "l", f"s{n % 16 // 2}") for n in range(320)
    ]  # 20 of each phone and speaker
    units, ones = rng.integers(0, 4, 320), np.ones(320, dtype=int)
    task = AbxTask(items, "across")
    assert task.cells == 8 * 2 * 5  # speakers, phone pairs, speakers of x
    assert max(len(block.x) for block in task._blocks) == 10
    drawn = task.units_error(units, np.arange(320), ones)
    assert drawn == AbxTask(items, "across").units_error(units, np.arange(320), ones)
    assert drawn != AbxTask(items, "across", seed=1).units_error(units, np.arange(320), ones)
    assert AbxTask(items, "across", most_speakers=7).cells == 8 * 2 * 7


def test_pieces_of_a_large_cell_change_nothing(monkeypatch):
    rng = np.random.default_rng(2)
    items, lengths, starts = random_items(rng, 60)
    features = rng.normal(size=(int(lengths.sum()), 8))
    whole = AbxTask(items, "across").features_error(features, starts, lengths)
    monkeypatch.setattr(scoring, "MOST_CELLS", 1)
    assert AbxTask(items, "across").features_error(features, starts, lengths) == whole


def test_refusals():
    items = [Item("u", 0, 1, phone, "k", "l", "s") for phone in "aab"]
    with pytest.raises(ValueError, match="no triple across speakers among 3 items"):
        AbxTask(items, "across")
    with pytest.raises(ValueError, match="a start and a length of 1 frame or more"):
        AbxTask(items).units_error(np.zeros(3, int), np.arange(3), np.array([1, 0, 1]))
    with pytest.raises(ValueError, match="not a finite number"):
        AbxTask(items).features_error(np.full((3, 2), np.nan), np.arange(3), np.ones(3, int))


def test_item_files(tmp_path):
    path = tmp_path / "mini.item"
    items = [Item("u1", 0.05, 0.25, "AE", "K", "T", "s1"), Item("u2", 1, 1.2225, "IH", "K", "T", "s2")]
    items.append(Item("hour", 3599.123456, 3599.25, "AE", "K", "T", "s2"))  # fewer digits would move its frames
    write_items(path, items)
    assert path.read_text().splitlines()[0] == "#file onset offset #phone prev-phone next-phone speaker"
    assert read_items(path) == items


@pytest.mark.parametrize(
    "lines, said",
    [
        ([], "line 1: an item file begins with"),
        (["file onset offset phone"], "line 1: an item file begins with"),
        ([" ".join(HEADER)], "holds no item"),
        ([" ".join(HEADER), "u1 0.1 0.2 AE K T"], "line 2: 6 fields"),
        ([" ".join(HEADER), "u1 0.1 0.2 AE K T s", "", "u1 0.2 0.1 AE K T s"], "line 4: onset '0.2' and offset '0.1'"),
        ([" ".join(HEADER), "u1 nan 0.1 AE K T s"], "line 2: onset 'nan'"),
        ([" ".join(HEADER), "u1 -0.1 0.1 AE K T s"], "line 2: onset '-0.1'"),
        ([" ".join(HEADER), "u1 0.1 inf AE K T s"], "line 2: onset '0.1' and offset 'inf'"),
        ([" ".join(HEADER), "u1 0.1 end AE K T s"], "offset 'end'"),
    ],
)
def test_bad_item_files_in_one_sentence(tmp_path, lines, said):
    path = tmp_path / "bad.item"
    path.write_text("".join(f"{line}\n" for line in lines))
    with pytest.raises(UserError, match=said) as refused:
        read_items(path)
    assert "\n" not in str(refused.value)


def test_items_of_alignments():
    segments = [
        ("SIL", 0, 0.1),
        ("K", 0.1, 0.2),
        ("AE", 0.2, 0.3),
        ("T", 0.3, 0.4),
        ("S", 0.4, 0.5),
        ("spn", 0.5, 0.6),
        ("K", 0.6, 0.7),
    ]
    found = items_from_alignments([("u", "s", segments)])
    assert found == [Item("u", 0.1, 0.4, "AE", "K", "T", "s"), Item("u", 0.2, 0.5, "T", "AE", "S", "s")]
    phones = items_from_alignments([("u", "s", segments)], "phone")
    assert phones == [Item("u", 0.2, 0.3, "AE", "K", "T", "s"), Item("u", 0.3, 0.4, "T", "AE", "S", "s")]
    with_gap = [("K", 0.1, 0.2), ("AE", 0.25, 0.3), ("T", 0.3, 0.4)]
    assert items_from_alignments([("u", "s", with_gap)]) == []
