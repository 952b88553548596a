"""The recipes of `wavlm prepare`: one module a corpus, imported only when it is asked for.

A recipe module has `HELP` (a line), `add_arguments(parser)` for what it needs beyond the folder, and
`plan(root, arguments)`, which lists recordings and labels without decoding a sample. It imports nothing heavy at its
top, so that `wavlm prepare --help` is instant.
"""

RECIPES: dict[str, str] = {
    name: f"wavlm_lightning.data.corpora.{name}"
    for name in (
        "librispeech",
        "librilight_limited",
        "librilight",
        "speech_commands",
        "fluent_speech_commands",
        "voxceleb1",
        "iemocap",
        "quesst14",
        "snips",
        "libri2mix",
        "gigaspeech",
        "voxpopuli",
        "common_voice",
        "noise",
    )
}
"""Recipe name to module."""
