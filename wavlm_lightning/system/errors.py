"""`UserError`: the exception that a user sees as a single sentence."""


class UserError(Exception):
    """An error that the user can correct: the message says what is wrong, where, and what to do.

    The `wavlm` command prints the message alone and exits with status 2; other exceptions keep their traceback.

    Example:
        >>> raise UserError("corpus.json not found in data/x; make the corpus with `wavlm prepare folder DIR --out data/x`")
        Traceback (most recent call last):
        wavlm_lightning.system.errors.UserError: corpus.json not found in data/x; ...
    """
