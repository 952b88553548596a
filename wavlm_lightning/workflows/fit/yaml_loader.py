"""YAML as LightningCLI reads it (1e-3 is a number), with a bound on what aliases grow to.

jsonargparse copies and merges what it has read many times, so it must not get a value that grows. Importing this module puts
the bounded loader in the place of jsonargparse's own, for files and for values on the command line. It also refuses pipes and
devices where a value names a YAML (`model: other.yaml`), which jsonargparse would open and wait for.
"""

from __future__ import annotations

import pathlib
from typing import Any

import yaml
from jsonargparse import Path, get_loader, set_loader

from wavlm_lightning.system.reading import check_file, reason_of
from wavlm_lightning.system.yaml_files import check_aliases

_load = get_loader("yaml")
_read_text = Path.read_text


def load(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        Multiplying: its aliases grow too large.
        yaml.YAMLError: it is not YAML.
    """
    if text == "None":  # jsonargparse passes a nested `null` on as Python's word, and so does an agent of W&B
        return None
    check_aliases(text)
    try:
        return _load(text)
    except yaml.YAMLError:
        raise
    except (
        Exception
    ) as error:  # a date that is none or does not exist, a number of thousands of digits, nested too deeply
        raise yaml.YAMLError(reason_of(error)) from error


def read_text(path: Path) -> str:
    """The text of a file that a value names; `UserError` if it is a pipe or a device."""
    check_file(pathlib.Path(path.absolute), "a configuration in YAML")
    return _read_text(path)


set_loader("yaml", load, (yaml.YAMLError,))
Path.read_text = read_text  # type: ignore[method-assign, assignment]
