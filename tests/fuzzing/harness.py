"""Throws damaged files at the doors (readers) of the package, and says how each of them answered."""

from __future__ import annotations

import contextlib
import hashlib
import io
import resource
import shutil
import signal
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzzing.mutations import ESCAPE, mutate

LONGEST = 500  # characters of a refusal, as `UserError` cuts it
SECONDS = 10.0  # after which an answer counts as a hang
GROWTH = 1 << 30  # bytes of memory that an input of some kilobytes must not take
FAULTS = ("traceback", "hang", "silent", "outside", "memory", "vague")

Allowed = Callable[[Any, Any, Path], str | None]


def anything(before: Any, after: Any, path: Path) -> str | None:
    """A change of what no check sum or redundancy covers, such as a text of a manifest."""
    return None


def nothing(before: Any, after: Any, path: Path) -> str | None:
    """A check sum covers the whole file, so another value is always a silent acceptance."""
    return "another value, although a check sum or a second copy says otherwise"


@dataclass(frozen=True)
class Door:
    """A reader and the files that it reads.

    Attributes:
        name: of the door.
        files: path in the folder -> form of the file (a key of `mutations.FORMS`).
        read: what it makes of the folder; raises one of `refusals` for a bad file.
        original: name of the set of files in `originals`.
        allowed: why a value that differs from that of the whole files is a fault, or None if it is none.
        weight: share of the inputs; the slower the door, the smaller.
        rehash: rewrites the hashes of the folder after the damage, so that the inner checks are reached.
        refusals: exceptions that are sentences; commands print them alone.
    """

    name: str
    original: str
    files: Mapping[str, str]
    read: Callable[[Path], Any]
    allowed: Allowed = nothing
    weight: float = 1.0
    rehash: Callable[[Path], None] | None = None
    refusals: tuple[type[Exception], ...] = ()


@dataclass(frozen=True)
class Answer:
    """How a door took one input."""

    door: str
    number: int
    seed: int
    file: str
    mutation: str
    kind: str  # same, refused, changed (a legitimate change), or one of FAULTS
    reason: str = ""

    def __str__(self) -> str:
        again = f"python experiments/faults/fuzz.py --door {self.door!r} --seed {self.seed} --only {self.number}"
        return f"{self.kind}: {self.door} ({self.mutation} in {self.file}): {self.reason}\n    again: {again}"


class TooLong(BaseException):
    """Raised by the alarm; no reader may catch it."""


def facts(value: Any) -> Any:
    """A value as plain Python that compares by content: arrays and tensors by type, shape and hash, NaN equal to NaN."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().float().numpy()
    if isinstance(value, np.ndarray):
        return (
            "array",
            str(value.dtype),
            value.shape,
            hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest(),
        )
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: facts(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): facts(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [facts(part) for part in value]
    return repr(value)


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def ring(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No warnings, notes and progress bars."""
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


