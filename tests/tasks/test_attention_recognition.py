"""Attention ASR: letters in, a joint loss, words out; with a model of letters; what it cannot do is said."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from quiet import quiet_trainer
from shaped import Shaped

from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder import Layers
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import AttentionRecognition, TaskData
from wavlm_lightning.tasks.components.beam_search import BeamSearch, LanguageModel
from wavlm_lightning.tasks.components.decoder.network import NetworkSize
from wavlm_lightning.tasks.components.decoder.ngram_scores import NgramScores
from wavlm_lightning.tasks.components.decoder.search import Decoding
from wavlm_lightning.tasks.components.ngrams import count_bigrams, count_ngrams
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.decoding import check_decodes
from wavlm_lightning.upstreams import Fbank

SMALL = NetworkSize(
    width=16, heads=2, inner=32, encoder_layers=1, decoder_layers=1, dropout=0.1, convolutions=1, channels=16
)


def official(**arguments) -> AttentionRecognition:
    settings = {"network": SMALL, "decoding": Decoding(3, 0.3), **arguments}
    head = AttentionRecognition(Shaped(2, 6), **settings)
    head.build(head.read_labels(None))
    return head.eval()


def batch_of(head: AttentionRecognition, texts: list[str]) -> TaskBatch:
    targets = Targets.pad([head.read_target({"text": text}) for text in texts])
    return TaskBatch(tuple(map(str, range(len(texts)))), Layers(torch.zeros(1), torch.zeros(1), 50.0), targets)


def layers(*lengths: int) -> Layers:
    made = torch.randn(2, len(lengths), max(lengths), 6, generator=torch.Generator().manual_seed(4))
    return Layers(made, torch.tensor(lengths), 50.0)


def letters_model(tmp_path, order: int = 2) -> LanguageModel:
    texts = ["the|cat|", "the|hat|", "a|cat|"]
    count_ngrams([[*text.upper()] for text in texts], order).write(tmp_path / "letters.arpa")
    return LanguageModel(None, str(tmp_path / "letters.arpa"), weight=1.0)


def test_targets_have_no_end_and_answers_no_special_symbol():
    head = official()
    assert head.read_target({"text": "It's"}).tolist() == [10, 6, 27, 12, 4]
    outputs, lengths = head(layers(40, 25))
    found = head.answers_of(outputs, lengths, 3)
    assert all(label >= 3 for row in found for answer in row for label in answer.labels)
    assert head.limits(lengths).tolist() == [34, 25]  # 30 a second, and 10


def test_the_loss_is_a_weighted_mean_over_utterances():
    head, batch = official(ctc_weight=0.4), batch_of(official(), ["the cat", "a"])
    outputs, lengths = head(layers(40, 25))
    losses = head.head.losses(outputs, head.head.frames(lengths), batch.targets)
    wanted = (0.6 * losses.attention + 0.4 * losses.ctc).mean()
    torch.testing.assert_close(head.loss(outputs, lengths, batch.targets), wanted)
    plain = official(ctc_weight=0.0, decoding=Decoding(3))
    assert plain.head.ctc is None
    plain.loss(*plain(layers(40, 25)), batch.targets).backward()


def test_an_answer_does_not_depend_on_its_batch():
    head, both = official(), layers(40, 25)
    together = head.decode(*head(both))
    alone = [
        head.decode(*head(Layers(both.hidden[:, n : n + 1, :frames], torch.tensor([frames]), 50.0)))[0]
        for n, frames in enumerate((40, 25))
    ]
    assert together == alone and all(together)


@pytest.mark.parametrize("beam", [1, 3])
def test_nbest_is_readable_and_begins_with_the_answer(beam):
    head = official(decoding=Decoding(beam, 0.3))
    head.nbest = 3
    first, second = head.readable(*head(layers(40, 25)))
    for row in (first, second):
        assert row["nbest"][0]["text"] == row["text"] and len({each["text"] for each in row["nbest"]}) == 3
        scores = [each["score"] for each in row["nbest"]]
        assert scores == sorted(scores, reverse=True)


def test_augmentation_is_for_training():
    task = AttentionRecognition(Shaped(1, 200), network=SMALL)
    task.build(task.read_labels(None))
    given = Layers(torch.randn(1, 2, 90, 200), torch.tensor([90, 70]), 50.0)
    task.head.eval(), task.augment.train()
    assert not torch.equal(task(given)[0], task(given)[0])
    task.eval()
    assert torch.equal(task(given)[0], task(given)[0])


def test_few_frames_are_counted_where_ctc_needs_them():
    """Two convolutions leave 10 of 40 frames, too few for 15 letters; the decoder alone can learn them."""
    for weight, impossible in ((0.3, 1), (0.0, 0)):
        size = NetworkSize(16, 2, 32, 1, 1, 0.0, 2, 16)
        head = official(network=size, ctc_weight=weight, decoding=Decoding(2, weight))
        batch = batch_of(head, ["the cat has feet", "a"])
        head._trainer = type("", (), {"current_epoch": 0, "sanity_checking": False})()
        head.targets_seen(batch, torch.tensor([40, 25]), "valid")
        assert head.target_counts["valid"]["impossible"] == impossible and head.target_counts["valid"]["seen"] == 2


def test_ngram_scores_are_those_of_sentences(tmp_path):
    """With begin and end, whatever the order of the hypotheses, against the ARPA file's own reader."""
    kenlm, _ = pytest.importorskip("kenlm"), pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    head, model = official(), letters_model(tmp_path)
    read = kenlm.Model(model.model)
    number = head._numbers
    scores = NgramScores(BeamSearch(model, head.labels, range(head.special)), range(4), head.end, 2, "cpu")
    scores.advance(torch.zeros(2, 2, dtype=torch.long), torch.tensor([[number["T"], number["C"]]] * 2))
    scores.keep(torch.tensor([1]))
    scores.advance(torch.tensor([[1, 0, 1]]), torch.tensor([[number["A"], number["H"], number["Z"]]]))
    candidates = torch.tensor([number["T"], head.end, number["|"]]).expand(1, 3, 3)
    found = scores.scores(candidates)[0]
    for row, text in zip(found, ("C A", "T H", "C Z"), strict=True):
        wanted = [read.score(f"{text} T", eos=False), read.score(text), read.score(f"{text} |", eos=False)]
        assert row.tolist() == pytest.approx(wanted, abs=1e-4)


