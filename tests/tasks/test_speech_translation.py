"""ST: characters as targets, loss and search against loops, figures of the card, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from quiet import quiet_trainer
from torch import Tensor, nn

from wavlm_lightning.callbacks.results import WriteResultCard
from wavlm_lightning.callbacks.transcripts import ShowTranscripts
from wavlm_lightning.cli.predict import as_text
from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.data.corpus import Corpus, CorpusWriter, Utterance
from wavlm_lightning.data.mini.full_stack.translation import UNSEEN
from wavlm_lightning.metrics.text import translation as measures
from wavlm_lightning.metrics.text.translation import score_translations
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.utterances import described, read_results
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import SpeechTranslation, TaskData
from wavlm_lightning.tasks.components.decoder.network import NetworkSize
from wavlm_lightning.tasks.components.decoder.search import Decoding
from wavlm_lightning.tasks.semantics.speech_translation import END, SPECIAL, UNKNOWN, plain
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.workflows.fit.closing import error_lines
from wavlm_lightning.workflows.score import files_of_run

LABELS = {"translation_languages": ["de"], "characters": list(" enDößa.")}
SMALL = NetworkSize(width=16, heads=2, inner=16, encoder_layers=1, decoder_layers=1, dropout=0.0, channels=16)


def head(**settings) -> SpeechTranslation:
    task = SpeechTranslation(Fbank(cmvn=False), network=SMALL, **settings)
    task.build(LABELS)
    return task.eval()


def test_targets_keep_every_character_and_the_network_gets_its_own():
    task = head()
    texts = ["Döner  aß\nen.", "Ende", "a\N{COMBINING DIAERESIS}"]
    targets = Targets.pad([task.read_target({"translation": text}) for text in texts])
    assert task.references(targets) == ["Döner aß en.", "Ende", "ä"]  # spaces are single, letters composed
    numbers = task._numbered(targets).values.tolist()
    place = {character: len(SPECIAL) + number for number, character in enumerate(LABELS["characters"])}
    assert numbers[0] == [place.get(each, UNKNOWN) for each in "Döner aß en."]
    assert numbers[0].count(UNKNOWN) == 1 and numbers[1][0] == UNKNOWN and numbers[2][0] == UNKNOWN
    assert task.spell([place[each] for each in " Dö  n "]) == "Dö n"
    for meta in ({}, {"translation": None}, {"translation": "  "}, {"translation": 3}):
        with pytest.raises(UserError, match="no `translation`"):
            task.read_target(meta)
    assert plain(None) == "" == plain(7)


def test_the_loss_is_the_smoothed_sum_over_characters_and_the_end():
    task, features, lengths = head(smoothing=0.2), torch.randn(2, 40, 240), torch.tensor([40, 23])
    texts = ["Ende", "Dö n."]
    targets = Targets.pad([task.read_target({"translation": text}) for text in texts])
    with torch.no_grad():
        memory = task.outputs(features, lengths)
        found = float(task.loss(memory, lengths, targets))
        total = 0.0
        for row in range(2):  # alone, label by label
            alone = task.outputs(features[row : row + 1, : lengths[row]], lengths[row : row + 1])
            numbers = task._numbered(targets).values[row, : targets.lengths[row]].tolist()
            heard = [END, *numbers]
            for place, wanted in enumerate([*numbers, END]):
                logits = task.head.decoder(
                    torch.tensor([heard[: place + 1]]), alone, task.head.frames(lengths[row : row + 1])
                )
                log = logits[0, -1].log_softmax(-1)
                total -= 0.8 * float(log[wanted]) + 0.2 * float(log.mean())
    assert found == pytest.approx(total / 2, rel=1e-5)


class Speller(nn.Module):
    """In place of the network: answers with the given texts, and the last of them was cut."""

    def __init__(self, task: SpeechTranslation, texts: list[str]) -> None:
        super().__init__()
        self.rows = [[LABELS["characters"].index(each) + len(SPECIAL) for each in text] for text in texts]
        self.beams: list[int] = []

    def frames(self, lengths: Tensor) -> Tensor:
        return lengths

    def search(self, outputs, frames, decoding, limits, nbest=1, further=()):
        from wavlm_lightning.tasks.components.decoder.search import Found

        self.beams.append(decoding.beam)
        return [[Found(tuple(row), -1.0, place == len(self.rows) - 1)] for place, row in enumerate(self.rows)]


def test_answers_of_validation_and_test():
    task = head(validation_beam=2, decoding=Decoding(beam=7))
    task.head = Speller(task, ["Dö.", "", "en"])
    targets = Targets.pad([task.read_target({"translation": text}) for text in ("Dö.", "a", "en")])
    batch = TaskBatch(("a", "b", "c"), torch.zeros(3), targets)
    memory, lengths = torch.zeros(3, 4, 16), torch.tensor([4, 4, 4])
    for metric in (task.valid_metric, task.test_metric):
        task.update_metric(metric, memory, lengths, batch)
    assert task.head.beams == [2, 7]
    wanted = score_translations(["Dö.", "", "en"], ["Dö.", "a", "en"])
    for metric in (task.valid_metric, task.test_metric):
        assert float(metric.compute()["exact_match"]) == pytest.approx(2 / 3)
        assert float(metric.compute()["chrf"]) == pytest.approx(wanted.chrf)
    assert [tuple(row) for row in task.transcripts] == [("a", "Dö.", "Dö."), ("b", "a", ""), ("c", "en", "en")]
    assert task._answers["b"] == ("a", "", False) and task._answers["c"][2]
    rows = task.readable(memory, lengths)
    assert rows == [{"translation": "Dö."}, {"translation": ""}, {"translation": "en", "cut": True}]
    task.nbest = 2
    several = [{"file": "a.wav", **row} for row in task.readable(memory, lengths)]
    assert [row["translation"] for row in several] == [row["nbest"][0]["translation"] for row in several]
    assert [row.get("cut", False) for row in several] == [False, False, True]
    assert as_text(several[0]) == "a.wav: Dö.\n      -1.000  Dö."
    with pytest.raises(ValueError, match="not a mean over utterances"):
        task.utterance_scores(memory, lengths, batch)


def test_an_answer_ends_with_the_recording():
    task = head(characters_per_second=20.0, decoding=Decoding(beam=1))
    with torch.no_grad():
        task.head.decoder.classifier.bias[END] = -1e9  # never ends by itself
        lengths = torch.tensor([100, 50])  # at 100 frames a second
        memory = task.outputs(torch.randn(2, 100, 240), lengths)
        rows = task.readable(memory, lengths)
        found = task.answers_of(memory, lengths)
    assert [len(best.labels) for best, *_ in found] == [30, 20]
    assert all(row["cut"] for row in rows)


def written(folder: Path, translations: list[str], languages: list[str], train: str = "train") -> str:
    writer = CorpusWriter(folder, "t", "CC0", {})
    for split in (train, "valid", "test"):
        rows = [
            Utterance(f"{split}{i}", torch.rand(16_000).numpy() * 0.1, {"translation": text})
            for i, text in enumerate(translations)
        ]
        writer.write_split(split, rows)
    writer.finish({"translation_languages": languages})
    return str(folder)


def test_what_cannot_be_translated_is_one_sentence(tmp_path, monkeypatch):
    fbank = Fbank(cmvn=False)
    for settings, said in (
        ({"decoding": Decoding(ctc_weight=0.3)}, "has no CTC"),
        ({"validation_beam": 0}, "validation_beam: 0"),
        ({"characters_per_second": 0}, "characters_per_second: 0"),
    ):
        with pytest.raises(UserError, match=said):
            SpeechTranslation(fbank, **settings)
    several = Corpus.open(written(tmp_path / "two", ["ja", "nein"], ["de", "nl"]))
    with pytest.raises(UserError, match="into de, nl, and a head writes one language"):
        head().read_labels(several)
    plain_corpus = Corpus.open(written(tmp_path / "one", ["jaa", "a"], ["de"]))
    assert head().read_labels(plain_corpus) == {"translation_languages": ["de"], "characters": ["a", "j"]}
    assert head(rare_characters=1).read_labels(plain_corpus)["characters"] == ["a"]
    with pytest.raises(UserError, match="rare_characters 9 leaves no character"):
        head(rare_characters=9).read_labels(plain_corpus)
    untranslated = written(tmp_path / "none", ["", ""], ["de"])
    with pytest.raises(UserError, match=r"split train of .* has no translations"):
        head().read_labels(Corpus.open(untranslated))
    task = SpeechTranslation(fbank, network=SMALL, tokenizer="13z")
    with pytest.raises(UserError, match="no tokenizer '13z'"):
        quiet_trainer().test(task, TaskData(str(tmp_path / "one")), verbose=False)
    monkeypatch.setattr(measures, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="ST: BLEU and chrF come from the package sacrebleu"):
        quiet_trainer().test(SpeechTranslation(fbank, network=SMALL), TaskData(str(tmp_path / "one")), verbose=False)


def test_characters_of_a_training_split_with_another_name(tmp_path):
    corpus = written(tmp_path, ["ja", "a"], ["de"], train="train-100")
    task = SpeechTranslation(Fbank(cmvn=False), network=SMALL, validation_beam=1)
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(task, TaskData(corpus, train_split="train-100"))
    assert task.labels["characters"] == ["a", "j"]


def on_mini(**settings) -> SpeechTranslation:
    size = NetworkSize(width=32, heads=2, inner=64, encoder_layers=1, decoder_layers=1, dropout=0.0, channels=32)
    return SpeechTranslation(Fbank(), 1e-2, size, smoothing=0.0, validation_beam=1, **settings)


def test_the_card_of_a_test(tiny, tmp_path):
    tester = quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test")])
    head = on_mini(decoding=Decoding(beam=2), characters_per_second=5.0)
    tester.test(head, TaskData(str(tiny / "translation")), verbose=False)
    card = ResultCard.read(tmp_path)
    references = (tmp_path / "transcripts" / "reference.txt").read_text().splitlines()
    answers = (tmp_path / "transcripts" / "bleu.txt").read_text().splitlines()
    pairs = [[line.partition(" ")[2] for line in lines] for lines in (answers, references)]
    wanted = score_translations(*pairs)
    assert card.value == pytest.approx(100 * wanted.bleu, abs=1e-4)
    assert card.metrics["chrf"]["value"] == pytest.approx(100 * wanted.chrf, abs=1e-4)
    assert card.metrics["bleu"].items() >= {"unit": "", "better": "higher", "scale": 100.0}.items()
    results = read_results(tmp_path)
    assert results is not None and 100 * results.value == pytest.approx(100 * wanted.bleu, abs=1e-9)
    assert card.interval == described(results) and set(card.intervals) == {"exact_match"}
    assert card.details["signatures"] == wanted.signatures
    known = set(
        "".join(plain(meta["translation"]) for meta in Corpus.open(tiny / "translation").split("train").metas())
    )
    unknown = sum(not set(reference) <= known for reference in pairs[1])
    counts = {"empty": pairs[0].count(""), "cut": sum(map(bool, pairs[0])), "unknown_characters": unknown}
    assert card.details["answers"] == {"all": 6, **counts}
    apart = card.details["conditions"]
    assert {value: part["utterances"] for value, part in apart.items()} == dict.fromkeys(UNSEEN, 2)
    lines = error_lines(card)
    assert lines[0] == f"  BLEU by sacrebleu: {wanted.signatures['bleu']}" and "chrF2 by sacrebleu" in lines[1]
    assert f"  {counts['cut']} of 6 answers were cut at the limit of their length" in lines
    assert lines[-1].startswith("  new_pattern: BLEU ") and lines[-1].endswith(" of 2 utterances")
    with pytest.raises(UserError, match="has translations, of which errors of words say nothing"):
        files_of_run(tmp_path)
    values = [rows[:2] for rows in ([pair[i::3] for pair in pairs] for i in range(3))]
    for name, rows in zip(UNSEEN, values, strict=True):
        assert apart[name]["chrf"] == pytest.approx(score_translations(*rows).chrf, abs=1e-6)


@pytest.mark.slow
def test_a_training_set_by_heart(tiny, tmp_path, capsys):
    """Trained and tested on the same sentences, the head translates each of them; the screen shows some on the way."""
    data = {"batch_size": 8, "valid_split": "train", "test_split": "train"}
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", save_last=True)
    trainer = quiet_trainer(
        max_steps=150,
        gradient_clip_val=10.0,
        check_val_every_n_epoch=None,
        val_check_interval=150,
        callbacks=[checkpoint, ShowTranscripts()],
    )
    trainer.fit(on_mini(), TaskData(str(tiny / "translation"), **data))
    said = "".join(capsys.readouterr())
    assert "  reference  " in said and "  answer     " in said and "BLEU 100.00" in said
    head = on_mini(decoding=Decoding(beam=3, length_power=1.0))
    tester = quiet_trainer(callbacks=[WriteResultCard(tmp_path, "wavlm test")])
    tester.test(head, TaskData(str(tiny / "translation"), **data), verbose=False, ckpt_path=checkpoint.last_model_path)
    card = ResultCard.read(tmp_path)
    assert [card.metrics[name]["value"] for name in ("bleu", "chrf", "exact_match")] == [100.0] * 3
    assert card.details["answers"] == {"all": 8, "empty": 0, "cut": 0, "unknown_characters": 0}
