"""The corpus recipes of `wavlm prepare`, which turn official archives into a `Corpus`: one module per corpus.

A recipe module has `HELP` (one line), `add_arguments(parser)` for its own options, and `plan(root, arguments)`, which lists
recordings and labels without decoding a sample. It imports nothing heavy at its top, so that `wavlm prepare --help` is
instant. `wavlm new` makes a recipe of your own, which needs no entry here.

Read `fluent_speech_commands` first (the shortest), then `librispeech`. `lexicon` (phones of a text) and `trials` (pairs for
verification) are shared parts. `meetings/`, `mixtures/`, `ratings/`, `languages/` and `noisy/` hold recipes of recorded meetings,
of several speakers at once, of rated speech, of other languages and styles, and of speech in noise. Imports `audio`, `system`
and `data`. Tests: `tests/data/test_corpora_*.py`, on miniature trees with the official layout.
"""

_NAMES = (
    "librispeech librilight_limited librilight speech_commands fluent_speech_commands voxceleb1 iemocap quesst14 snips "
    "libri2mix gigaspeech voxpopuli common_voice noise voxceleb2 musan rirs_noises"
)
RECIPES: dict[str, str] = {name: f"wavlm_lightning.data.corpora.{name}" for name in _NAMES.split()}  # name to module
RECIPES |= {name: f"wavlm_lightning.data.corpora.meetings.{name}" for name in ("ami", "dihard3", "alimeeting")}
RECIPES |= {
    name: f"wavlm_lightning.data.corpora.mixtures.{name}"
    for name in ("libri2mix_target", "libri2mix_separation", "wham")
}
RECIPES |= {name: f"wavlm_lightning.data.corpora.languages.{name}" for name in ("covost2", "sbcsae")}
RECIPES |= {name: f"wavlm_lightning.data.corpora.noisy.{name}" for name in ("voicebank_demand", "chime4")}
RECIPES |= {name: f"wavlm_lightning.data.corpora.ratings.{name}" for name in ("bvcc", "ratings")}
