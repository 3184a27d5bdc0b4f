"""Pictures with captions in parquet files."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from written_data import Opened, check_many_threads_read_the_same, noise, png, write_parquet

from diffjax.data import epoch, parquet
from diffjax.data.bad import BadRecord
from diffjax.data.parquet import Parquet

PICTURE = png(noise(1)[0])


opened = Opened(Parquet)
texts, refusal = opened.texts, opened.refusal


def write(path, texts, name="text", image="image", pictures=None, **columns):
    path.parent.mkdir(exist_ok=True, parents=True)
    pictures = pictures or pa.array([PICTURE] * len(texts), pa.binary())
    pq.write_table(pa.table({image: pictures, name: texts, **columns}), path)
    return path


@pytest.mark.parametrize("group", [1, 7, 100])
@pytest.mark.parametrize("cached", [0, 2**30])
def test_gives_what_was_written(tmp_path, monkeypatch, group, cached):
    monkeypatch.setattr(parquet, "CACHED", cached)
    root = write_parquet(tmp_path / "root", group=group)
    train, test = (next(epoch(opened(root, split), 99)) for split in ("train", "test"))
    found = {}
    for batch in (train, test):
        assert set(batch) == {"image", "text"}
        for image, text in zip(batch["image"], batch["text"], strict=True):
            found.setdefault(text, []).append(np.rint((image + 1) * 127.5))
    for index, pixels in enumerate(noise(40, seed=40)):
        np.testing.assert_array_equal(found[f"Thing  {index // 2}"][index % 2], pixels)
    assert test["text"].tolist() == ["Thing  0"] * 2 + ["Thing  10"] * 2


@pytest.mark.parametrize("held_out", ["test", "validation"])
def test_files_named_train_and_test_are_the_splits(tmp_path, held_out):
    write(tmp_path / "train-00001-of-00002.parquet", ["c"])
    write(tmp_path / "train-00000-of-00002.parquet", ["a", "b"])
    write(tmp_path / f"{held_out}-00000-of-00001.parquet", ["d"])
    assert (texts(tmp_path), texts(tmp_path, "test")) == (["a", "b", "c"], ["d"])


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
@pytest.mark.parametrize("lists", [None, pa.list_, pa.large_list])
@pytest.mark.parametrize("name", ["text", "caption", "words"])
def test_columns_of_captions(tmp_path, kind, lists, name):
    values, kind = (["a", "é"], kind) if lists is None else ([["a", "A b"], ["é"]], lists(kind))
    path = write(tmp_path / "0.parquet", pa.array(values, kind), name)
    options = {"text": "words"} if name == "words" else {}
    assert texts(path, "test", **options) == (["a"] if lists is None else ["a", "A b"])
    assert texts(path, **options) == ["é"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
@pytest.mark.parametrize("as_struct", [False, True])
def test_columns_of_pictures(tmp_path, kind, as_struct):
    pictures = pa.array([PICTURE] * 2, kind)
    if as_struct:
        pictures = pa.StructArray.from_arrays([pictures, pa.array(["x", "y"])], ["bytes", "path"])
    path = write(tmp_path / "0.parquet", ["a", "b"], image="jpg", pictures=pictures)
    image = opened(path, image="jpg")[0]["image"]
    np.testing.assert_array_equal(np.rint((image + 1) * 127.5), noise(1)[0])


def test_a_column_family_says_what_is_held_out_together(tmp_path):
    path = write(tmp_path / "0.parquet", list("abcd"), family=pa.array([5, 6, 5, None]))
    assert texts(path, "test") == ["a", "c"]
    assert texts(path) == ["b", "d"]


def test_what_is_passed_over_is_counted_by_name(tmp_path):
    values = pa.array([["a"], [""], None, [], ["b", None, " "]], pa.list_(pa.string()))
    write(tmp_path / "0.parquet", values)
    assert opened(tmp_path).contents.passed_over == {
        "empty captions": 4,
        "pictures without a caption": 1,
    }


@pytest.mark.parametrize("lists", [False, True])
def test_texts_that_are_not_utf8_are_passed_over(tmp_path, lists):
    broken = pa.array([b"a", b"caf\xe9", b"b"], pa.binary()).view(pa.string())
    if lists:
        broken = pa.ListArray.from_arrays([0, 1, 2, 3], broken)
    write(tmp_path / "0.parquet", broken)
    assert opened(tmp_path).contents.passed_over == {"captions that are not UTF-8": 1}
    assert texts(tmp_path) == ["b"]


def test_a_picture_without_bytes_is_a_bad_record_and_no_path_is_followed(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(PICTURE)
    pictures = pa.array(
        [{"bytes": PICTURE, "path": None}, {"bytes": None, "path": str(secret)}, None],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    path = write(tmp_path / "0.parquet", ["a", "b", "c"], pictures=pictures)
    assert refusal(path).startswith(f"the image of row 1 of {str(path)!r} has no bytes")
    records = opened(path, max_bad_records=2)
    assert records.contents.passed_over == {"damaged": 2}
    for index in range(2):
        with pytest.raises(BadRecord, match="has no bytes"):
            records[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "jpg"}, "has no column 'jpg'; it has: image, text, number"),
        ({"text": "words"}, "has no column 'words'; it has: image, text, number"),
        ({"image": "text"}, "column 'text' of {path!r} is of the type string: encoded pictures"),
        ({"text": "number"}, "column 'number' of {path!r} is of the type int64: texts or lists of"),
    ],
)
def test_columns_that_cannot_be_used(tmp_path, options, message):
    path = write(tmp_path / "0.parquet", ["a", "b"], number=[1, 2])
    assert message.format(path=str(path)) in refusal(path, **options)


@pytest.mark.parametrize("damage", ["cut", "empty", "none", "tail", "pages"])
def test_damaged_files(tmp_path, damage):
    path = write_parquet(tmp_path / "root") / "data.parquet"
    data = bytearray(path.read_bytes())
    if damage == "pages":
        data[4:1000] = b"\xff" * 996
    changed = {"cut": data[:2000], "empty": b"", "none": b"none" * 9, "tail": data[:-1] + b"?"}
    path.write_bytes(changed.get(damage, data))
    message = refusal(path)
    assert message.startswith("cannot read ")
    assert str(path) in message


def test_a_large_row_group_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "MOST_GROUP", 100)
    path = write(tmp_path / "0.parquet", ["a", "b"])
    assert refusal(path).startswith(f"row group 0 of {str(path)!r} unpacks to ")


def test_equal_pictures_take_the_memory_of_one(tmp_path):
    """10 KB of a file would unpack to 100 MB."""
    file = tmp_path / "0.parquet"
    write(file, ["a", "b"] * 5000, pictures=pa.array([PICTURE + bytes(10_000)] * 10_000))
    assert file.stat().st_size < 100_000
    groups = parquet._Groups("image")
    assert groups._column(file, 0).nbytes < 10**6


def test_damaged_pictures_and_bombs(tmp_path, monkeypatch):
    path = write(tmp_path / "0.parquet", ["a", "b"], pictures=pa.array([PICTURE, PICTURE[:80]]))
    assert refusal(path).startswith(f"cannot read the image of row 1 of {str(path)!r} (")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "bomb" in refusal(path, image_size=8, max_bad_records=99)


def test_missing_and_other_files(tmp_path):
    assert "no folder or file" in refusal(tmp_path / "none")
    (tmp_path / "data.csv").write_text("a")
    assert "no .parquet files in" in refusal(tmp_path)
    assert "is a file: give the folder" in refusal(tmp_path / "data.csv")
    write(tmp_path / "outside.parquet", ["a", "b"])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "0.parquet").symlink_to(tmp_path / "outside.parquet")
    assert "is a link out of" in refusal(tmp_path / "root")


def test_many_threads_read_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "CACHED", 10_000)
    records = opened(write_parquet(tmp_path / "root"))
    check_many_threads_read_the_same(records)


def test_without_pyarrow_one_line_says_what_to_install(tmp_path):
    """A stand-in that cannot be imported, in a process of its own."""
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    code = (
        "from diffjax.data.parquet import Parquet\n"
        "try: Parquet('x').open('train', 8)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "parquet needs pyarrow: pip install 'diffjax[parquet]'\n"
