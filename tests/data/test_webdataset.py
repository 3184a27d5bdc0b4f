"""Pictures with captions in tar files."""

import gzip
import io
import json
import os
import tarfile

import numpy as np
import pytest
from PIL import Image
from written_data import (
    Opened,
    check_many_threads_read_the_same,
    noise,
    png,
    write_tar,
    write_webdataset,
)

from diffjax.data import batches, epoch
from diffjax.data.bad import BadRecord
from diffjax.data.contents import described
from diffjax.data.webdataset import WebDataset

PICTURE = png(noise(1)[0])


opened = Opened(WebDataset)
texts, refusal = opened.texts, opened.refusal


def pairs(count, start=0):
    """Members of samples with a caption each."""
    return [
        member
        for index in range(start, start + count)
        for member in ((f"{index}.png", PICTURE), (f"{index}.txt", f"text {index}".encode()))
    ]


def test_shards_in_natural_order_give_what_was_written(tmp_path):
    root = write_webdataset(tmp_path / "root")
    train, test = (next(epoch(opened(root, split), 99)) for split in ("train", "test"))
    found = {}
    for batch in (train, test):
        assert set(batch) == {"image", "text"}
        for image, text in zip(batch["image"], batch["text"], strict=True):
            found.setdefault(text, []).append(np.rint((image + 1) * 127.5))
    for index, pixels in enumerate(noise(40, seed=40)):
        np.testing.assert_array_equal(found[f"Thing  {index // 2}"][index % 2], pixels)
    assert test["text"].tolist() == ["Thing  0"] * 2 + ["Thing  10"] * 2
    assert train["text"][0] == "Thing  1"


def test_one_tar_file_alone(tmp_path):
    root = write_webdataset(tmp_path / "root")
    assert len(opened(root / "shard-2.tar")) == 18


@pytest.mark.parametrize("held_out", ["test", "val"])
@pytest.mark.parametrize("separator", ["-", "/"])
def test_shards_named_train_and_test_are_the_splits(tmp_path, held_out, separator):
    for place, split in enumerate(("train", held_out, "other")):
        path = tmp_path / f"{split}{separator}0.tar"
        path.parent.mkdir(exist_ok=True)
        write_tar(path, pairs(2, start=2 * place))
    assert texts(tmp_path) == ["text 0", "text 1"]
    assert texts(tmp_path, "test") == ["text 2", "text 3"]
    over = opened(tmp_path).contents.passed_over
    assert over == ({f"files outside train and {held_out}": 1} if separator == "-" else {})


def test_a_train_split_alone_is_split_by_family(tmp_path):
    write_tar(tmp_path / "train-0.tar", pairs(12))
    assert texts(tmp_path, "test") == ["text 0", "text 10"]


def test_samples_are_what_has_one_name_up_to_the_first_dot(tmp_path):
    members = [
        ("a/b.c/1.txt", b"one\n\ntwo\n"), ("a/b.c/1.json", b'{"text": "not read"}'),
        ("a/1.jpg", PICTURE), ("a/b.c/1.PNG", PICTURE), ("a/1.json", b'{"captions": ["x", "y"]}'),
        ("a/b.c/1.seg.png", PICTURE), ("a/b.c/1.cls", b"4"), ("a/b.c/1.webp", PICTURE),
    ]  # fmt: skip
    write_tar(tmp_path / "0.tar", members)
    assert texts(tmp_path, "test") == ["one", "two"]
    assert texts(tmp_path) == ["x", "y"]
    assert opened(tmp_path).contents.passed_over == {
        "members of other kinds": 2,
        "second pictures of a sample": 1,
    }


