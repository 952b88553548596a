"""Weights & Biases without questions: offline unless logged in, one run a folder, resumed under its id."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from wavlm_lightning.callbacks.wandb_login import logged_in
from wavlm_lightning.callbacks.wandb_media import WandbMedia

KEPT = "wandb.json"
"""Holds the id of the W&B run, in the run folder."""


class Wandb(WandbLogger):
    """Logs metrics, the whole configuration, samples one can hear and see, layer weights and artefacts.

    What it writes lies in `wandb/` of the run folder; `wandb sync` sends what was written offline. A run that is gone
    on with keeps its id. `wandb` is imported when the run starts.

    Args:
        project: on W&B; `wavlm`, or what WANDB_PROJECT says.
        name: of the run; the name of its folder, or what WANDB_NAME says.
        group: of runs that belong together; the folder above, or what WANDB_RUN_GROUP says.
        tags: beside the task's name.
        notes: a remark.
        entity: user or team.
        offline: null goes by WANDB_MODE, else by whether this machine is logged in.
        codebook: folder of the codebook that made a pre-training's labels, whose files become an artefact.
        upload_checkpoint: send the best checkpoint; false sends where it lies and its hash.
        samples: utterances that are logged as audio, spectrogram and predictions; 0 for none.

    Example:
        >>> # wavlm fit -c configs/superb/mini/ks.yaml --trainer.logger Wandb
    """

    _experiment: Any

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        notes: str | None = None,
        entity: str | None = None,
        offline: bool | None = None,
        codebook: str | None = None,
        upload_checkpoint: bool = False,
        samples: int = 4,
    ) -> None:
        super().__init__(name=name, project=project or os.environ.get("WANDB_PROJECT", "wavlm"))
        self.offline, self.codebook, self.upload_checkpoint, self.samples = (
            offline,
            codebook,
            upload_checkpoint,
            samples,
        )
        asked = {"group": group, "tags": tags, "notes": notes, "entity": entity}
        self._wandb_init.update({key: value for key, value in asked.items() if value is not None})

    def settle(self, root: Path, fresh: bool) -> Callback:
        """Belong to a run folder.

        Args:
            root: the folder.
            fresh: begin a new W&B run, even if the folder knows of one.

        Returns:
            What logs samples and artefacts.
        """
        root.mkdir(parents=True, exist_ok=True)
        given = self._wandb_init
        named = root.resolve()
        given["name"] = given["name"] or os.environ.get("WANDB_NAME") or named.name
        given.setdefault("group", os.environ.get("WANDB_RUN_GROUP") or named.parent.name)
        given["dir"], given["id"] = str(root), run_id(root, fresh)
        given.pop("anonymous", None)  # Lightning passes what wandb calls an error by now
        if self.offline is not None:
            given["mode"] = "offline" if self.offline else "online"
        elif "WANDB_MODE" not in os.environ and not logged_in():
            given["mode"] = "offline"
        self._save_dir, self._name, self._id = given["dir"], given["name"], given["id"]
        return WandbMedia(self, root, self.samples, self.codebook, self.upload_checkpoint)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """End the W&B run, so that the next one of this process is another."""
        super().finalize(status)
        run: Any = self._experiment
        if run is not None:
            run.finish(exit_code=0 if status == "success" else 1)
            self._experiment = None


def settle_loggers(loggers: Any, root: Path, fresh: bool) -> list[Callback]:
    """Let those of a trainer's loggers that are ours belong to its run folder; what they bring along."""
    named = loggers if isinstance(loggers, list) else [loggers]
    return [logger.settle(root, fresh) for logger in named if isinstance(logger, Wandb)]


def run_id(root: Path, fresh: bool) -> str:
    """The id of a folder's W&B run: the agent's, the one that is kept there, or a new one.

    Args:
        root: the folder.
        fresh: do not take the one that is kept.
    """
    path = root / KEPT
    if asked := os.environ.get("WANDB_RUN_ID"):
        found = asked
    elif path.is_file() and not fresh:
        found = json.loads(path.read_text())["id"]
    else:
        found = secrets.token_hex(4)
    if rank_zero_only.rank == 0:
        path.write_text(json.dumps({"id": found}))
    return found
