"""Corpora in the formats of other toolkits (`wavlm prepare kaldi`, `lhotse`, `rttm`, ...), one module a format.

A module has `HELP` (one line), `add_arguments(parser)` for all of its arguments, the place of the data among them, and
`prepare(arguments) -> Corpus`, which makes the corpus and raises `UserError`. It imports nothing heavy at its top, so that
`wavlm prepare --help` is instant. `options` has the arguments that formats share, `planning` counts what a corpus lacks by
reason, and writes. `manifest` reads the rows of `wavlm prepare folder --manifest`. A format becomes `Recording`s
(`data/recordings.py`) that `data/writing.py` reads and writes: what is checked in `wavlm prepare folder` is checked here, too.
"""

FORMATS: dict[str, str] = {
    # subcommand of `wavlm prepare`: module
    "webdataset": "wavlm_lightning.data.foreign.webdataset",
    "huggingface": "wavlm_lightning.data.foreign.huggingface",
    "kaldi": "wavlm_lightning.data.foreign.kaldi",
    "lhotse": "wavlm_lightning.data.foreign.lhotse",
    "rttm": "wavlm_lightning.data.foreign.rttm",
}
