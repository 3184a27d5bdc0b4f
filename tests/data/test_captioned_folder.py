"""Folders of pictures with captions, as people have them."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from written_data import Opened, noise, write_captioned

from diffjax.data import epoch
from diffjax.data.bad import BadRecord
from diffjax.data.captioned_folder import CaptionedFolder
from diffjax.data.contents import described


def fill(root, *names, seed=0):
    """Distinct pictures of these names."""
    for index, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(1, seed=seed + index)[0]).save(path)
    return root


opened = Opened(CaptionedFolder)
texts, refusal = opened.texts, opened.refusal


def write_table(path, rows):
    """Rows of a dictionary each, as CSV or as JSON lines."""
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_text_beside_each_picture(tmp_path):
    root = write_captioned(tmp_path / "root")
    records = {split: opened(root, split) for split in ("train", "test")}
    assert [len(own) for own in records.values()] == [36, 4]
    for own in records.values():
        batch = next(epoch(own, 99))
        assert set(batch) == {"image", "text"}
        for image, text in zip(batch["image"], batch["text"], strict=True):
            number = int(text.removeprefix("Thing  "))
            pixels = noise(40, seed=40)[2 * number : 2 * number + 2]
            assert (np.rint((image + 1) * 127.5) == pixels).all((1, 2, 3)).any()
    assert texts(root, "test") == ["Thing  0"] * 2 + ["Thing  10"] * 2


def test_each_line_is_a_caption_and_a_chain_of_them_a_family(tmp_path):
    root = fill(tmp_path, *(f"{i}.png" for i in range(4)))
    (root / "0.txt").write_bytes(b"\xef\xbb\xbf a dog \r\n\r\nA  puppy\na dog\n")
    (root / "1.txt").write_text("a cat")
    (root / "2.txt").write_text("a Puppy\nun chiot é\n", encoding="utf-8")
    (root / "3.txt").write_text("UN CHIOT É", encoding="utf-8")
    assert texts(root) == ["a cat"]
    assert texts(root, "test") == ["a dog", "A  puppy", "a Puppy", "un chiot é", "UN CHIOT É"]
    assert described(opened(root)) == "1 image of 12x12 in colour; 5 held out"


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl", "metadata.jsonl"])
@pytest.mark.parametrize("columns", [("file_name", "text"), ("image", "caption"), ("path", "text")])
def test_tables(tmp_path, name, columns):
    root = fill(tmp_path, "sub/0.png", "1.png", "2.png")
    rows = [("1.png", 'a, "b"\nc'), ("./sub/0.png", "é"), ("1.png", "d"), ("2.png", "É")]
    write_table(root / name, [dict(zip(columns, row, strict=True)) for row in rows])
    assert texts(root) == ["é", "É"][::-1]
    assert texts(root, "test") == ['a, "b"\nc', "d"]


def test_a_list_of_captions_and_a_family_in_json(tmp_path):
    root = fill(tmp_path, *(f"{i}.png" for i in range(3)))
    rows = [{"file": f"{i}.png", "captions": [f"a {i}", f"b {i}"], "family": i % 2} for i in (0, 1)]
    write_table(root / "captions.jsonl", [*rows, {"file": "2.png", "text": "c", "family": "0"}])
    assert texts(root, "test") == ["a 0", "b 0", "c"]
    assert texts(root) == ["a 1", "b 1"]


@pytest.mark.parametrize("held_out", ["test", "val"])
@pytest.mark.parametrize("where", ["beside", "in each", "at the top"])
def test_folders_train_and_test_are_the_splits(tmp_path, held_out, where):
    names = ["train/0.png", "train/1.png", f"{held_out}/0.png"]
    root = fill(tmp_path, *names, "cover.png")
    for index, name in enumerate(names):
        if where == "beside":
            (root / name).with_suffix(".txt").write_text(f"picture {index}")
    rows = [{"file_name": name, "text": f"picture {i}"} for i, name in enumerate(names)]
    if where == "at the top":
        write_table(root / "captions.csv", rows)
    if where == "in each":
        for row in rows:
            row["file_name"] = row["file_name"].split("/")[1]
        write_table(root / "train" / "captions.csv", rows[:2])
        write_table(root / held_out / "captions.jsonl", rows[2:])
    assert texts(root) == ["picture 0", "picture 1"]
    assert texts(root, "test") == ["picture 2"]
    assert described(opened(root)).endswith(
        f"1 held out; passed over 1 outside train/ and {held_out}/"
    )


def test_what_is_passed_over_is_counted_by_name(tmp_path):
    root = fill(tmp_path, *(f"{i}.png" for i in range(6)))
    for index, content in enumerate((b"one", b"two", b"caf\xe9", b"", b" \n\t\n")):
        (root / f"{index}.txt").write_bytes(content)
    (root / "9.txt").write_text("none")
    (root / "notes.md").write_text("none")
    assert described(opened(root)).endswith(
        "1 held out; passed over 1 .md files that hold no picture, "
        "1 captions that are not UTF-8, 2 empty captions, 1 captions without a picture, "
        "1 pictures without a caption"
    )
    assert texts(root) + texts(root, "test") == ["two", "one"]


@pytest.mark.parametrize("name", ["captions.csv", "captions.jsonl"])
def test_what_a_table_has_and_cannot_be_used(tmp_path, name):
    root = fill(tmp_path, *(f"{i}.png" for i in range(5)))
    (root / "4.txt").write_text("beside a table")
    rows = [("0.png", "a"), ("1.png", "b"), ("2.png", ""), ("3.png", "caf#"), ("9.png", "none")]
    write_table(root / name, [dict(zip(("file", "text"), row, strict=True)) for row in rows])
    (root / name).write_bytes((root / name).read_bytes().replace(b"#", b"\xe9"))
    assert opened(root).contents.passed_over == {
        ".txt files beside a table": 1,
        "empty captions": 1,
        "captions that are not UTF-8": 1,
        "captions without a picture": 1,
        "pictures without a caption": 1,
    }


def test_captions_that_are_no_text(tmp_path):
    root = fill(tmp_path, "0.png", "1.png", "2.png")
    lines = [
        '{"file": "0.png", "text": ["a", 5, null, ["x"], "\\ud800"]}',
        '{"file": "1.png", "text": "b"}',
        '{"file": "2.png", "text": {"en": "c"}}',
    ]
    (root / "captions.jsonl").write_text("\n\n".join(lines))
    assert opened(root).contents.passed_over == {
        "captions that are no text": 3, "empty captions": 1, "captions that are not UTF-8": 1,
    }  # fmt: skip


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\0"])
def test_refuses_a_folder_in_which_nothing_is_left(tmp_path, content):
    root = fill(tmp_path, "0.png")
    if content is not None:
        (root / "0.txt").write_bytes(content)
    reason = {
        None: "pictures without a caption", b"": "empty captions",
        b"\xff\xfe\0": "captions that are not UTF-8",
    }[content]  # fmt: skip
    assert refusal(root) == f"no picture with a caption in '{root}': passed over 1 {reason}"


def test_refuses_a_missing_folder_and_one_without_pictures(tmp_path):
    assert "no folder" in refusal(tmp_path / "none")
    assert "no images in" in refusal(tmp_path)
    (tmp_path / "0.txt").write_text("a")
    assert refusal(tmp_path).endswith("passed over 1 captions without a picture")


def test_refuses_a_split_without_a_family(tmp_path):
    root = fill(tmp_path, "0.png", "1.png")
    for index in range(2):
        (root / f"{index}.txt").write_text("the same")
    assert texts(root) == ["the same"] * 2
    assert "has too few families of captions to leave one for the test" in refusal(root, "test")
    fill(root, "train/0.png", "test/0.png")
    (root / "train/0.txt").write_text("one")
    assert "no picture with a caption in" in refusal(root, "test")


@pytest.mark.parametrize("name", ["../0.png", "/etc/passwd", "sub/../../0.png", ".."])
@pytest.mark.parametrize("table", ["captions.csv", "captions.jsonl"])
def test_refuses_a_table_that_leads_out(tmp_path, name, table):
    fill(tmp_path, "0.png")
    root = fill(tmp_path / "root", "1.png")
    write_table(root / table, [{"file": "1.png", "text": "a"}, {"file": name, "text": "a"}])
    line = 3 if table.endswith("csv") else 2
    assert refusal(root) == (
        f"cannot read line {line} of '{root / table}' ({name!r} is outside of '{root}'): correct it"
    )


@pytest.mark.parametrize("name", ["1.png", "1.txt", "captions.csv", "sub"])
def test_refuses_links_that_lead_out(tmp_path, name):
    fill(tmp_path, "outside/1.png")
    root = fill(tmp_path / "root", "0.png")
    (root / "0.txt").write_text("a")
    (root / name).symlink_to("/etc/passwd" if name != "sub" else tmp_path / "outside")
    assert f"'{root / name}' is a link out of '{root}'" in refusal(root)


def test_refuses_a_pipe_and_does_not_wait_for_it(tmp_path):
    root = fill(tmp_path, "0.png")
    os.mkfifo(root / "0.txt")
    assert "0.txt' is a pipe, socket or device and no file" in refusal(root)


@pytest.mark.parametrize(
    ("table", "content", "message"),
    [
        ("captions.csv", "name,text\n0.png,a\n", "has no column file_name or file or image"),
        ("captions.csv", "file;text\n0.png;a\n", "has no column"),
        ("captions.csv", "file\n0.png\n", "no column text or caption or captions; it has: file"),
        ("captions.csv", "", "it has: none"),
        ("captions.csv", 'file,text\n0.png,"a\n', "cannot read line 2 of"),
        ("captions.csv", "file,text\n,a\n", "(no file_name or file or image or path): correct it"),
        ("captions.csv", f"file,text\n0.png,{'a' * 200_000}\n", "field larger than field limit"),
        ("captions.jsonl", '{"file": "0.png"', "cannot read line 1 of"),
        ("captions.jsonl", '\n["0.png", "a"]', "line 2 of"),
        ("captions.jsonl", '{"text": "a"}', "(no file_name or file or image or path)"),
        ("captions.jsonl", '{"file": 5, "text": "a"}', "(no file_name or file or image or path)"),
        ("captions.jsonl", "[" * 100_000, "cannot read line 1 of"),
        ("captions.jsonl", "1" * 10_000, "cannot read line 1 of"),
    ],
)  # fmt: skip
def test_damaged_tables(tmp_path, table, content, message):
    root = fill(tmp_path, "0.png")
    (root / table).write_text(content)
    assert message in refusal(root)


def test_refuses_two_tables(tmp_path):
    root = fill(tmp_path, "0.png")
    for name in ("captions.csv", "metadata.csv"):
        write_table(root / name, [{"file": "0.png", "text": "a"}])
    assert "has both captions.csv and metadata.csv: keep one" in refusal(root)


def test_damaged_pictures_are_bad_records_and_bombs_are_refused(tmp_path, monkeypatch):
    root = write_captioned(tmp_path / "root")
    (root / "002.png").write_bytes((root / "002.png").read_bytes()[:80])
    message = refusal(root)
    assert message.startswith(f"cannot read image '{root / '002.png'}' (")
    records = opened(root, max_bad_records=1)
    assert records.contents.passed_over == {"damaged": 1}
    with pytest.raises(BadRecord):
        records[0]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    message = refusal(root, image_size=8, max_bad_records=99)
    assert "bomb" in message
    assert message.endswith("): remove it")


def test_texts_that_are_too_long_are_passed_over(tmp_path):
    root = fill(tmp_path, "0.png", "1.png")
    (root / "0.txt").write_bytes(b"a" * (2**20 + 1))
    (root / "1.txt").write_bytes(b"a")
    assert opened(root).contents.passed_over == {"texts of more than 1,048,576 bytes": 1}


def test_archives_are_refused(tmp_path):
    root = write_captioned(tmp_path / "root", 3)
    archive = shutil.make_archive(str(tmp_path / "root"), "zip", root)
    assert "is an archive: unpack it first" in refusal(archive)
