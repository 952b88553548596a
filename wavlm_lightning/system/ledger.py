"""Remembers which stages of a long job are done, so that the same command continues where it stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError, one_line
from wavlm_lightning.system.files import sweep_leftovers, write_json
from wavlm_lightning.system.reading import read_json, reading


@dataclass(frozen=True)
class Stage:
    """A step of a long job."""

    name: str  # in messages and reports
    run: Callable[[], None]  # may be called again after an interruption
    facts: Callable[[], dict[str, str]] = dict  # what it read and wrote -> hash, of what is there; kept when it is done


class Ledger:
    """A JSON file with the finished stages and the seconds that they took.

    Args:
        path: the file.
        settings: everything that the results depend on, as JSON values; they must equal those in the file.
        what: name of the job for messages: "recipe", "demo".
        newer: settings that a file of an older version lacks; they are added to it.
        used_by: setting -> the beginning of the names of the stages that alone use it: it may change while none of them is done.

    Raises:
        UserError: the file was written with other settings.
    """

    def __init__(
        self,
        path: Path,
        settings: dict[str, Any],
        what: str,
        newer: Sequence[str] = (),
        used_by: Mapping[str, str] | None = None,
    ) -> None:
        self.path = path
        self.body: dict[str, Any] = {"settings": settings, "seconds": {}, "done": []}
        if path.is_file():
            kind, remedy = f"the stages of a {what}", f"remove the folder {path.parent}, or choose another --out"
            self.body = read_json(path, kind, remedy)
            with reading(path, kind, remedy):
                _check(self.body)
            before = {**{name: settings[name] for name in newer if name in settings}, **self.body["settings"]}
            for name, stages in (used_by or {}).items():
                if not any(done.startswith(stages) for done in self.body["done"]):
                    before[name] = settings[name]
            if changed := [name for name in {**before, **settings} if before.get(name) != settings.get(name)]:
                differ = "; ".join(
                    f"{name}: {one_line(str(before.get(name)), 60)}, now {settings.get(name)}" for name in changed
                )
                raise UserError(
                    f"{path.parent} holds a {what} with other settings ({differ}); choose another --out, or remove that folder"
                )
            self.body["settings"] = before

    def compare(self, stages: Sequence[Stage]) -> None:
        """Refuse to go on where what finished stages read or wrote has changed; what is gone is not compared.

        Facts that an older version has not kept are added.

        Raises:
            UserError: naming the stage and what has changed.
        """
        kept = self.body.setdefault("facts", {})
        for stage in stages:
            if not self.is_done(stage.name):
                continue
            before, now = kept.get(stage.name, {}), stage.facts()
            if changed := [name for name in now if before.get(name, now[name]) != now[name]]:
                raise UserError(
                    f"{self.path.parent}: {', '.join(changed)} has changed since the stage {stage.name}, which would now give "
                    "something else; put it back, or choose another --out"
                )
            kept[stage.name] = {**now, **before}

    def is_done(self, name: str) -> bool:
        return name in self.body["done"]

    def run(self, stage: Stage, number: int, of: int) -> None:
        """Run a stage unless it is done. The time of an interrupted attempt counts, too."""
        if self.is_done(stage.name):
            print(f"[{number}/{of}] {stage.name}: done before, in {self.body['seconds'][stage.name]:.0f} s")
            return
        print(f"[{number}/{of}] {stage.name}", flush=True)
        self._write()  # if the first stage is killed, the folder must still be recognised as ours
        begin = time.perf_counter()
        try:
            stage.run()
            self.body.setdefault("facts", {})[stage.name] = stage.facts()
            self.body["done"].append(stage.name)
        finally:
            seconds = self.body["seconds"].get(stage.name, 0.0) + time.perf_counter() - begin
            self.body["seconds"][stage.name] = round(seconds, 1)
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        sweep_leftovers(self.path.parent)
        write_json(self.path, self.body)


def _check(body: dict[str, Any]) -> None:
    """Raise `TypeError` if the content of a ledger's file has not the form that `Ledger` writes."""
    settings, seconds, done = body["settings"], body["seconds"], body["done"]
    if not isinstance(settings, dict) or not isinstance(seconds, dict) or not isinstance(done, list):
        raise TypeError("`settings` and `seconds` must be objects, `done` a list")
    facts = body.get("facts", {})
    if not isinstance(facts, dict) or not all(isinstance(each, dict) for each in facts.values()):
        raise TypeError("`facts` must be an object of objects")
    if not all(isinstance(name, str) and name in seconds for name in done):
        raise TypeError("`done` must name stages that `seconds` has")
    if not all(type(value) in (int, float) and 0 <= value < float("inf") for value in seconds.values()):
        raise TypeError("`seconds` must hold numbers")
