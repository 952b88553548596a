"""`wavlm score`: the values of the field's own tools, and one sentence for files that do not belong together."""

import json

import jiwer
import numpy as np
import pytest
from pyannote.core import Annotation, Segment
from pyannote.metrics.diarization import DiarizationErrorRate, JaccardErrorRate
from sklearn.metrics import accuracy_score, f1_score
from torchmetrics.text import CharErrorRate, WordErrorRate

from wavlm_lightning.cli import main
from wavlm_lightning.metrics import equal_error_rate, rttm_lines
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.score import score, score_both

WORDS = ["one", "two", "three", "four", "fünf", "don't"]


@pytest.fixture
def texts(tmp_path):
    rng = np.random.default_rng(0)
    truth = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(40)]
    answer = [" ".join(word for word in rng.choice(WORDS, rng.integers(0, 9))) for _ in range(40)]
    answer = [said if row % 2 else truth[row] for row, said in enumerate(answer)]
    (tmp_path / "ref").write_text("".join(f"s{row % 4}-u{row} {line}\n" for row, line in enumerate(truth)))
    (tmp_path / "hyp").write_text("".join(f"s{row % 4}-u{row} {answer[row]}\n" for row in reversed(range(40))))
    (tmp_path / "utt2spk").write_text("".join(f"s{row % 4}-u{row} s{row % 4}\n" for row in range(40)))
    return tmp_path, truth, answer


def test_words_and_letters_as_jiwer_and_torchmetrics(texts, capsys):
    folder, truth, answer = texts
    scored = score("asr", folder / "ref", folder / "hyp")
    wer, cer = scored.measures
    assert (
        wer.interval.value
        == pytest.approx(jiwer.wer(truth, answer))
        == pytest.approx(float(WordErrorRate()(answer, truth)))
    )
    assert cer.interval.value == pytest.approx(float(CharErrorRate()(answer, truth)))
    found = jiwer.process_words(truth, answer)
    assert [wer.details[name] for name in ("sub", "del", "ins")] == [
        found.substitutions,
        found.deletions,
        found.insertions,
    ]
    assert wer.interval.low < wer.interval.value < wer.interval.high and scored.utterances == 40
    assert main(["score", "asr", str(folder / "ref"), str(folder / "hyp"), "--speakers", str(folder / "utt2spk")]) == 0
    out = capsys.readouterr().out
    assert f"WER {100 * jiwer.wer(truth, answer):.2f} % [" in out and "95 % intervals resample speakers" in out
    one = jiwer.wer(truth[1::4], answer[1::4])
    assert f"  s1  WER {100 * one:.2f} % [" in out
    assert main(["score", "pr", str(folder / "ref"), str(folder / "hyp"), "--json"]) == 0
    measures = json.loads(capsys.readouterr().out)["measures"]
    assert [each["name"] for each in measures] == ["PER"] and measures[0]["interval"][0] == pytest.approx(
        wer.interval.value
    )


def test_lines_without_names(texts, capsys):
    folder, truth, answer = texts
    for name, lines in (("ref.txt", truth), ("hyp.txt", answer)):
        (folder / name).write_text("\n".join(lines) + "\n")
    found = score("asr", folder / "ref.txt", folder / "hyp.txt").measures[0].interval.value
    assert found == pytest.approx(jiwer.wer(truth, answer))
    assert "hyp.txt: lines are taken as texts without names" in capsys.readouterr().err


@pytest.mark.parametrize("names", [True, False])
def test_white_space_is_no_error(tmp_path, names):
    begin = ["u1 ", "u2 "] if names else ["", ""]
    (tmp_path / "ref").write_text(f"{begin[0]}yes it is \n{begin[1]}\tno\n")
    (tmp_path / "hyp").write_text(f"{begin[0]}yes  it\tis\n{begin[1]} no  \n")
    wer, cer = score("asr", tmp_path / "ref", tmp_path / "hyp", names=names).measures
    assert wer.interval.value == cer.interval.value == 0 and cer.details["of letters"] == 11
    (tmp_path / "hyp").write_text(f"{begin[0]}yes it is\n{begin[1]} no  \n")
    assert score("labels", tmp_path / "ref", tmp_path / "hyp", names=names).measures[0].interval.value == 1


