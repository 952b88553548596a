"""Choice of the device that a command runs on."""

from __future__ import annotations

import torch

from wavlm_lightning.system.errors import UserError


def choose_device(name: str | None = None) -> torch.device:
    """The device that `--device` names, or the GPU if there is one, or the processor.

    Args:
        name: such as `cpu`, `cuda` or `cuda:1`; None chooses.

    Raises:
        UserError: PyTorch cannot use that device on this machine.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)  # a device that PyTorch knows by name may still be missing here
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch was built without CUDA
        reason = str(error).splitlines()[0]
        raise UserError(f"--device {name}: not usable here ({reason}); `wavlm doctor` checks this machine") from error
    return device