@torch.no_grad()
def test_a_model_of_letters_joins_the_search(tmp_path):
    """Against all answers of up to two letters, decoder, CTC and language model together."""
    kenlm, _ = pytest.importorskip("kenlm"), pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    model = letters_model(tmp_path)
    head = official(decoding=Decoding(30, 0.3), language_model=model)
    head.limits = lambda lengths: torch.full_like(lengths, 2)
    for number, label in enumerate(head.labels):  # three letters are enough to try them all
        if label not in ("T", "H", "A", "</s>"):
            head.head.decoder.classifier.bias[number] = -1e4
    outputs, lengths = head(layers(40, 25))
    plain = {
        (row, answer.labels): answer.score
        for row, answers in enumerate(head.answers_of(outputs, lengths, 13))
        for answer in answers
    }
    assert len(plain) == 2 * (1 + 3 + 9)
    read = kenlm.Model(model.model)
    for row in range(2):
        wanted = []
        for count in range(3):
            for letters in itertools.product("THA", repeat=count):
                score = plain[row, tuple(head._numbers[letter] for letter in letters)]
                wanted.append((score + read.score(" ".join(letters)), "".join(letters)))
        wanted.sort(reverse=True)
        found = head.search.nbest(outputs, lengths, 13)[row]
        assert [each.text for each in found] == [text for _, text in wanted]
        assert [each.score for each in found] == pytest.approx([score for score, _ in wanted], abs=1e-4)
    assert head.readable(outputs, lengths)[0]["text_lm"] == head.search(outputs, lengths)[0]


