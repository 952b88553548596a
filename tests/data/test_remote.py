"""Remote corpora: from a server that is slow, drops lines, fails and lies, everything arrives or there is a clear error."""

import json

import numpy as np
import pytest
from unreliable import HASTY, fetched, same, shards

from wavlm_lightning.data.alignments import AlignmentSet, AlignmentWriter, Segment
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.remote import cache_space
from wavlm_lightning.data.remote.mirror import is_remote, materialise, mirror
from wavlm_lightning.data.remote.transport import NotThere
from wavlm_lightning.system.errors import UserError


def test_mirror_brings_what_is_small(server, origin, cache):
    folder = mirror(server.url + "c/?signature=secret", HASTY)
    assert is_remote(folder) and not is_remote(origin / "c") and folder.parent == cache
    assert same(folder, origin, "corpus.json") and same(folder, origin, "trials-train.csv")
    assert Corpus.open(folder).trials("train_hard") == [(1, "u00", "u02")], (
        "a further list is named in corpus.json alone"
    )
    assert not list(folder.glob("*.tar"))
    assert mirror(server.url + "c/corpus.json", HASTY) == folder
    assert (folder / "remote.json").stat().st_mode & 0o077 == 0
    with pytest.raises(UserError, match=r"/nothing/.*: no corpus\.json"):
        mirror(server.url + "nothing/", HASTY)


@pytest.mark.parametrize(
    ("moods", "ranges"),
    [
        ([], True),
        ([500, 503, 429], True),
        (["drop", "drop", 500], True),
        (["drop", "drop"], False),
        (["hang", "slow"], True),
        (["promise"], True),
        (["stingy", "stingy"], True),
        (["flip"], True),
        (["drop", "flip", "drop"], True),
    ],
)
def test_everything_arrives_whole(server, origin, moods, ranges):
    folder = mirror(server.url + "c/", HASTY)
    server.ranges = ranges
    row = shards(origin)[0]
    index = row["name"].replace(".tar", ".index.json")
    for name in (row["name"], index):
        server.moods[name] = [mood for mood in moods if mood != "flip" or name == row["name"]]
        materialise(folder / name, row, HASTY)
        assert same(folder, origin, name)
    if moods[:2] == ["drop", "drop"]:
        firsts = [first for first, status in fetched(server, row["name"]) if status in (200, 206)]
        assert (firsts == sorted(set(firsts))) == ranges, "it goes on where the line dropped"
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize(
    ("mood", "message"),
    [
        (500, "gave up after 4 attempts in a row.*500"),
        ("hang", "gave up after 4 attempts"),
        ("flip", r"train-000000\.tar: not the file that corpus\.json describes"),
        (404, "no such file on the server, or not for us .HTTP status 404"),
        (401, "refused .HTTP status 401"),
    ],
)
def test_what_does_not_get_better_is_an_error_and_leaves_nothing_wrong(server, origin, mood, message):
    folder = mirror(server.url + "c/", HASTY)
    row = shards(origin)[0]
    server.always[row["name"]] = mood
    with pytest.raises(UserError, match=message) as caught:
        materialise(folder / row["name"], row, HASTY)
    assert "\n" not in str(caught.value)
    assert not (folder / row["name"]).exists()
    if mood in (401, 404):
        assert len(fetched(server, row["name"])) == 1, "a refusal is not asked for again"
        assert isinstance(caught.value, NotThere) == (mood == 404)
    del server.always[row["name"]]
    materialise(folder / row["name"], row, HASTY)
    assert same(folder, origin, row["name"])


def test_a_later_run_continues_what_has_arrived(server, origin):
    folder = mirror(server.url + "c/", HASTY)
    row = shards(origin)[1]
    server.moods[row["name"]] = ["drop", 500, 500, 500, 500, 500]
    with pytest.raises(UserError, match="continues where it stopped"):
        materialise(folder / row["name"], row, HASTY)
    server.moods.clear()
    materialise(folder / row["name"], row, HASTY)
    first, status = fetched(server, row["name"])[-1]
    assert status == 206 and first > 0.4 * row["bytes"] and same(folder, origin, row["name"])


