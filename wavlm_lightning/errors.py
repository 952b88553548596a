"""`UserError`, under the name that extensions import; it lives in `wavlm_lightning.system.errors`."""

from wavlm_lightning.system.errors import UserError

__all__ = ["UserError"]