def test_models_that_do_not_fit_are_refused(tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    with pytest.raises(UserError, match=r"language_model.silence: 0.5, and an attention decoder labels no frames"):
        official(language_model=replace(letters_model(tmp_path), silence=0.5))
    words = count_bigrams(["the cat"], tmp_path)
    with pytest.raises(UserError, match="a model of words, and an attention decoder spells"):
        official(language_model=words)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"label_priors": 0.3}, "model.label_priors"),
        ({"ctc_weight": 0.0}, "model.ctc_weight 0 trains no CTC"),
        ({"ctc_weight": 1.0}, "model.decoding.ctc_weight: 1"),
        (
            {"ctc_weight": 1.0, "decoding": Decoding(3, 1.0, candidates=30)},
            "model.decoding.candidates: 30 of 32 outputs, chosen by a decoder .* set it to 32",
        ),
        ({"ctc_weight": -0.1}, "model.ctc_weight: -0.1"),
        ({"smoothing": 1.0}, "model.smoothing: 1.0"),
        ({"network": NetworkSize(heads=3)}, "model.network.heads"),
        ({"decoding": Decoding(beam=0)}, "model.decoding.beam"),
    ],
)
def test_settings_without_a_meaning_are_refused(arguments, sentence):
    with pytest.raises(UserError, match=sentence):
        official(**arguments)


def test_what_needs_labels_of_frames_is_refused():
    with pytest.raises(UserError, match="ASR-ATT answers label by label"):
        check_decodes(official(), "wavlm align")
    head = official()
    with pytest.raises(UserError, match="more than 30 s, and an attention decoder"):
        head.heard(Waveforms(torch.zeros(1, 10), torch.tensor([10])), 30.0)


def ends_of(head: AttentionRecognition) -> dict[str, int]:
    """Empty answers and those of eight labels, found by a search of each test utterance alone."""
    found = []
    for _, waveform, _ in head.data.corpus.split("test").utterances():
        alone = Waveforms.pad([waveform])
        with torch.no_grad():
            found.append(head.answers_of(*head.eval()(alone))[0][0].labels)
    return {"empty": sum(not head.spell(list(each)) for each in found), "cut": sum(len(each) == 8 for each in found)}


def test_training_test_and_a_checkpoint(tiny, tmp_path):
    pytest.importorskip("flashlight.lib.text.decoder.kenlm")
    corpus = Corpus.open(tiny / "pr")
    texts = [spoken_text(meta["text"]) for meta in corpus.split("train").metas()]
    count_ngrams([[*(text.replace(" ", "|") + "|")] for text in texts], 3).write(tmp_path / "letters.arpa")
    model = LanguageModel(None, str(tmp_path / "letters.arpa"), weight=0.3)
    settings = {"network": SMALL, "decoding": Decoding(2, 0.3), "alphabet": "corpus"}
    head = AttentionRecognition(Fbank(), learning_rate=1e-2, language_model=model, **settings)
    head.limits = lambda lengths: torch.full_like(lengths, 8)  # an untrained head does not end
    data = TaskData(str(tiny / "pr"), batch_size=8)
    trainer = quiet_trainer(max_steps=3, limit_val_batches=1)
    trainer.fit(head, data)
    assert {"valid/wer", "valid/cer"} <= set(trainer.callback_metrics) and head.transcripts
    trainer.save_checkpoint(tmp_path / "head.ckpt")
    before = trainer.test(head, data, verbose=False)[0]
    assert set(before) == {"test/loss", "test/wer", "test/cer", "test/wer_lm"}
    assert head.details["answers"]["cut"] > 0
    assert head.details["answers"] == {"all": len(head.test_transcripts.keys), **ends_of(head)}
    assert head.utterance_results is not None and head.scored.missing == ""
    assert head.test_transcripts is not None and set(head.test_transcripts.answers) == {"wer", "wer_lm"}
    fresh = AttentionRecognition(Fbank(), language_model=model, **settings)
    fresh.limits = head.limits
    assert trainer.test(fresh, data, ckpt_path=tmp_path / "head.ckpt", weights_only=True, verbose=False)[0] == before
