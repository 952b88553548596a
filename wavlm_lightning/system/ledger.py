"""Which stages of a long road are done, so that the same command goes on where it stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class Stage:
    """A step of the road.

    Attributes:
        name: what messages and reports call it.
        run: does it; may be called again after an interruption.
    """

    name: str
    run: Callable[[], None]


class Ledger:
    """Which stages are done and how long they took, in a JSON file.

    Args:
        path: the file.
        settings: what the stages depend on, JSON-like; a ledger with others is refused.
        what: the kind of road, for messages.

    Raises:
        UserError: the file is of a road with other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], what: str) -> None:
        self.path = path
        self.body: dict[str, Any] = {"settings": settings, "seconds": {}, "done": []}
        if path.is_file():
            self.body = json.loads(path.read_text())
            before = self.body["settings"]
            changed = [name for name in {**before, **settings} if before.get(name) != settings.get(name)]
            if changed:
                raise UserError(
                    f"{path.parent} holds a {what} with other settings "
                    f"({'; '.join(f'{name}: {before.get(name)}, now {settings.get(name)}' for name in changed)}); "
                    "choose another --out, or remove that folder"
                )

    def is_done(self, name: str) -> bool:
        """Whether the stage of that name is finished."""
        return name in self.body["done"]

    def run(self, stage: Stage, number: int, of: int) -> None:
        """Run a stage unless it is done; time counts even if it is interrupted."""
        if self.is_done(stage.name):
            print(f"[{number}/{of}] {stage.name}: done before, in {self.body['seconds'][stage.name]:.0f} s")
            return
        print(f"[{number}/{of}] {stage.name}", flush=True)
        self._write()  # a stage that is killed must be known as one of ours, too
        begin = time.perf_counter()
        try:
            stage.run()
            self.body["done"].append(stage.name)
        finally:
            seconds = self.body["seconds"].get(stage.name, 0.0) + time.perf_counter() - begin
            self.body["seconds"][stage.name] = round(seconds, 1)
            self._write()

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.body, indent=1))
        temporary.rename(self.path)
