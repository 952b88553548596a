"""`wavlm score`: the field's measures on two files, a reference and a hypothesis, with intervals and counts of errors.

The measures are those of the tasks: words and letters are counted by edit distance over all utterances, turns by
`metrics.diarization_errors`, trials by `metrics.equal_error_rate`. Two hypotheses are compared as two runs are, by
`reports.utterances`. Tests: `tests/workflows/test_score.py`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.metrics import diarization_errors, equal_error_rate, parse_rttm, pyannote_errors
from wavlm_lightning.metrics.alignment import Alignment, Edits, aligned, total
from wavlm_lightning.metrics.intervals import Interval, bootstrap_interval, exact_interval
from wavlm_lightning.metrics.verification import minimum_detection_cost
from wavlm_lightning.reports.transcripts import transcript_files
from wavlm_lightning.reports.utterances import Comparison, ScoredTrials, UtteranceResults, compare
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, write_text
from wavlm_lightning.system.reading import read_lines, reading
from wavlm_lightning.system.run_folder import check_one_head

KINDS = {
    "asr": "word and letter error rate; a transcript a line, or Kaldi's `text`",
    "pr": "phone error rate; phones separated by spaces, as asr",
    "labels": "accuracy and F1 (KS, SID, IC, ER); a label a line, or a name and a label",
    "sd": "diarization and Jaccard error rate; RTTM",
    "sv": "equal error rate and minimum detection cost; trials `0|1 A B` and scores `A B SCORE`, in any order",
}


PRIOR = 0.01  # of a pair of one speaker in the detection cost


@dataclass(frozen=True)
class Measured:
    """A measure: its value with an interval, both in its unit, and what it was computed from."""

    name: str
    interval: Interval  # as fractions
    unit: str = "%"
    details: Mapping[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """Such as `WER 12.34 % [11.02, 13.81]  (ins 3, del 1, sub 20, of 195 words)`."""
        scale, decimals = (100, 2) if self.unit == "%" else (1, 4)
        value, low, high = (f"{scale * number:.{decimals}f}" for number in self.interval)
        said = ", ".join(f"{name} {number:g}" for name, number in self.details.items())
        return f"{self.name} {value}{f' {self.unit}' if self.unit else ''} [{low}, {high}]" + (
            f"  ({said})" if said else ""
        )


@dataclass(frozen=True)
class Scored:
    """All measures of two files, and of each speaker the first one."""

    measures: list[Measured]
    utterances: int
    resampled: str  # what the intervals resample: utterances, recordings, speakers, trials
    by_speaker: dict[str, Interval] = field(default_factory=dict)
    by: dict[str, list[Part]] = field(default_factory=dict)  # what was asked for of `GROUPINGS` -> its rows


@dataclass(frozen=True)
class Part:
    """Utterances of one speaker or of some length, or a single one, and the first measure on them."""

    name: str
    utterances: int
    units: int  # words or phones of the reference
    substitutions: int
    deletions: int
    insertions: int
    interval: Interval | None  # as fractions; None without units, or of a single utterance

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions


GROUPINGS = ("speaker", "length", "utterance")
LENGTHS = (0, 5, 10, 20, 40)  # longest reference of each row of `length`, in words or phones; the last row is open


def score(
    kind: str,
    reference: Path,
    hypothesis: Path,
    speakers: Path | None = None,
    names: bool | None = None,
    missing: str = "stop",
    collar: float = 0.0,
    prior: float = PRIOR,
    by: Sequence[str] = (),
    errors: Path | None = None,
) -> Scored:
    """Score a file of answers against a file of truths.

    Args:
        kind: one of `KINDS`.
        reference: the truth.
        hypothesis: the answers.
        speakers: Kaldi's `utt2spk`: intervals resample speakers, and there is a value for each.
        names: whether lines begin with the name of the utterance, as Kaldi's `text`; None decides, and says so on stderr: yes
            if the first words of each file are all different and both files have the same ones.
        missing: `stop` if the hypothesis lacks an utterance, or `empty` to count it as an empty answer.
        collar: seconds on either side of a reference boundary that are not scored; `sd` only.
        prior: of a pair of one speaker in the detection cost; `sv` only.
        by: some of `GROUPINGS`: rows of the first measure for each; `asr` and `pr` only. `speaker` needs `speakers`.
        errors: write the utterances with errors to this file, aligned, and the most frequent confusions; `asr` and `pr` only.

    Raises:
        UserError: a file is missing or malformed, or the two do not belong together.

    Example:
        >>> print(score("asr", Path("text"), Path("hyp")).measures[0].line())
        WER 3.21 % [2.87, 3.60]  (sub 120, del 31, ins 18, of 5262 words)
    """
    return _scored(kind, reference, hypothesis, speakers, names, missing, collar, prior, by, errors)[0]


def files_of_run(run: Path) -> dict[str, Any]:
    """Arguments of `score`, or of `score_both` if there is an `other`, for the transcripts that `wavlm test RUN` has left.

    With a language model its transcripts are the hypothesis, and the greedy ones the other.

    Raises:
        UserError: the run has none.
    """
    check_one_head(run)
    reference, answers, speakers = transcript_files(run)
    if not answers or not reference.is_file():
        raise UserError(f"{run}: has no transcripts; `wavlm test {run}` writes them for ASR and PR heads")
    if answers[0].stem == "bleu":
        raise UserError(
            f"{run}: its test has translations, of which errors of words say nothing; see their BLEU and chrF2 in {run}/card.json"
        )
    kind = "pr" if answers[0].stem.startswith("per") else "asr"
    found = {"kind": kind, "reference": reference, "hypothesis": answers[0], "speakers": speakers, "names": True}
    return found if len(answers) == 1 else {**found, "other": answers[1]}


def score_both(
    kind: str, reference: Path, hypothesis: Path, other: Path, **options: Any
) -> tuple[Scored, Scored, Comparison]:
    """Score two files of answers against one file of truths, and compare the first measure of both (a paired test).

    Args:
        kind: one of `KINDS`.
        reference: the truth.
        hypothesis: the answers of one system.
        other: those of another one.
        options: of `score`; `errors` are those of the first hypothesis.

    Example:
        >>> *_, compared = score_both("asr", Path("text"), Path("wavlm.hyp"), Path("fbank.hyp"))
        >>> compared.p_value
        0.0005
    """
    one, mine = _scored(kind, reference, hypothesis, **options)
    two, theirs = _scored(kind, reference, other, **{**options, "errors": None})
    return one, two, compare(mine, theirs)


def _scored(
    kind: str,
    reference: Path,
    hypothesis: Path,
    speakers: Path | None = None,
    names: bool | None = None,
    missing: str = "stop",
    collar: float = 0.0,
    prior: float = PRIOR,
    by: Sequence[str] = (),
    errors: Path | None = None,
) -> tuple[Scored, UtteranceResults]:
    """The measures, and what each utterance adds to the first one."""
    if kind not in KINDS:
        raise UserError(f"{kind}: not a kind of files; give one of {', '.join(KINDS)}")
    if (by or errors is not None) and kind not in ("asr", "pr"):
        raise UserError(f"--by and --errors: of words and phones alone (asr, pr), and not of {kind}")
    if kind in ("sd", "sv") and (speakers is not None or names is not None or missing != "stop"):
        raise UserError(f"--speakers, --names and --missing: of utterances (asr, pr, labels), and not of {kind}")
    if (kind != "sd" and collar) or (kind != "sv" and prior != PRIOR):
        raise UserError(f"--collar is of sd and --prior of sv alone, and not of {kind}")
    if "speaker" in by and speakers is None:
        raise UserError("--by speaker: needs the speakers; give Kaldi's utt2spk with --speakers")
    if kind == "sd":
        return _turns(reference, hypothesis, collar)
    if kind == "sv":
        return _trials(reference, hypothesis, prior)
    clean = str.strip if kind == "labels" else _single_blanks
    listed = _paired_lines(reference, hypothesis, names, missing)
    pairs = [(name, clean(truth), clean(answer)) for name, truth, answer in listed]
    groups = None if speakers is None else _speakers(speakers, [name for name, _, _ in pairs])
    keys = [name for name, _, _ in pairs]
    if kind == "labels":
        if not any(truth for _, truth, _ in pairs):
            raise UserError(f"{reference}: holds no labels, so there is nothing to score")
        return _labels(pairs, groups)
    counted: list[tuple[str, str, Callable[[str], list[str]]]] = [("PER", "phones", str.split)]
    if kind == "asr":
        counted = [("WER", "words", str.split), ("CER", "letters", list)]
    measures, first = [], None
    tables: dict[str, list[Part]] = {}
    for name, unit, split in counted:
        made = [aligned(split(truth), split(answer)) for _, truth, answer in pairs]
        edits = [each.edits for each in made]
        whole = total(edits)
        if not whole.units:
            raise UserError(f"{reference}: holds no {unit}, so there is nothing to score")
        kinds = {"sub": whole.substitutions, "del": whole.deletions, "ins": whole.insertions}
        wrong, counts = [each.errors for each in edits], [each.units for each in edits]
        measures.append(Measured(name, _interval(wrong, counts, groups), "%", {**kinds, f"of {unit}": whole.units}))
        first = first or (wrong, counts)
        if name == counted[0][0]:
            tables = {each: _parts(each, keys, edits, groups) for each in by}
            if errors is not None:
                check_output(errors.parent, "--errors")
                heading = f"{hypothesis} against {reference}: {measures[0].line()}"
                write_text(errors, "\n".join(_error_lines(heading, keys, made)) + "\n")
    assert first is not None
    by_speaker = _by_speaker(*first, groups)
    scored = Scored(measures, len(pairs), "speakers" if groups else "utterances", by_speaker, tables)
    return scored, _results(measures[0], keys, *first, groups)


def _parts(by: str, keys: Sequence[str], edits: Sequence[Edits], groups: Sequence[str] | None) -> list[Part]:
    """Rows of one of `GROUPINGS`: speakers by name, lengths from short to long, utterances with most errors first."""
    if by == "utterance":
        order = sorted(range(len(keys)), key=lambda row: (-edits[row].errors, row))
        return [Part(keys[row], 1, *edits[row], interval=None) for row in order]
    names = [_length(each.units) for each in edits] if by == "length" else [str(group) for group in groups or ()]
    listed = sorted(set(names)) if by == "speaker" else list(map(_length, (0, *(n + 1 for n in LENGTHS))))
    found = []
    for name in dict.fromkeys(listed):
        rows = [row for row, own in enumerate(names) if own == name]
        if rows:
            whole = total(edits[row] for row in rows)
            wrong, counts = [edits[row].errors for row in rows], [edits[row].units for row in rows]
            interval = _interval(wrong, counts) if whole.units else None
            found.append(Part(name, len(rows), *whole, interval=interval))
    return found


def _length(units: int) -> str:
    """The row of the table by length to which a reference of `units` words or phones belongs."""
    for low, high in pairwise(LENGTHS):
        if low < units <= high:
            return f"{low + 1} to {high}"
    return "0" if not units else f"over {LENGTHS[-1]}"


MOST = 30  # confusions of each kind that are listed


def _error_lines(heading: str, keys: Sequence[str], made: Sequence[Alignment]) -> list[str]:
    """A file of errors for people: the most frequent ones, then every utterance with errors, worst first."""
    wrong = sorted((row for row, each in enumerate(made) if each.edits.errors), key=lambda row: -made[row].edits.errors)
    counts: Counter[tuple[str, str]] = Counter()
    for each in made:
        counts.update(each.confusions)
    lines = [heading, f"{len(wrong)} of {len(keys)} utterances have errors"]
    for title, listed in (
        ("substitutions (reference -> hypothesis)", {pair: n for pair, n in counts.items() if all(pair)}),
        ("deletions", {pair: n for pair, n in counts.items() if not pair[1]}),
        ("insertions", {pair: n for pair, n in counts.items() if not pair[0]}),
    ):
        shown = sorted(listed.items(), key=lambda item: (-item[1], item[0]))
        more = f", the {MOST} most frequent" if len(shown) > MOST else ""
        lines += ["", f"{title}: {sum(listed.values())}, {len(shown)} different{more}"]
        lines += [f"{number:6}  {' -> '.join(filter(None, pair))}" for pair, number in shown[:MOST]]
    for row in wrong:
        found = made[row].edits
        kinds = f"{found.substitutions} sub, {found.deletions} del, {found.insertions} ins of {found.units}"
        lines += ["", f"{keys[row]}  ({kinds})", *made[row].lines()]
    return lines


def _results(
    measure: Measured,
    keys: Sequence[str],
    errors: Sequence[float],
    counts: Sequence[float],
    groups: Sequence[str] | None = None,
    rows: str = "utterances",
    trials: ScoredTrials | None = None,
) -> UtteranceResults:
    """What each utterance adds to a measure; files have no corpus to compare, so that names alone must agree."""
    return UtteranceResults(
        task="wavlm score",
        metric=measure.name,
        better="higher" if measure.name == "accuracy" else "lower",
        scale=100.0,
        corpus="",
        split="",
        keys=tuple(keys),
        errors=np.asarray(errors, dtype=np.float64),
        counts=np.asarray(counts, dtype=np.float64),
        rows=rows,
        speakers=None if groups is None else tuple(groups),
        trials=trials,
    )


def _interval(errors: Sequence[float], counts: Sequence[float], groups: Sequence[Hashable] | None = None) -> Interval:
    """The rate with its interval: as on a card, the exact one where all utterances are right, or all wrong."""
    found = bootstrap_interval(errors, counts, groups)
    if any(errors) and list(errors) != list(counts):
        return found
    return exact_interval(found.value, len(errors) if groups is None else len(set(groups)))


def _by_speaker(
    errors: Sequence[float], counts: Sequence[float], groups: Sequence[Hashable] | None
) -> dict[str, Interval]:
    found: dict[str, Interval] = {}
    for speaker in sorted(set(map(str, groups or ()))):
        rows = [row for row, group in enumerate(groups or ()) if str(group) == speaker]
        if sum(counts[row] for row in rows):
            found[speaker] = _interval([errors[row] for row in rows], [counts[row] for row in rows])
    return found


def _labels(pairs: Sequence[tuple[str, str, str]], groups: Sequence[str] | None) -> tuple[Scored, UtteranceResults]:
    truths, answers = [truth for _, truth, _ in pairs], [answer for _, _, answer in pairs]
    wrong = [float(truth != answer) for truth, answer in zip(truths, answers, strict=True)]
    right = [1 - value for value in wrong]
    ones = [1.0] * len(pairs)
    accuracy = Measured("accuracy", _interval(right, ones, groups), "%", {"of utterances": len(pairs)})
    classes = {label: number for number, label in enumerate(sorted({*truths, *answers}))}
    places = np.array([classes[label] for label in truths]), np.array([classes[label] for label in answers])
    rows = np.arange(len(pairs))

    def macro_f1(chosen: np.ndarray) -> float:
        table = np.zeros((len(classes), len(classes)))
        np.add.at(table, (places[0][chosen], places[1][chosen]), 1)
        there = table.sum(1) > 0  # classes of the reference, as scikit-learn's `labels`
        return float((2 * table.diagonal()[there] / np.maximum((table.sum(0) + table.sum(1))[there], 1)).mean())

    interval = _resampled(macro_f1, rows, groups)
    if interval.value in (0.0, 1.0):  # all are wrong, or right
        interval = exact_interval(interval.value, len(rows) if groups is None else len(set(groups)))
    measures = [accuracy, Measured("F1", interval, "%", {"mean of classes": len(set(truths))})]
    scored = Scored(measures, len(pairs), "speakers" if groups else "utterances", _by_speaker(right, ones, groups))
    return scored, _results(accuracy, [name for name, _, _ in pairs], right, ones, groups)


def _resampled(
    measure: Callable[[np.ndarray], float], rows: np.ndarray, groups: Sequence[Hashable] | None, resamples: int = 500
) -> Interval:
    """The interval of a measure that is no ratio of sums: it is computed again on every resample."""
    rng = np.random.default_rng(0)
    units = [np.array([row]) for row in rows] if groups is None else []
    if groups is not None:
        members: dict[Hashable, list[int]] = {}
        for row, group in enumerate(groups):
            members.setdefault(group, []).append(row)
        units = [np.array(some) for some in members.values()]
    found = []
    for _ in range(resamples):
        drawn = rng.integers(0, len(units), len(units))
        found.append(measure(np.concatenate([units[number] for number in drawn])))
    low, high = np.nanquantile(found, [0.025, 0.975])
    return Interval(measure(rows), float(low), float(high))


def _turns(reference: Path, hypothesis: Path, collar: float) -> tuple[Scored, UtteranceResults]:
    files = []
    for path in (reference, hypothesis):
        with reading(path, "an RTTM file"):
            files.append(parse_rttm(read_lines(path, "an RTTM file")))
    truth, answer = files
    if strangers := sorted(set(answer) - set(truth)):
        raise UserError(f"{hypothesis}: recording {strangers[0]} is not in {reference}; score the same recordings")
    if not truth:
        raise UserError(f"{reference}: holds no turns")
    found = [diarization_errors(turns, answer.get(name, []), collar) for name, turns in truth.items()]
    totals = [each.total for each in found]
    errors = [each.missed + each.false_alarm + each.confusion for each in found]
    if not sum(totals):
        raise UserError(f"{reference}: holds no speech outside the collar")
    parts = {
        name: round(100 * sum(getattr(each, name) for each in found) / sum(totals), 2)
        for name in ("missed", "false_alarm", "confusion")
    }
    der = Measured("DER", _interval(errors, totals), "%", {**parts, "of seconds": round(sum(totals), 1)})

    by_pyannote = [pyannote_errors(turns, answer.get(name, []), collar=2 * collar) for name, turns in truth.items()]
    weights, rates = [each.speakers for each in by_pyannote], [each.jaccard for each in by_pyannote]
    jer = Measured("JER", _interval(rates, weights), "%", {"of speakers": int(sum(weights))})
    scored = Scored([der, jer], len(truth), "recordings")
    return scored, _results(der, list(truth), errors, totals, rows="recordings")


def _trials(reference: Path, hypothesis: Path, prior: float) -> tuple[Scored, UtteranceResults]:
    wanted, scores = _wanted_trials(reference), _scores_of_trials(hypothesis)
    absent = [pair for pair in wanted if pair not in scores and pair[::-1] not in scores]
    if absent:
        raise UserError(
            f"{hypothesis}: {len(absent)} of {len(wanted)} trials have no score, such as {' '.join(absent[0])}"
        )
    values = np.array([scores[pair] if pair in scores else scores[pair[::-1]] for pair in wanted])
    same = np.array(list(wanted.values()))
    try:
        equal_error_rate(values, same)
        minimum_detection_cost(values, same, prior)
    except ValueError as error:
        raise UserError(f"{hypothesis}: {error}") from error

    def at(measure: Callable[..., tuple[float, float]], *settings: float) -> Callable[[np.ndarray], float]:
        def value(rows: np.ndarray) -> float:
            return measure(values[rows], same[rows], *settings)[0] if 0 < same[rows].sum() < len(rows) else np.nan

        return value

    rows = np.arange(len(values))
    eer = _resampled(at(equal_error_rate), rows, None)
    if eer.value in (0.0, 1.0):
        eer = exact_interval(eer.value, min(int(same.sum()), int((1 - same).sum())))
    cost = _resampled(at(minimum_detection_cost, prior), rows, None)
    counts = {"of trials": len(values), "of one speaker": int(same.sum())}
    measures = [Measured("EER", eer, "%", counts), Measured(f"minDCF(P={prior:g})", cost, "")]
    places: dict[str, int] = {}
    sides = np.array([[places.setdefault(name, len(places)) for name in pair] for pair in wanted])
    trials = ScoredTrials(sides[:, 0], sides[:, 1], same.astype(bool), values)
    return Scored(measures, len(values), "trials"), _results(measures[0], list(places), [], [], trials=trials)


def _wanted_trials(path: Path) -> dict[tuple[str, str], int]:
    """The trials of a list, and whether both are of one speaker; those that it repeats are said."""
    found: dict[tuple[str, str], int] = {}
    repeated = 0
    for number, line in enumerate(read_lines(path, "a list of trials"), start=1):
        fields = line.split()
        if fields and (len(fields) != 3 or fields[0] not in ("0", "1")):
            raise UserError(f"{path}, line {number}: not a trial, which is `0 or 1, name, name`")
        if fields:
            label, *(one, other) = fields
            repeated += (one, other) in found
            if found.get((one, other), found.get((other, one), int(label))) != int(label):
                raise UserError(
                    f"{path}, line {number}: {one} {other} has another label in a line above; remove one of them"
                )
            found[one, other] = int(label)
    _note_repeated(path, repeated)
    return found


def _scores_of_trials(path: Path) -> dict[tuple[str, str], float]:
    """The score of each pair of a file; pairs that it repeats are said."""
    found: dict[tuple[str, str], float] = {}
    repeated = 0
    for number, line in enumerate(read_lines(path, "scores of trials"), start=1):
        fields = line.split()
        if fields:
            with reading(f"{path}, line {number}", "`name name score`"):
                one, other, number_text = fields
                value = float(number_text)
            repeated += (one, other) in found
            if (one, other) in found and found[one, other] != value:
                raise UserError(
                    f"{path}, line {number}: {one} {other} has another score in a line above; remove one of them"
                )
            found[one, other] = value
    _note_repeated(path, repeated)
    return found


def _note_repeated(path: Path, repeated: int) -> None:
    if repeated:
        print(f"note: {path}: {repeated} lines repeat a trial of a line above and do not count", file=sys.stderr)


def _single_blanks(text: str) -> str:
    # Each blank would be a letter of the letter error rate.
    return " ".join(text.split())


def _paired_lines(reference: Path, hypothesis: Path, names: bool | None, missing: str) -> list[tuple[str, str, str]]:
    """Name, truth and answer of each utterance, in the order of the reference."""
    truth, answer = (read_lines(path, "a text file") for path in (reference, hypothesis))
    if names is None:
        names = _begin_with_names(reference, truth, hypothesis, answer)
    if not names:
        if len(truth) != len(answer):
            raise UserError(
                f"{hypothesis}: {len(answer)} lines, {reference} has {len(truth)}; give one line for each utterance, or begin "
                "lines with the name of the utterance and give --names"
            )
        return [(str(row), *both) for row, both in enumerate(zip(truth, answer, strict=True))]
    told, heard = _named(reference, truth), _named(hypothesis, answer)
    if strangers := [name for name in heard if name not in told]:
        raise UserError(f"{hypothesis}: {strangers[0]} is not in {reference}; score the same utterances")
    absent = [name for name in told if name not in heard]
    if absent and missing == "stop":
        raise UserError(
            f"{hypothesis}: lacks {len(absent)} of {len(told)} utterances, such as {absent[0]}; --missing empty counts them as "
            "empty answers"
        )
    return [(name, text, heard.get(name, "")) for name, text in told.items()]


def _begin_with_names(reference: Path, truth: Sequence[str], hypothesis: Path, answer: Sequence[str]) -> bool:
    """Whether lines begin with the name of the utterance, which is said.

    Raises:
        UserError: most lines do, and some names are in one file alone.
    """
    if not any(len(line.split()) > 1 for line in truth):
        return False  # nothing would follow the names
    first, second = ([line.split(maxsplit=1)[0] for line in lines if line.split()] for lines in (truth, answer))
    different = len(first) == len(set(first)) and len(second) == len(set(second))
    common, alone = set(first) & set(second), set(first) ^ set(second)
    names = different and not alone
    if different and alone and len(common) > len(alone):
        parts = ((hypothesis, first), (reference, second))
        lacks = {path: [word for word in words if word in alone] for path, words in parts}
        said = " and ".join(f"{path} lacks {_some(words)}" for path, words in lacks.items() if words)
        raise UserError(
            f"{said}, and all other lines of both files begin with the same words, which seem to be names of utterances; give "
            "--names if they are, or --no-names if they are not"
        )
    taken = "the first word of each line is taken as the name of its utterance; give --no-names if it is not"
    if not names:
        taken = "lines are taken as texts without names, in the order of the reference; give --names if they begin with names"
    print(f"note: {hypothesis}: {taken}", file=sys.stderr)
    return names


def _some(words: Sequence[str], most: int = 3) -> str:
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(words[:most]) + more


def _named(path: Path, lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.split():
            continue
        name, *rest = line.split(maxsplit=1)
        if name in found:
            raise UserError(f"{path}, line {number}: {name} is there twice")
        found[name] = rest[0].strip() if rest else ""
    return found


def _speakers(path: Path, names: Sequence[str]) -> list[str]:
    speaker_of = _named(path, read_lines(path, "Kaldi's utt2spk"))
    if absent := [name for name in names if name not in speaker_of]:
        raise UserError(f"{path}: no speaker for {absent[0]}; it needs a line `utterance speaker` for each")
    return [speaker_of[name] for name in names]