def test_an_index_or_labels_of_another_shard_are_refused(server, origin):
    from safetensors.numpy import save_file

    folder = mirror(server.url + "c/", HASTY)
    first, second = shards(origin)[:2]
    with pytest.raises(UserError, match=r"not the index of the shard"):
        materialise(folder / "train-000000.index.json", second, HASTY)
    (origin / "c" / "labels" / "l").mkdir(parents=True, exist_ok=True)
    labels = {"labels": np.zeros(5, np.uint16), "starts": np.array([0, 5])}
    save_file(labels, origin / "c/labels/l/train-000000.safetensors", metadata={"shard_sha256": first["sha256"]})
    path = folder / "labels" / "l" / "train-000000.safetensors"
    with pytest.raises(UserError, match="labels of another version"):
        materialise(path, second, HASTY)
    materialise(path, first, HASTY)
    assert path.read_bytes() == (origin / "c/labels/l/train-000000.safetensors").read_bytes()


def test_a_changed_corpus_gets_another_folder(server, origin, tmp_path):
    before = mirror(server.url + "c/", HASTY)
    content = (origin / "c" / "corpus.json").read_text()
    try:
        (origin / "c" / "corpus.json").write_text(content.replace('"name": "test"', '"name": "newer"'))
        assert mirror(server.url + "c/", HASTY) != before
        (origin / "c" / "corpus.json").write_text(content.replace("train-000001.tar", "../../train-000001.tar"))
        with pytest.raises(UserError, match="not a plain file name; do not trust"):
            mirror(server.url + "c/", HASTY)
        (origin / "c" / "corpus.json").write_text("<html>sign in</html>")
        with pytest.raises(UserError, match=r"its corpus\.json is not that of a corpus"):
            mirror(server.url + "c/", HASTY)
    finally:
        (origin / "c" / "corpus.json").write_text(content)


def test_object_stores_come_through_fsspec(origin):
    import fsspec

    store = fsspec.filesystem("memory")
    store.put(str(origin / "c"), "/bucket/c", recursive=True)
    folder = mirror("memory://bucket/c", HASTY)
    row = shards(origin)[0]
    part = cache_space.part_of(folder / row["name"], row["bytes"])
    part.write_bytes((origin / "c" / row["name"]).read_bytes()[:1000])
    materialise(folder / row["name"], row, HASTY)
    assert same(folder, origin, row["name"]) and same(folder, origin, "trials-train.csv")
    with pytest.raises(NotThere):
        materialise(folder / "labels" / "none" / "labels.json", None, HASTY)
    with pytest.raises(UserError, match="URLs of this kind cannot be read"):
        mirror("nosuchstore://bucket/c", HASTY)


def test_a_file_outside_every_mirror_is_refused(tmp_path):
    with pytest.raises(UserError, match="not in a mirror of a remote corpus"):
        materialise(tmp_path / "train-000000.tar", {"bytes": 1, "sha256": ""}, HASTY)


def test_alignments_come_with_their_shards(server, origin, cache):
    """A file is downloaded when its shard is asked for, and only if its lines are those that were written."""
    here = Corpus.open(origin / "c")
    with AlignmentWriter(here, "times", {"kind": "forced", "teacher": "0" * 64, "settings": {}}) as writer:
        for shard in here.split("train").shards:
            writer.write(shard, [[Segment(f"P{key[-1]}", 0.0, 1.0)] for key in shard.keys])
    there = Corpus.open(server.url + "c/")
    with pytest.raises(UserError, match=r"no alignments 'nothing' at the corpus' URL .* run `wavlm align` there"):
        AlignmentSet.open(there, "nothing")
    found = AlignmentSet.open(there, "times")
    assert not list(there.directory.glob("alignments/*/*.jsonl"))
    server.moods["train-000000.jsonl"] = ["flip"]
    rows, ours = found.rows("train"), AlignmentSet.open(here, "times").rows("train")
    assert rows[0] == ours[0] and rows[0] is not None
    assert [path.name for path in there.directory.glob("alignments/*/*.jsonl")] == ["train-000000.jsonl"]
    assert found.coverage("train") == AlignmentSet.open(here, "times").coverage("train")
    assert list(rows) == list(ours)


@pytest.mark.parametrize("lists", [{"train": ["../../x"]}, ["train"], {"train": "hard"}, {"train": [3]}])
def test_lists_of_trials_cannot_lead_out_of_the_mirror(server, origin, lists):
    body = json.loads((origin / "c" / "corpus.json").read_text())
    body["source"]["trial_lists"] = lists
    (origin / "lists").mkdir(exist_ok=True)
    (origin / "lists" / "corpus.json").write_text(json.dumps(body))
    with pytest.raises(UserError, match=r"corpus\.json"):
        mirror(server.url + "lists/", HASTY)
