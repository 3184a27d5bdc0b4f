"""Records whose texts are token ids."""

import zlib

import numpy as np
import pytest

from diffjax.data import Records, batches, epoch
from diffjax.data.bad import BadRecord
from diffjax.data.captions import Captions
from diffjax.data.contents import Contents
from diffjax.data.embedded import Embedded
from diffjax.data.tokenised import Tokenised, caption_number
from diffjax.errors import UserError
from diffjax.text.bpe import BPE
from diffjax.text.rules import transformers
from diffjax.text.tokenizer import Tokenizer


class Texts:
    """Records of given texts; None is a bad record."""

    image_shape, num_classes, class_names, contents = (1, 1, 1), None, (), Contents()

    def __init__(self, *texts):
        self.texts = texts

    def __len__(self):
        return len(self.texts)

    def __getitem__(self, index):
        if self.texts[index] is None:
            raise BadRecord("damaged", "replace it")
        return {"image": np.zeros((1, 1, 1), np.float32), "text": self.texts[index]}


def lengths(texts):
    return np.asarray([[len(text), 7] for text in texts], np.int32)


def test_texts_become_ids_and_numbers():
    records = Captions("fluent").open("test", 8)
    tokenised = Tokenised(records, lengths)
    assert isinstance(tokenised, Records)
    for name in ("image_shape", "num_classes", "class_names", "contents"):
        assert getattr(tokenised, name) == getattr(records, name)
    plain, found = (next(epoch(r, 999)) for r in (records, tokenised))
    assert set(found) == {"image", "label", "ids", "caption"}
    assert found["ids"].tolist() == [[len(text), 7] for text in plain["text"]]
    assert (found["ids"].dtype, found["caption"].dtype) == (np.int32, np.int32)
    np.testing.assert_array_equal(found["image"], plain["image"])
    assert len(set(found["caption"].tolist())) == len(set(plain["text"].tolist())) == 185


def test_equal_captions_have_equal_numbers():
    assert caption_number(" A  Dog\n") == caption_number("a dog") != caption_number("a dot")
    assert int(caption_number("a dog")) % 2**32 == zlib.crc32(b"a dog")
    assert caption_number("a dog").dtype == np.int32


def test_records_without_texts_are_refused():
    with pytest.raises(UserError, match="the data set has no texts: choose one with captions"):
        Tokenised(Embedded().open("train", 8), lengths)


def test_a_text_that_the_tokenizer_refuses_is_a_bad_record(capsys):
    bpe = BPE({"unknown": 0, "a": 1, "b</w>": 2}, [], "unknown")
    tokenizer = Tokenizer(bpe, transformers([]), start=3, end=4, pad=4, length=5)
    records = Tokenised(Texts(None, "ab", "a\udce9", "c"), tokenizer)
    with pytest.raises(BadRecord, match=r"caption of record 2 of the split \(.*lone surrogate"):
        records[2]
    batch = next(batches(records, 4, seed=0, max_bad_records=2))
    assert set(batch["caption"].tolist()) == {caption_number("ab"), caption_number("c")}
    assert capsys.readouterr().err.count("skipping a bad record") == 2
    with pytest.raises(BadRecord):
        Tokenised(Texts("a\udce9"), lengths)[0]
