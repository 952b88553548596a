"""Waveform transforms: what they promise in dB, hertz and samples, against references, and from which draws."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
import torchaudio
from scipy import signal

from wavlm_lightning.augment.transforms import (
    AddNoise,
    AddRoom,
    ChangeGain,
    ChangeSpeed,
    Draw,
    MixUtterances,
    OneOf,
    RandomCrop,
    WaveformTransform,
    transform_all,
    with_parts,
)
from wavlm_lightning.augment.transforms.levels import at_ratio, fitted, power
from wavlm_lightning.augment.transforms.noise import coloured_noise
from wavlm_lightning.augment.transforms.rooms import random_response
from wavlm_lightning.system.errors import UserError

RATE = 16_000


def utterance(seed: int = 0, samples: int = 20_000) -> np.ndarray:
    """Noise that swells and fades."""
    rng = np.random.default_rng([7, seed])
    return (rng.standard_normal(samples) * 0.1 * np.hanning(samples)).astype("f4")


def draw(seed: int = 0) -> Draw:
    """Other utterances of 0.25 to 2.25 s."""
    rng = np.random.default_rng(seed)
    return Draw(rng, lambda: utterance(int(rng.integers(1, 50)), int(rng.integers(4_000, 36_000))))


def tone(hertz: float, seconds: float = 1.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE)) / RATE)).astype("f4")


def decibels(ratio: float) -> float:
    return 10 * float(np.log10(ratio))


def opened(transform, *waveforms):
    """A transform that reads from these waveforms as from a corpus."""

    def read(rng, samples=None):
        waveform = waveforms[int(rng.integers(len(waveforms)))]
        return waveform if samples is None else waveform[:samples]

    transform.open(read)
    return transform


def every() -> list[WaveformTransform]:
    rooms = [np.concatenate([np.zeros(100), np.exp(-np.arange(2_000) / fade)]).astype("f4") for fade in (100, 200)]
    return [
        AddNoise(),
        AddNoise(talkers=(3, 7)),
        opened(AddNoise(corpus="noise"), utterance(60, 3_000), utterance(61, 90_000)),
        AddRoom(),
        opened(AddRoom(corpus="rooms"), *rooms),
        ChangeSpeed(speeds=[0.9, 1.1]),
        ChangeGain(),
        MixUtterances(others=(1, 3)),
        RandomCrop(seconds=0.5),
        OneOf(transforms=[AddNoise(), AddRoom()]),
    ]


@pytest.mark.parametrize("number", range(len(every())))
def test_every_transform_draws_from_its_draw_alone_and_leaves_its_input(number):
    heard = utterance()
    heard.setflags(write=False)
    results = []
    for seed in (0, 0, 1, 2, 3):
        torch.manual_seed(len(results))
        np.random.seed(len(results))
        transform = every()[number]
        results.append(transform(heard, draw(seed)))
        assert results[-1].dtype == np.float32 and results[-1].ndim == 1 and np.isfinite(results[-1]).all()
        assert len(results[-1]) == len(heard) or not transform.keeps_length
        assert not np.array_equal(results[-1], heard)
    np.testing.assert_array_equal(results[0], results[1])
    assert any(not np.array_equal(results[0], other) for other in results[2:])


@pytest.mark.parametrize("number", range(len(every())))
def test_probability_decides_who_is_changed_and_not_what_comes_after(number):
    heard, after = utterance(), []
    for probability in (0.0, 1e-9):
        transform = every()[number]
        transform.probability = probability
        drawn = draw()
        assert transform(heard, drawn) is heard
        after.append(drawn.rng.random())
    assert after[0] == after[1]
    half = every()[number]
    half.probability = 0.5
    changed = sum(half(heard, draw(seed)) is not heard for seed in range(40))
    assert 8 <= changed <= 32


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5])
@pytest.mark.parametrize("source", ["generated", "babble", "short corpus", "long corpus"])
def test_the_ratio_is_met_exactly(snr_db, source):
    transform = {
        "generated": lambda: AddNoise(snr_db=(snr_db, snr_db)),
        "babble": lambda: AddNoise(snr_db=(snr_db, snr_db), talkers=(3, 7)),
        "short corpus": lambda: opened(AddNoise(snr_db=(snr_db, snr_db), corpus="c"), utterance(2, 900)),
        "long corpus": lambda: opened(AddNoise(snr_db=(snr_db, snr_db), corpus="c"), utterance(2, 90_000)),
    }[source]()
    for seed in range(5):
        heard = utterance(seed)
        noise = transform(heard, draw(seed)).astype("f8") - heard
        assert decibels(power(heard) / power(noise)) == pytest.approx(snr_db, abs=1e-3)


def test_adding_at_a_ratio_equals_torchaudio():
    for seed, ratio_db in enumerate((-7.0, 0.0, 3.3)):
        heard, noise = utterance(seed), utterance(seed + 10)
        wanted = torchaudio.functional.add_noise(*map(torch.from_numpy, (heard, noise)), torch.tensor(ratio_db))
        np.testing.assert_allclose(heard + at_ratio(heard, noise, ratio_db), wanted.numpy(), atol=1e-6)


def test_ratios_are_drawn_over_their_range():
    heard, transform = utterance(), AddNoise(snr_db=(3.0, 9.0))
    ratios = [decibels(power(heard) / power(transform(heard, draw(seed)) - heard)) for seed in range(100)]
    assert 2.99 < min(ratios) < 4 and 8 < max(ratios) < 9.01 and abs(np.mean(ratios) - 6) < 0.6


def test_silence_stays_silence_and_silent_noise_adds_nothing():
    silence, heard = np.zeros(5_000, "f4"), utterance()
    for transform in every():
        if transform.keeps_length:
            np.testing.assert_array_equal(transform(silence, draw()), silence)
    np.testing.assert_array_equal(opened(AddNoise(corpus="c"), silence)(heard, draw()), heard)


@pytest.mark.parametrize("colour", [0.0, 1.0, 2.0])
def test_the_colour_of_noise(colour):
    noise = coloured_noise(10 * RATE + 1, colour, np.random.default_rng(0))
    hertz, density = signal.welch(noise.astype("f8"), RATE, nperseg=4096)
    inside = (hertz > 100) & (hertz < 7_000)
    slope = np.polyfit(np.log10(hertz[inside]), np.log10(density[inside]), 1)[0]
    assert slope == pytest.approx(-colour, abs=0.05)


def test_babble_is_of_many_and_at_equal_power():
    """Two talkers of very different levels are heard alike."""
    waveforms = iter([tone(500) * 0.01, tone(2_000)])
    drawn = Draw(np.random.default_rng(0), lambda: next(waveforms))
    heard = utterance(samples=RATE)
    noise = AddNoise(talkers=(2, 2))(heard, drawn) - heard
    spectrum = np.abs(np.fft.rfft(noise))
    assert spectrum[500] == pytest.approx(spectrum[2_000], rel=0.01) and spectrum[500] > 100 * np.median(spectrum)


def test_a_short_waveform_is_repeated_without_a_gap():
    ramp = np.arange(1, 8, dtype="f4")
    for seed in range(10):
        steps = np.diff(fitted(ramp, 40, np.random.default_rng(seed)))
        assert set(steps.tolist()) == {1.0, -6.0}
    places = {fitted(ramp, 5, np.random.default_rng(seed))[0] for seed in range(40)}
    assert places == {1.0, 2.0, 3.0}  # every place from the first to the last


def test_a_room_is_a_convolution_at_the_same_power():
    heard = utterance()
    response = np.concatenate([np.zeros(321), [1.0], 0.5 * utterance(3, 3_000)]).astype("f4")
    wanted = np.convolve(heard.astype("f8"), response[321:].astype("f8"))[: len(heard)]
    found = opened(AddRoom(corpus="c"), response)(heard, draw())
    np.testing.assert_allclose(found, wanted * np.sqrt(power(heard) / power(wanted)), atol=1e-5)
    assert decibels(power(found) / power(heard)) == pytest.approx(0, abs=1e-3)


def test_simulated_rooms_keep_the_direct_sound_in_place_and_the_power():
    for seed in range(10):
        response = random_response(np.random.default_rng(seed))
        assert np.abs(response).argmax() == 0 and np.vdot(response, response) == pytest.approx(1, abs=1e-5)
    click = np.zeros(8_000, "f4")
    click[1_000] = 0.5
    heard = AddRoom()(click, draw())
    assert np.abs(heard).argmax() == 1_000 and not np.abs(heard[:1_000]).max() > 1e-6
    assert power(heard) == pytest.approx(power(click), rel=1e-3)


def test_a_farther_speaker_sounds_more_like_the_room():
    direct = [
        np.mean([random_response(np.random.default_rng(seed), where, (0.8, 0.8))[0] for seed in range(20)])
        for where in ((0.3, 0.3), (1.0, 1.0), (2.0, 2.0))
    ]
    assert direct[0] > direct[1] > direct[2]


@pytest.mark.parametrize("speed", [0.9, 1.1, 1.15, 0.5, 2.0])
def test_speed_changes_length_and_pitch(speed):
    heard = tone(1_000, 2.0)
    changed = ChangeSpeed(speeds=[speed])(heard, draw())
    assert len(changed) == int(np.ceil(len(heard) / speed))
    spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed))))
    assert spectrum.argmax() * RATE / len(changed) == pytest.approx(1_000 * speed, rel=0.002)
    assert decibels(power(changed) / power(heard)) == pytest.approx(0, abs=0.1)


def test_speed_equals_torchaudio():
    heard = utterance()
    for speed in (0.9, 1.1):
        wanted, _ = torchaudio.functional.speed(torch.from_numpy(heard), RATE, speed)
        np.testing.assert_array_equal(ChangeSpeed(speeds=[speed])(heard, draw()), wanted.numpy())


def test_speed_moves_times_and_makes_speakers():
    meta = {
        "speaker": "anna",
        "text": "hallo",
        "phones": [["h", 0.0, 0.9], ["a", 0.9, 1.8]],
        "turns": [["anna", 0.45, 1.8]],
    }
    transform = ChangeSpeed(speeds=[0.9], new_speakers=True)
    _, changed = transform.apply(utterance(), meta, draw())
    assert changed["speaker"] == "sp0.9-anna" and changed["text"] == "hallo"
    assert [name for name, *_ in changed["phones"]] == ["h", "a"]
    np.testing.assert_allclose([times for _, *times in changed["phones"]], [[0.0, 1.0], [1.0, 2.0]])
    np.testing.assert_allclose(changed["turns"][0][1:], [0.5, 2.0])
    assert meta["speaker"] == "anna" and meta["phones"][1] == ["a", 0.9, 1.8]
    same = ChangeSpeed(speeds=[1.0], new_speakers=True).apply(heard := utterance(), meta, draw())
    assert same[0] is heard and same[1] is meta
    assert ChangeSpeed(speeds=[0.9]).apply(heard, meta, draw())[1]["speaker"] == "anna"


def test_new_speakers_come_behind_the_old_ones():
    inventories = {"speakers": ["anna", "ben"], "languages": ["de"]}
    transform = ChangeSpeed(speeds=[1.1, 0.9, 1.0], new_speakers=True)
    more = OneOf(transforms=[transform]).inventories(inventories)
    assert more["speakers"] == ["anna", "ben", "sp0.9-anna", "sp0.9-ben", "sp1.1-anna", "sp1.1-ben"]
    assert more["languages"] == ["de"] and inventories["speakers"] == ["anna", "ben"]
    assert ChangeSpeed().inventories(inventories) is inventories
    drawn = {transform.apply(utterance(), {"speaker": "ben"}, draw(seed))[1]["speaker"] for seed in range(20)}
    assert drawn == {"ben", "sp0.9-ben", "sp1.1-ben"} and drawn <= set(more["speakers"])
    by_split = transform.inventories({"speakers": {"train": ["anna"], "test": ["ben"]}})["speakers"]
    assert by_split == {"train": ["anna", "sp0.9-anna", "sp1.1-anna"], "test": ["ben", "sp0.9-ben", "sp1.1-ben"]}
    with pytest.raises(UserError, match="has no list of speakers"):
        transform.inventories({})


@pytest.mark.parametrize(("beyond", "peak", "clipped"), [("keep", 1.6, 0.0), ("clip", 1.0, 0.2), ("scale", 1.0, 0.0)])
def test_gain_and_what_happens_beyond_full_scale(beyond, peak, clipped):
    heard = tone(100) * np.float32(1.6)
    changed = ChangeGain(gain_db=(6.0206, 6.0206), beyond=beyond)(heard, draw())
    assert np.abs(changed).max() == pytest.approx(peak, rel=1e-3)
    assert np.mean(np.abs(changed) == 1.0) >= clipped
    if beyond == "scale":
        np.testing.assert_allclose(changed, heard / np.abs(heard).max(), atol=1e-6)
    soft = ChangeGain(gain_db=(-6.0206, -6.0206), beyond=beyond)(heard, draw())
    np.testing.assert_allclose(soft, heard / 2, rtol=1e-4, atol=1e-6)


def test_gains_are_uniform_in_decibels():
    heard = utterance()
    gains = [decibels(power(ChangeGain(gain_db=(-4, 8))(heard, draw(n))) / power(heard)) for n in range(200)]
    assert -4 < min(gains) < -3 and 7 < max(gains) < 8.001 and abs(np.mean(gains) - 2) < 0.8


def test_mixing_adds_a_segment_of_another_at_its_ratio():
    heard, other = utterance(0, 20_000), utterance(1, 50_000)
    places = set()
    for seed in range(10):
        drawn = Draw(np.random.default_rng(seed), lambda: other)
        added = MixUtterances(ratio_db=(6, 6), overlap=(0.25, 0.25))(heard, drawn).astype("f8") - heard
        (inside,) = np.nonzero(np.abs(added) > 1e-7)
        assert 4_900 < inside[-1] - inside[0] + 1 <= 5_000
        places.add(int(inside[0]))
        # Found again in the other utterance, with the gain that the ratio of both whole utterances demands.
        segment = added[inside[0] : inside[-1] + 1]
        lag = signal.correlate(other.astype("f8"), segment, "valid").argmax()
        source = other[lag : lag + len(segment)].astype("f8")
        gain = np.vdot(source, segment) / np.vdot(source, source)
        assert gain == pytest.approx(np.sqrt(power(heard) / power(other)) * 10 ** (-6 / 20), rel=1e-3)
        np.testing.assert_allclose(segment, gain * source, atol=1e-6)
    assert len(places) > 5


def test_a_crop_is_a_stretch_of_the_utterance_from_any_place():
    ramp = np.arange(10_000, dtype="f4")
    crops = [RandomCrop(seconds=0.5)(ramp, draw(seed)) for seed in range(200)]
    assert all(len(crop) == 8_000 and np.array_equal(crop, ramp[int(crop[0]) :][:8_000]) for crop in crops)
    starts = [crop[0] for crop in crops]
    assert min(starts) < 100 and max(starts) > 1_900
    np.testing.assert_array_equal(RandomCrop(seconds=1.0)(ramp, draw()), ramp)


def test_one_of_several_by_weight():
    heard = utterance()
    transforms = [ChangeGain(gain_db=(6, 6)), ChangeGain(gain_db=(-6, -6))]
    louder = [power(OneOf(transforms=transforms, weights=[3, 1])(heard, draw(n))) > power(heard) for n in range(200)]
    assert 0.65 < np.mean(louder) < 0.85
    changed = {
        OneOf(transforms=[ChangeSpeed(speeds=[0.9], new_speakers=True), ChangeGain()]).apply(
            heard, {"speaker": "a"}, draw(n)
        )[1]["speaker"]
        for n in range(20)
    }
    assert changed == {"a", "sp0.9-a"}
    assert OneOf(transforms=[AddNoise(), AddRoom()]).keeps_length
    assert not OneOf(transforms=[AddNoise(), ChangeSpeed()]).keeps_length
    assert not OneOf(transforms=[AddNoise(), RandomCrop(seconds=1)]).keeps_content


@pytest.mark.parametrize("number", range(len(every())))
def test_no_result_is_longer_than_batches_are_planned_for(number):
    transform = every()[number]
    for samples in (1, 999, 8_000, 20_001):
        found = [len(transform(utterance(samples=samples), draw(seed))) for seed in range(6)]
        assert max(found) <= transform.longest(samples)
    assert ChangeSpeed(speeds=[1.1, 0.8]).longest(1_001) == 1_252
    assert RandomCrop(seconds=0.1).longest(9_999) == 1_600 and RandomCrop(seconds=0.1, probability=0.5).longest(9) == 9
    assert RandomCrop(seconds=0.1, probability=0.5).longest(9_999) == 9_999
    assert OneOf(transforms=[AddNoise(), ChangeSpeed(speeds=[0.5])]).longest(10) == 20


def test_a_chain_is_its_transforms_in_order():
    heard, meta = utterance(), {"speaker": "a"}
    chain = [ChangeSpeed(speeds=[0.9], new_speakers=True), AddNoise(), RandomCrop(seconds=1.0)]
    found, labels = transform_all(chain, heard, meta, draw(3))
    drawn = draw(3)
    wanted = heard
    for transform in chain:
        wanted = transform(wanted, drawn)
    np.testing.assert_array_equal(found, wanted)
    assert labels == {"speaker": "sp0.9-a"} and len(found) == RATE


def test_a_description_says_what_is_not_the_default():
    chain = [
        AddNoise(snr_db=(5.0, 20.0), probability=0.5),
        OneOf(transforms=[AddRoom(corpus="here"), ChangeSpeed(speeds=[0.9])], weights=[1, 2]),
    ]
    described = [each.describe() for each in chain]
    assert described == [
        ["AddNoise", {"probability": 0.5}],
        [
            "OneOf",
            {"transforms": [["AddRoom", {"corpus": True}], ["ChangeSpeed", {"speeds": [0.9]}]], "weights": [1, 2]},
        ],
    ]
    assert json.loads(json.dumps(described)) == described
    # Where a corpus lies decides nothing; `open_transforms` adds its hash.
    assert AddRoom(corpus="here").describe() == AddRoom(corpus="there").describe() != AddRoom().describe()
    assert [type(each).__name__ for each in with_parts(chain)] == ["AddNoise", "OneOf", "AddRoom", "ChangeSpeed"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AddNoise(probability=1.5), r"AddNoise\.probability must lie between 0 and 1, not 1\.5"),
        (lambda: AddNoise(snr_db=(20, 5)), r"AddNoise\.snr_db: \[20, 5\] is not a range"),
        (lambda: AddNoise(snr_db=(0, float("inf"))), r"AddNoise\.snr_db: \[0, inf\] is not a range"),
        (lambda: AddNoise(snr_db=(0, float("nan"))), r"AddNoise\.snr_db: \[0, nan\] is not a range"),
        (lambda: AddNoise(talkers=(0, 3)), r"AddNoise\.talkers: \[0, 3\] is not a range of at least 1"),
        (lambda: AddNoise(talkers=(3, 7), corpus="c"), "corpus and talkers both name a noise"),
        (lambda: AddNoise(corpus="c", colour=(1, 1)), r"AddNoise\.colour is that of generated noise"),
        (lambda: AddRoom(reflection=(0.5, 1.0)), r"AddRoom\.reflection: \[0\.5, 1\] is not a range from 0 to 0\.95"),
        (lambda: AddRoom(corpus="c", distance=(1, 2)), "AddRoom: distance and reflection are those of simulated rooms"),
        (lambda: ChangeSpeed(speeds=[]), r"ChangeSpeed\.speeds is empty"),
        (lambda: ChangeSpeed(speeds=[0.9, 0.333]), r"ChangeSpeed\.speeds: 0\.333 is not a multiple of 0\.01"),
        (lambda: ChangeSpeed(speeds=[3.0]), r"ChangeSpeed\.speeds: 3 is not a multiple"),
        (lambda: ChangeGain(gain_db=(1, -1)), r"ChangeGain\.gain_db: \[1, -1\] is not a range"),
        (lambda: MixUtterances(others=(0, 1)), r"MixUtterances\.others: \[0, 1\] is not a range of at least 1"),
        (
            lambda: MixUtterances(overlap=(0.5, 1.5)),
            r"MixUtterances\.overlap: \[0\.5, 1\.5\] is not a range from 0 to 1",
        ),
        (lambda: RandomCrop(seconds=0), r"RandomCrop\.seconds must be above 0"),
        (lambda: OneOf(transforms=[]), r"OneOf\.transforms is empty"),
        (lambda: OneOf(transforms=[AddRoom()], weights=[1, 2]), r"OneOf\.weights: \[1, 2\] are not 1 numbers"),
        (lambda: AddNoise(corpus="gone")(utterance(), draw()), "its corpus gone is not open"),
    ],
)
def test_wrong_settings_are_one_sentence(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_a_transform_of_ones_own_that_changes_the_length_must_say_so():
    @dataclass(kw_only=True)
    class Half(WaveformTransform):
        def change(self, waveform, draw):
            return waveform[: len(waveform) // 2]

    @dataclass(kw_only=True)
    class HalfThatSaysSo(Half):
        keeps_length: ClassVar[bool] = False

    with pytest.raises(UserError, match="must have a method `longest`"):
        HalfThatSaysSo().longest(10)
    with pytest.raises(UserError, match="Half: 20,000 samples became 10,000, but its class says keeps_length"):
        Half()(utterance(), draw())
    assert len(HalfThatSaysSo()(utterance(), draw())) == 10_000
    assert HalfThatSaysSo(probability=0.5).describe() == ["HalfThatSaysSo", {"probability": 0.5}]