def test_which_reading_was_taken_is_said(texts, capsys):
    folder, *_ = texts
    score("asr", folder / "ref", folder / "hyp")
    said = capsys.readouterr().err
    assert "hyp: the first word of each line is taken as the name of its utterance; give --no-names" in said
    score("asr", folder / "ref", folder / "hyp", names=True)
    assert capsys.readouterr().err == ""
    lines = (folder / "hyp").read_text().splitlines(keepends=True)
    (folder / "hyp").write_text("".join(["other word\n", *lines[1:]]))
    with pytest.raises(
        UserError, match=r"hyp lacks s3-u39 and .*ref lacks other, and all other .* --names .* --no-names"
    ):
        score("asr", folder / "ref", folder / "hyp")
    score("asr", folder / "ref", folder / "hyp", names=False)


def test_a_repeated_trial_counts_once_and_that_is_said(tmp_path, capsys):
    (tmp_path / "ref").write_text("1 a b\n0 a c\n1 a b\n1 d e\n0 d f\n")
    (tmp_path / "hyp").write_text("a b 0.9\na c 0.1\nd e 0.8\nd f 0.2\nd f 0.20\na b 0.9\n")
    found = score("sv", tmp_path / "ref", tmp_path / "hyp")
    assert found.utterances == 4
    said = capsys.readouterr().err
    assert "ref: 1 lines repeat a trial" in said and "hyp: 2 lines repeat a trial" in said


def test_two_systems_are_compared_on_the_same_utterances(texts, capsys):
    folder, truth, answer = texts
    perfect = [f"s{row % 4}-u{row} {line}\n" for row, line in enumerate(truth)]
    (folder / "perfect").write_text("".join(reversed(perfect)))
    one, two, found = score_both("asr", folder / "ref", folder / "hyp", folder / "perfect")
    assert (one, two) == (
        score("asr", folder / "ref", folder / "hyp"),
        score("asr", folder / "ref", folder / "perfect"),
    )
    assert found.difference == pytest.approx(100 * jiwer.wer(truth, answer)) and found.p_value < 0.001
    words = ["score", "asr", str(folder / "ref"), str(folder / "hyp"), str(folder / "hyp")]
    assert main(words) == 0
    assert "first minus second: WER +0.00 points [+0.00, +0.00], p = 1 for no difference" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["comparison"]["utterances"] == 40


def test_labels_as_scikit_learn(tmp_path):
    rng = np.random.default_rng(1)
    truth, answer = rng.choice(list("abc"), 60), rng.choice(list("abcd"), 60)
    for name, labels in (("ref", truth), ("hyp", answer)):
        (tmp_path / name).write_text("\n".join(labels) + "\n")
    accuracy, f1 = score("labels", tmp_path / "ref", tmp_path / "hyp").measures
    assert accuracy.interval.value == pytest.approx(accuracy_score(truth, answer))
    assert f1.interval.value == pytest.approx(
        f1_score(truth, answer, average="macro", labels=list("abc"), zero_division=0)
    )


