"""Embeddings are computed once: a file is taken as it is, or computed again where it is no good."""

import dataclasses
import errno
import os

import jax.numpy as jnp
import numpy as np
import pytest
from towers import LENGTH, tiny_towers

from diffjax.checksum import checksum
from diffjax.data import batches
from diffjax.data.bad import BadRecord
from diffjax.data.base import ArrayRecords
from diffjax.data.told import ToldRecords
from diffjax.errors import UserError
from diffjax.tasks.embedding_cache import EmbeddingCache
from diffjax.tasks.towers import Towers

FORM, COUNT = (8, 8, 1), 300
TEXTS = [f"{'dog' if i % 2 else 'a red cat'} {i}" for i in range(COUNT)]
PIXELS = np.random.RandomState(0).randint(0, 256, (COUNT, *FORM), np.uint8)
RECORDS = ArrayRecords(PIXELS, np.zeros(COUNT, int), FORM, 1, texts=TEXTS)
TOWERS = tiny_towers()
DIGEST = checksum(TOWERS.params)


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(RECORDS, TOWERS, DIGEST, ("captions", "None"), tmp_path)


@pytest.fixture
def computed(monkeypatch):
    """How often a tower computes."""
    calls = []
    for name in ("images", "texts", "states"):
        own = getattr(Towers, name)

        def spied(self, rows, own=own, **options):
            calls.append(len(rows))
            return own(self, rows, **options)

        monkeypatch.setattr(Towers, name, spied)
    return calls


def saying(cache):
    said = []
    return dataclasses.replace(cache, say=said.append), said


@pytest.mark.parametrize("told", ["image", "text", "tokens", "padded_tokens"])
def test_computed_once(cache, computed, told):
    first, said = saying(cache)
    made = first.load(told)
    assert computed
    assert "computing" in said[0]
    computed.clear()
    again, said = saying(cache)
    found = again.load(told)
    assert not computed
    assert said == [f"{told} embeddings: {cache.path(told)}"]
    np.testing.assert_array_equal(found.rows, made.rows)
    assert found.good.all()
    assert not list(cache.folder.glob("*.part"))


def test_rows_are_the_towers(cache):
    images = np.stack([RECORDS[i]["image"] for i in range(COUNT)])
    found = dataclasses.replace(cache, say=len)
    np.testing.assert_allclose(found.load("image").rows, TOWERS.images(images), atol=1e-5)
    np.testing.assert_allclose(found.load("text").rows, TOWERS.texts(TEXTS), atol=1e-5)
    states, mask = TOWERS.states(TEXTS)
    told = found.load("tokens").told()
    for index in (0, 1, 7, COUNT - 1):
        record = told(index)
        np.testing.assert_allclose(record["tokens"], states[index], atol=1e-5)
        np.testing.assert_array_equal(record["token_mask"], mask[index])
    assert record["tokens"].shape == (LENGTH, 8)
    padded = found.load("padded_tokens").told()
    for index in (0, COUNT - 1):
        ids = jnp.asarray(TOWERS.tokenizer([TEXTS[index], ""]))
        whole = TOWERS.model.apply({"params": TOWERS.params}, ids, method="text_states")
        own, empty = whole.last_hidden_state
        np.testing.assert_allclose(padded(index)["tokens"], own, atol=1e-5)
        np.testing.assert_allclose(padded(index)["empty_tokens"], empty, atol=1e-5)


def test_a_batch_has_what_the_network_is_told(cache):
    found = dataclasses.replace(cache, say=len).load("text")
    records = ToldRecords(RECORDS, found.told())
    assert (records.image_shape, len(records)) == (FORM, COUNT)
    batch = next(batches(records, 4, 0))
    assert batch.keys() == {"image", "label", "vector"}
    row = next(i for i in range(COUNT) if (RECORDS[i]["image"] == batch["image"][0]).all())
    np.testing.assert_array_equal(batch["vector"][0], found.rows[row])


def damage(path, how):
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif how == "flipped":
        data = bytearray(path.read_bytes())
        data[len(data) // 3] ^= 255
        path.write_bytes(bytes(data))
    elif how == "foreign":
        path.write_bytes(b"a text")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "pickled":
        with path.open("wb") as file:
            np.savez(file, rows=np.asarray([{}], object))


@pytest.mark.parametrize("how", ["cut", "flipped", "foreign", "empty", "pickled"])
def test_a_damaged_file_is_computed_again(cache, how):
    made = dataclasses.replace(cache, say=len).load("text")
    damage(cache.path("text"), how)
    again, said = saying(cache)
    np.testing.assert_array_equal(again.load("text").rows, made.rows)
    assert "is not used (" in said[0]
    assert "\n" not in said[0]
    again, said = saying(cache)
    again.load("text")
    assert len(said) == 1


def test_other_towers_and_records_have_other_files(cache, computed):
    other = tiny_towers(1)
    cut = dataclasses.replace(TOWERS, tokenizer=dataclasses.replace(TOWERS.tokenizer, length=6))
    changes = [
        {"towers": other, "digest": checksum(other.params)},
        {"towers": cut},
        {"towers": dataclasses.replace(TOWERS, mean=(0.4, 0.4, 0.4))},
        {"data": ("captions", "16")},
        {"records": ArrayRecords(PIXELS[1:], np.zeros(COUNT), FORM, 1, texts=TEXTS[1:])},
    ]
    paths = {dataclasses.replace(cache, **change).path("text") for change in changes}
    assert len(paths | {cache.path("text")}) == len(changes) + 1


def test_a_file_of_other_records_is_not_used(cache, computed):
    """The same number of records, of the same name."""
    dataclasses.replace(cache, say=len).load("text")
    for texts, pixels in (([*TEXTS[:-1], "a cat"], PIXELS), (TEXTS, PIXELS[::-1])):
        records = ArrayRecords(pixels, np.zeros(COUNT, int), FORM, 1, texts=texts)
        other, said = saying(dataclasses.replace(cache, records=records))
        other.load("text")
        assert "is of other records" in said[0]


def test_a_full_disk_leaves_no_part(cache, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left on device: make room") as caught:
        dataclasses.replace(cache, say=len).load("text")
    assert caught.value.option == "cache_dir"
    assert {path.suffix for path in cache.folder.iterdir()} <= {".lock"}


class Bad(ArrayRecords):
    def __getitem__(self, index):
        if index == 5:
            raise BadRecord("record 5 is damaged", "mend it")
        return super().__getitem__(index)


def test_bad_records_are_let_pass_up_to_a_number(cache):
    records = Bad(PIXELS, np.zeros(COUNT, int), FORM, 1, texts=TEXTS)
    strict = dataclasses.replace(cache, records=records, say=len)
    with pytest.raises(UserError, match="record 5 is damaged"):
        strict.load("image")
    for told in ("image", "tokens"):
        found = dataclasses.replace(strict, max_bad_records=1).load(told)
        assert np.flatnonzero(~found.good).tolist() == [5]
        whole = dataclasses.replace(cache, say=len, folder=cache.folder / "whole").load(told)
        for index in (4, 6, COUNT - 1):
            key = "vector" if told == "image" else "tokens"
            np.testing.assert_allclose(
                found.told()(index)[key], whole.told()(index)[key], atol=1e-5
            )


def test_a_data_set_without_texts_is_refused(cache):
    records = ArrayRecords(PIXELS, np.zeros(COUNT, int), FORM, 1)
    with pytest.raises(UserError, match="has no texts"):
        dataclasses.replace(cache, records=records)
