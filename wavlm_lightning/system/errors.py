"""The one exception that reaches a user as a single sentence."""


class UserError(Exception):
    """Something the user can mend: the message says what is wrong, where, and what to do about it.

    The `wavlm` command prints the message alone and exits with status 2; everything else keeps its traceback.

    Example:
        >>> raise UserError("corpus.json not found in data/x; make the corpus with `wavlm prepare folder DIR --out data/x`")
        Traceback (most recent call last):
        wavlm_lightning.system.errors.UserError: corpus.json not found in data/x; ...
    """