def test_turns_as_pyannote(tmp_path):
    rng = np.random.default_rng(2)
    der, jer = DiarizationErrorRate(), JaccardErrorRate()
    files = {"ref": [], "hyp": []}
    for recording in range(4):
        made = {}
        for name, speakers in (("ref", "ab"), ("hyp", "xyz")):
            turns, time = [], 0.0
            for _ in range(8):
                time += float(rng.uniform(0, 0.5))
                turns.append(
                    (str(rng.choice(list(speakers))), round(time, 3), round(time + float(rng.uniform(0.3, 2)), 3))
                )
                time = turns[-1][2]
            files[name] += rttm_lines(f"r{recording}", turns)
            made[name] = Annotation()
            for number, (speaker, start, end) in enumerate(turns):
                made[name][Segment(start, end), number] = speaker
        der(made["ref"], made["hyp"])
        jer(made["ref"], made["hyp"])
    for name, lines in files.items():
        (tmp_path / f"{name}.rttm").write_text("\n".join(lines) + "\n")
    found = score("sd", tmp_path / "ref.rttm", tmp_path / "hyp.rttm")
    assert [each.name for each in found.measures] == ["DER", "JER"] and found.resampled == "recordings"
    assert found.measures[0].interval.value == pytest.approx(abs(der), abs=1e-6)
    assert found.measures[1].interval.value == pytest.approx(abs(jer), abs=1e-6)
    *_, compared = score_both("sd", tmp_path / "ref.rttm", tmp_path / "hyp.rttm", tmp_path / "ref.rttm")
    assert compared.difference == pytest.approx(100 * abs(der), abs=1e-4) and compared.resampled == "recordings"


def test_trials(tmp_path):
    rng = np.random.default_rng(3)
    same = (rng.random(200) < 0.5).astype(int)
    scores = rng.normal(size=200) + same
    (tmp_path / "ref").write_text("".join(f"{label} a{n} b{n}\n" for n, label in enumerate(same)))
    (tmp_path / "hyp").write_text("".join(f"b{n} a{n} {value}\n" for n, value in reversed(list(enumerate(scores)))))
    eer, cost = score("sv", tmp_path / "ref", tmp_path / "hyp", prior=0.05).measures
    assert eer.interval.value == pytest.approx(equal_error_rate(scores, same)[0])
    assert cost.name == "minDCF(P=0.05)" and 0 < cost.interval.value <= 1
    (tmp_path / "better").write_text("".join(f"a{n} b{n} {value + same[n]}\n" for n, value in enumerate(scores)))
    *_, found = score_both("sv", tmp_path / "ref", tmp_path / "hyp", tmp_path / "better")
    assert found.difference > 5 and found.p_value < 0.05 and found.resampled == "trials"


def test_all_right_or_all_wrong_has_the_interval_of_a_card(tmp_path):
    """A bootstrap of equal results has no width; 1 - 0.025 ** (1 / n) is Clopper and Pearson's."""
    for name, word in (("ref", "a"), ("right", "a"), ("wrong", "c")):
        (tmp_path / name).write_text(
            "".join(f"u{n} {word if n % 2 else 'b' if word == 'a' else word}\n" for n in range(12))
        )
    (tmp_path / "utt2spk").write_text("".join(f"u{n} s{n % 3}\n" for n in range(12)))
    room = pytest.approx(1 - 0.025 ** (1 / 12))
    for kind, good in (("asr", 0.0), ("labels", 1.0)):
        for name, value in (("right", good), ("wrong", 1 - good)):
            for measure in score(kind, tmp_path / "ref", tmp_path / name, names=True).measures:
                found = measure.interval
                assert (found.value, found.high - found.low) == (value, room), (kind, name, measure.name)
    scored = score("asr", tmp_path / "ref", tmp_path / "right", tmp_path / "utt2spk", names=True)
    assert scored.measures[0].interval.high == pytest.approx(1 - 0.025 ** (1 / 3))
    assert scored.by_speaker["s0"].high == pytest.approx(1 - 0.025 ** (1 / 4))
    (tmp_path / "trials").write_text("1 a b\n1 c d\n0 a c\n0 a d\n0 b c\n")
    (tmp_path / "scores").write_text("a b 0.9\nc d 0.8\na c 0.1\na d 0.2\nb c 0.3\n")
    eer = score("sv", tmp_path / "trials", tmp_path / "scores").measures[0].interval
    assert (eer.value, eer.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 2)))


