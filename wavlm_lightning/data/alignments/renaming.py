"""Names of phones made those of a corpus: position suffixes, stress digits, the names of silence.

A mapping file has a line a rule, `OLD NEW`, and comments after `# `. One `*` in OLD is any text, and `*` in NEW the same text: of
Kaldi's positional phones with stress, these lines keep the phone alone::

    sil SIL
    spn SPN
    *_B *
    *_E *
    *_I *
    *_S *
    *0 *
    *1 *
    *2 *
    * *

The rule without `*` that has the name ends; else the first rule with `*` that matches and was not yet used, and again from the
beginning: `AH0_B` becomes `AH0`, then `AH`. With a file, a name that no rule matches is refused, unless the last line is `* *`.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from wavlm_lightning.data.alignments.segments import SILENCE, SPOKEN_NOISE
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.reading import read_lines, shown

SILENCES = ("sil", "SIL", "sp", "SP", "<eps>", "<sil>")
NOISES = ("spn", "SPN", "<unk>")
SUFFIXES = ("", "_B", "_E", "_I", "_S")  # Kaldi gives silence and noise unused forms of all positions


class Renaming:
    """Rules from old to new names, which count what they match.

    Attributes:
        rules: (old, new) in order.
        used: how often each rule without or with `*` was applied.
        unmatched: names that no rule matched, with their number.
    """

    def __init__(self, rules: list[tuple[str, str]], where: str = "the mapping") -> None:
        self.rules, self.where = rules, where
        self.exact = {old: new for old, new in rules if "*" not in old}
        self.patterns = [(old, new, _pattern(old)) for old, new in rules if "*" in old]
        self.used: Counter[str] = Counter()
        self.unmatched: Counter[str] = Counter()

    @classmethod
    def default(cls) -> Renaming:
        """Silences become `SIL`, noise and unknown words `SPN`; all other names stay."""
        rules = [(f"{old}{suffix}", SILENCE) for old in SILENCES for suffix in SUFFIXES]
        rules += [(f"{old}{suffix}", SPOKEN_NOISE) for old in NOISES for suffix in SUFFIXES]
        return cls([*rules, ("*", "*")])

    @classmethod
    def read(cls, path: Path) -> Renaming:
        """Read a mapping file; a UserError names a line of another form, or that contradicts another."""
        rules: dict[str, str] = {}
        for number, line in enumerate(read_lines(path, "a mapping of phones"), start=1):
            if not line.strip() or re.match(r"\s*#(\s|$)", line):  # `#0` is a symbol of Kaldi
                continue
            fields = line.split()
            if len(fields) != 2 or fields[0].count("*") > 1 or fields[1].count("*") > fields[0].count("*"):
                raise UserError(
                    f"{path}, line {number}: {shown(line)} instead of an old and a new name, with at most one `*` in each; "
                    "correct it"
                )
            if fields[0] in rules:
                raise UserError(f"{path}, line {number}: a second rule for {fields[0]!r}; remove one")
            rules[fields[0]] = fields[1]
        if not rules:
            raise UserError(f"{path}: holds no rule; write lines of an old and a new name, or leave --map out")
        return cls(list(rules.items()), str(path))

    def __call__(self, name: str) -> str:
        """The new name; one that nothing matches stays, and is counted."""
        left, matched, found = list(self.patterns), False, name
        while True:
            if found in self.exact:
                self.used[found] += 1
                return self.exact[found]
            for place, (old, new, pattern) in enumerate(left):
                if match := pattern.fullmatch(found):
                    del left[place]
                    self.used[old] += 1
                    found, matched = new.replace("*", match[1]), True
                    break
            else:
                if not matched:
                    self.unmatched[name] += 1
                return found

    def unused(self) -> list[str]:
        """Old names of rules that matched nothing."""
        return [old for old, _ in self.rules if not self.used[old]]


def _pattern(old: str) -> re.Pattern[str]:
    before, _, behind = old.partition("*")
    return re.compile(f"{re.escape(before)}(.*){re.escape(behind)}", re.DOTALL)