def test_what_is_passed_over_is_counted_by_name(tmp_path):
    contents = [
        b"", b" \n", b"caf\xe9", "é".encode(), b"ok", b'{"text": ', b"[1]", b'{"text": 5}',
        b'{"text": "caf\xe9"}', b"[" * 100_000, b'{"caption": ["", "good"]}',
    ]  # fmt: skip
    members = [(f"{i}.png", PICTURE) for i in range(len(contents) + 1)]
    members += [(f"{i}.{'txt' if i < 5 else 'json'}", data) for i, data in enumerate(contents)]
    members += [("none.txt", b"text"), ("other.bin", b"")]
    write_tar(tmp_path / "0.tar", members)
    (tmp_path / "notes.md").write_text("none")
    (tmp_path / "1.tar.gz").write_bytes(b"")
    assert opened(tmp_path).contents.passed_over == {
        "files other than .tar": 2,
        "members of other kinds": 1,
        "empty captions": 4,
        "captions that are not UTF-8": 2,
        "captions that are no text": 1,
        "damaged .json members": 2,
        "pictures without a caption": 1,
        "captions without a picture": 1,
    }
    assert "passed over 2 files other than .tar, " in described(opened(tmp_path))
    assert texts(tmp_path) + texts(tmp_path, "test") == ["ok", "good", "é"]


@pytest.mark.parametrize("name", ["../1.png", "/etc/1.png", "a/../../1.txt", "/1.txt"])
def test_a_member_that_leads_out_is_refused(tmp_path, name):
    path = write_tar(tmp_path / "0.tar", [*pairs(2), (name, PICTURE)])
    message = refusal(tmp_path)
    assert message == f"{str(path)!r} has a member {name!r}, which leads out: replace the file"


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]
)
def test_links_and_devices_are_passed_over_and_never_followed(tmp_path, kind):
    info = tarfile.TarInfo("9.txt")
    info.type, info.linkname = kind, "/etc/passwd"
    write_tar(tmp_path / "0.tar", [*pairs(2), ("9.png", PICTURE), (info, None)])
    over = opened(tmp_path).contents.passed_over
    assert over == {"links, devices and sparse members": 1, "pictures without a caption": 1}


@pytest.mark.parametrize("keep", [0, 100, 512, 700, 1024, 1024 + 700, 2048, 3000])
def test_a_tar_file_cut_short_is_refused(tmp_path, keep):
    path = write_tar(tmp_path / "0.tar", pairs(3))
    path.write_bytes(path.read_bytes()[:keep])
    message = refusal(tmp_path)
    assert message.startswith(f"cannot read {str(path)!r} (")
    assert message.endswith("): it is damaged, compressed or cut short; replace the file")


def test_a_damaged_header_is_no_end(tmp_path):
    """tarfile itself would leave out the member and all after it without a word."""
    path = write_tar(tmp_path / "0.tar", pairs(3))
    data = bytearray(path.read_bytes())
    place = data.index(b"1.txt")
    data[place + 2] ^= 0xFF
    path.write_bytes(data)
    assert f"no member and no end at byte {place:,}" in refusal(tmp_path)


@pytest.mark.parametrize("size", [b"-0000000512", b"77777777777"])
def test_a_size_that_cannot_be_is_refused(tmp_path, size):
    path = write_tar(tmp_path / "0.tar", pairs(2))
    data = bytearray(path.read_bytes())
    place = data.index(b"1.png")
    data[place + 124 : place + 135] = size
    data[place + 148 : place + 156] = b" " * 8
    data[place + 148 : place + 156] = b"%06o\0 " % sum(data[place : place + 512])
    path.write_bytes(data)
    assert refusal(tmp_path).startswith(f"cannot read {str(path)!r} (")


@pytest.mark.parametrize(
    "content",
    [b"no tar file" * 100, gzip.compress(b"x" * 9999), b"\0" * 99],
    ids=["text", "gzip", "zeros"],
)
def test_what_is_no_tar_file_is_refused(tmp_path, content):
    (tmp_path / "0.tar").write_bytes(content)
    assert "is damaged, compressed or cut short" in refusal(tmp_path)


def test_a_folder_in_which_nothing_is_left_is_refused(tmp_path):
    assert "no folder or file" in refusal(tmp_path / "none")
    assert "no .tar files in" in refusal(tmp_path)
    write_tar(tmp_path / "0.tar", [])
    assert refusal(tmp_path) == f"no picture with a caption in '{tmp_path}': put some there"
    write_tar(tmp_path / "0.tar", [("1.png", PICTURE)])
    assert refusal(tmp_path).endswith("passed over 1 pictures without a caption")