@pytest.mark.parametrize(
    ("kind", "reference", "hypothesis", "message"),
    [
        ("asr", "a\nb\n", "a\n", "1 lines, .*ref has 2"),
        ("asr", "u1 a\nu2 b\n", "u1 a\nu3 b\n", "one line for each|is not in"),
        ("asr", "\n\n", "\n\n", "holds no words"),
        ("sd", "", "", "holds no turns"),
        ("sd", "SPEAKER r 1 0 1 x x a\n", "SPEAKER q 1 0 1 x x a\n", "recording q is not in"),
        ("sd", "SPEAKER r 1 0\n", "", "RTTM line 1"),
        ("sv", "2 a b\n", "a b 0.1\n", "line 1: not a trial"),
        ("sv", "1 a b\n0 a c\n", "a b 0.1\n", "1 of 2 trials have no score, such as a c"),
        ("sv", "1 a b\n0 a c\n", "a b 0.1\na c nan\n", "not a finite number"),
        ("sv", "1 a b\n1 a c\n", "a b 0.1\na c 1\n", "pairs of both kinds"),
        ("sv", "1 a b\n", "a b\n", "line 1"),
        ("sv", "1 a b\n", "a b 1 2\n", "line 1"),
        ("sv", "1 a b\n0 a c\n0 a b\n", "a b 1\na c 0\n", "ref, line 3: a b has another label in a line above"),
        ("sv", "1 a b\n0 a c\n0 b a\n", "a b 1\na c 0\n", "ref, line 3: b a has another label in a line above"),
        ("sv", "1 a b\n0 a c\n", "a b 1\na c 0\na b 2\n", "hyp, line 3: a b has another score in a line above"),
        ("labels", "", "", "ref: holds no labels"),
        ("labels", "\n", "\n", "ref: holds no labels"),
    ],
)
def test_files_that_do_not_fit(tmp_path, kind, reference, hypothesis, message):
    (tmp_path / "ref").write_text(reference)
    (tmp_path / "hyp").write_text(hypothesis)
    with pytest.raises(UserError, match=message):
        score(kind, tmp_path / "ref", tmp_path / "hyp", names=True if "u3" in hypothesis else None)


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("sd", {"speakers": "utt2spk"}),
        ("sd", {"names": True}),
        ("sv", {"missing": "empty"}),
        ("sv", {"collar": 0.5}),
        ("sd", {"prior": 0.5}),
        ("asr", {"collar": 0.5}),
        ("labels", {"prior": 0.5}),
    ],
)
def test_an_option_of_another_kind_is_refused(tmp_path, kind, option):
    for name in ("ref", "hyp"):
        (tmp_path / name).write_text("")
    with pytest.raises(UserError, match=rf"--{next(iter(option))}.* of {kind}"):
        score(kind, tmp_path / "ref", tmp_path / "hyp", **option)


def test_missing_answers_count_as_empty_only_if_asked(tmp_path):
    (tmp_path / "ref").write_text("u1 a b\nu2 c\n")
    (tmp_path / "hyp").write_text("u1 a b\n")
    with pytest.raises(UserError, match="lacks 1 of 2 utterances, such as u2"):
        score("asr", tmp_path / "ref", tmp_path / "hyp", names=True)
    found = score("asr", tmp_path / "ref", tmp_path / "hyp", names=True, missing="empty").measures[0]
    assert found.interval.value == pytest.approx(1 / 3) and found.details["del"] == 1


def test_a_run_that_is_not_there_is_named(tmp_path, capsys):
    run, missing = tmp_path / "run", tmp_path / "missing"
    run.mkdir()
    for words in ([run, missing], [missing, run], [missing], [run, run, missing]):
        assert main(["score", *map(str, words)]) == 2
        assert f"wavlm score: {missing}: no such run folder" in capsys.readouterr().err, words