@dataclass
class Fuzzer:
    """Doors and their whole files.

    Args:
        doors: to try.
        work: folder for the whole files and the damaged copies.
        make: name of a set of files -> function that writes it into a folder.
    """

    doors: Sequence[Door]
    work: Path
    make: Mapping[str, Callable[[Path], None]]
    _whole: dict[str, Path] = field(default_factory=dict)
    _values: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def whole(self, name: str) -> Path:
        """The folder with the undamaged files of that name."""
        if name not in self._whole:
            folder = self.work / "whole" / name
            folder.mkdir(parents=True)
            with quiet():
                self.make[name](folder)
            self._whole[name] = folder
        return self._whole[name]

    def value(self, door: Door) -> tuple[Any, Any]:
        """What the door makes of the undamaged files, and its `facts`; an exception if it refuses them."""
        if door.name not in self._values:
            with self._copy(door, "0") as box, quiet():
                value = door.read(box)
                self._values[door.name] = value, facts(value)
        return self._values[door.name]

    @contextlib.contextmanager
    def _copy(self, door: Door, name: str) -> Iterator[Path]:
        folder = self.work / "tried" / f"{zlib.crc32(door.name.encode()):08x}-{name}"
        box = folder / "a" / "b" / "box"
        shutil.copytree(self.whole(door.original), box)
        try:
            yield box
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def one(self, door: Door, seed: int, number: int, keep: Path | None = None, explain: bool = False) -> Answer:
        """Damage one file and see; the damage follows from door, seed and number alone."""
        rng = np.random.default_rng([seed, zlib.crc32(door.name.encode()), number])
        value, known = self.value(door)
        file = sorted(door.files)[rng.integers(len(door.files))]
        with self._copy(door, f"{seed}-{number}") as box:
            (path,) = box.glob(file)
            mutation, damaged = mutate(path.read_bytes(), door.files[file], rng)
            path.write_bytes(damaged)
            if door.rehash is not None:
                with contextlib.suppress(Exception):
                    door.rehash(box)
            if keep is not None:
                shutil.copytree(box, keep, dirs_exist_ok=True)
            kind, reason = self._answer(door, box, path, value, known, explain)
        return Answer(door.name, number, seed, file, mutation, kind, reason)

    def _answer(
        self, door: Door, box: Path, path: Path, value: Any, known: Any, explain: bool = False
    ) -> tuple[str, str]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin = time.monotonic()
        kind, reason = "same", ""
        try:
            with alarm(SECONDS), quiet():
                found = door.read(box)
            if facts(found) != known:
                wrong = door.allowed(value, found, path)
                kind, reason = ("changed", "") if wrong is None else ("silent", wrong)
        except TooLong:
            kind, reason = "hang", f"no answer after {SECONDS:g} s"
        except door.refusals as error:
            kind, reason = _refused(str(error), path, box)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # torch's CheckpointException derives from it
            kind, reason = "traceback", _where(error)
            if explain:
                traceback.print_exc()
        if time.monotonic() - begin > SECONDS:
            kind, reason = "hang", f"{time.monotonic() - begin:.0f} s; {reason}"
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024
        if grown > GROWTH:
            kind, reason = "memory", f"{grown / 2**30:.1f} GiB more; {reason}"
        if outside := _outside(box):
            kind, reason = "outside", f"wrote {outside}"
        return kind, reason

    def shares(self, inputs: int) -> dict[str, int]:
        """Inputs of each door, by weight; at least one."""
        total = sum(door.weight for door in self.doors)
        return {door.name: max(1, round(inputs * door.weight / total)) for door in self.doors}

    def run(self, inputs: int, seed: int, tick: Callable[[Answer], object] = lambda _: None) -> list[Answer]:
        answers = []
        for door in self.doors:
            for number in range(self.shares(inputs)[door.name]):
                answer = self.one(door, seed, number)
                tick(answer)
                answers.append(answer)
        return answers


def _refused(said: str, path: Path, box: Path) -> tuple[str, str]:
    if "\n" in said or len(said) > LONGEST:
        return "vague", f"{len(said)} characters, {said.count(chr(10)) + 1} lines: {said[:160]!r}"
    # An option, or the name of the damaged file, of one beside it that contradicts it, or of the folder that holds both.
    names = {str(box), path.name, path.stem, path.name.partition(".")[0], box.name}
    return (
        ("refused", said)
        if said.startswith("--") or any(name in said for name in names)
        else ("vague", f"names no file: {said!r}")
    )


def _where(error: BaseException) -> str:
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "wavlm_lightning" in frame.filename]
    last = frames[-1] if frames else traceback.extract_tb(error.__traceback__)[-1]
    place = "/".join(Path(last.filename).parts[-3:])
    return f"{type(error).__name__} in {place}:{last.lineno} {last.name}: {str(error).splitlines()[:1]}"[:300]


def _outside(box: Path) -> str:
    """Files that were written outside the folder that was read."""
    top = box.parents[2]
    found = [
        path for path in top.rglob("*") if not path.is_relative_to(box) and path not in (box.parent, box.parents[1])
    ]
    found += [*Path("/tmp").glob(f"{ESCAPE}*"), *Path().glob(f"{ESCAPE}*")]
    for path in found:
        if path.is_file():
            path.unlink()
    return ", ".join(map(str, found))


def counts(answers: Iterable[Answer]) -> dict[str, Counter[str]]:
    """Answers of each kind, by door."""
    found: dict[str, Counter[str]] = {}
    for answer in answers:
        found.setdefault(answer.door, Counter())[answer.kind] += 1
    return found


def table(answers: Sequence[Answer]) -> str:
    """A Markdown table: door, inputs, and how many of each kind."""
    kinds = ("same", "refused", "changed", *FAULTS)
    lines = [f"| door | inputs | {' | '.join(kinds)} |", f"|---|{'---:|' * (len(kinds) + 1)}"]
    by_door = counts(answers)
    total: Counter[str] = Counter()
    for door, found in by_door.items():
        total.update(found)
        lines.append(f"| {door} | {found.total()} | {' | '.join(str(found[kind]) for kind in kinds)} |")
    lines.append(
        f"| **all {len(by_door)}** | **{total.total()}** | {' | '.join(f'**{total[kind]}**' for kind in kinds)} |"
    )
    return "\n".join(lines)