@pytest.mark.parametrize("name", ["data.tar.gz", "data.zip", "data.tgz"])
def test_other_archives_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(b"")
    assert "is an archive: unpack it first, and give the folder" in refusal(tmp_path / name)


def test_links_out_and_pipes_are_refused(tmp_path):
    write_tar(tmp_path / "outside.tar", pairs(2))
    root = tmp_path / "root"
    root.mkdir()
    (root / "0.tar").symlink_to(tmp_path / "outside.tar")
    assert "0.tar' is a link out of" in refusal(root)
    (root / "0.tar").unlink()
    os.mkfifo(root / "0.tar")
    assert "0.tar' is a pipe, socket or device" in refusal(root)


def test_damaged_pictures_are_bad_records_and_bombs_are_refused(tmp_path, monkeypatch):
    members = [("x.png", PICTURE[:80]), ("x.txt", b"damaged")]
    path = write_tar(tmp_path / "0.tar", [*pairs(1), *members])
    message = refusal(tmp_path)
    assert message.startswith(f"cannot read image 'x.png' of {str(path)!r} (")
    records = opened(tmp_path, max_bad_records=1)
    assert records.contents.passed_over == {"damaged": 1}
    with pytest.raises(BadRecord):
        records[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "bomb" in refusal(tmp_path, image_size=8, max_bad_records=99)


def test_a_picture_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("diffjax.data.webdataset.MOST_IMAGE", len(PICTURE))
    large = PICTURE + b"\0"
    write_tar(tmp_path / "0.tar", [*pairs(2), ("x.png", large), ("x.txt", b"large")])
    over = opened(tmp_path).contents.passed_over
    assert over[f"images of more than {len(PICTURE)} bytes"] == 1


def test_a_file_that_is_gone_is_a_bad_record(tmp_path):
    path = write_tar(tmp_path / "0.tar", pairs(2))
    records = opened(tmp_path)
    path.unlink()
    with pytest.raises(BadRecord, match=r"cannot read image '1.png' of .* \(No such file"):
        records[0]


def test_many_threads_read_the_same(tmp_path):
    records = opened(write_webdataset(tmp_path / "root"))
    check_many_threads_read_the_same(records)
    assert next(batches(records, 8, seed=0))["image"].shape == (8, 12, 12, 3)


def test_no_file_stays_open(tmp_path):
    records = opened(write_webdataset(tmp_path / "root"))
    before = len(os.listdir("/proc/self/fd"))
    for index in range(len(records)):
        records[index]
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("form", ["JPEG", "WEBP", "PNG"])
def test_forms(tmp_path, form):
    file = io.BytesIO()
    Image.new("RGB", (40, 30), (204, 204, 204)).save(file, form)
    suffix = {"JPEG": "jpeg", "WEBP": "webp", "PNG": "png"}[form]
    members = [(f"{i}.{suffix}", file.getvalue()) for i in range(2)]
    members += [(f"{i}.json", json.dumps({"text": str(i)}).encode()) for i in range(2)]
    write_tar(tmp_path / "0.tar", members)
    image = opened(tmp_path, image_size=10)[0]["image"]
    np.testing.assert_allclose(image, 204 / 127.5 - 1, atol=0.02)


@pytest.mark.parametrize("seed", range(2))
def test_a_picture_larger_than_a_read_ahead(tmp_path, seed):
    pixels = noise(3, 70, 70, seed=seed)
    members = [(f"{i}.png", png(image)) for i, image in enumerate(pixels)]
    write_tar(tmp_path / "0.tar", [*members, *((f"{i}.txt", b"%d" % i) for i in range(3))])
    records = opened(tmp_path)
    for index in range(2):
        found = np.rint((records[index]["image"] + 1) * 127.5)
        np.testing.assert_array_equal(found, pixels[index + 1])
