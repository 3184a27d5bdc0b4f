"""Folders of pictures, as people have them."""

import os
import pathlib
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from written_data import noise

from diffjax.data import batches, encoded, epoch
from diffjax.data.bad import BadRecord
from diffjax.data.contents import described
from diffjax.data.folder import Folder
from diffjax.errors import UserError


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    picture.save(path, **options)
    return path


def fill(root, *names, size=(8, 8), value=100):
    for name in names:
        save(root / name, Image.new("L", size, value))
    return root


def whole(root, split="train", image_size=None):
    return next(epoch(Folder(str(root)).open(split, image_size), 10**6))


def refusal(root, image_size=None, split="train"):
    with pytest.raises(UserError) as caught:
        Folder(str(root)).open(split, image_size)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    return message


def test_every_tenth_by_name_is_held_out(tmp_path):
    for index in reversed(range(25)):
        save(tmp_path / f"{index:02}.png", Image.new("L", (2, 2), 10 * index))
    values = [
        np.rint((whole(tmp_path, split)["image"][:, 0, 0, 0] + 1) * 127.5)
        for split in ("test", "train")
    ]
    assert values[0].tolist() == [0, 100, 200]
    assert values[1].tolist() == [10 * index for index in range(25) if index % 10]


def test_folders_train_and_test_are_the_splits(tmp_path):
    fill(tmp_path, "train/cat/1.png", "train/dog/1.png", "train/dog/2.png", value=10)
    fill(tmp_path, "test/dog/3.png", "test/elk/1.png", value=20)
    fill(tmp_path, "val/dog/3.png", "cover.png", value=30)
    train, test = (Folder(str(tmp_path)).open(split, None) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("cat", "dog", "elk")
    assert [int(train[index]["label"]) for index in range(len(train))] == [0, 1, 1]
    assert [int(test[index]["label"]) for index in range(len(test))] == [1, 2]
    assert np.unique(np.rint((whole(tmp_path, "test")["image"] + 1) * 127.5)) == 20


def test_subfolders_are_classes_with_all_below_them(tmp_path):
    fill(tmp_path, "b/1.png", "a/1.png", "a/deep/er/2.png", "a/z.png", "b/.thumbs/3.png")
    records = Folder(str(tmp_path)).open("train", None)
    assert records.class_names == ("a", "b")
    assert records.num_classes == 2
    assert whole(tmp_path, "test")["label"].tolist() == [0]
    assert whole(tmp_path, "train")["label"].tolist() == [0, 0, 1]


def test_classes_are_in_natural_order(tmp_path):
    names = ["a10", "a2", "2", "10", "1", "b"]
    fill(tmp_path, *(f"{name}/{i}.png" for name in names for i in range(2)))
    records = Folder(str(tmp_path)).open("train", None)
    assert records.class_names == ("1", "2", "10", "a2", "a10", "b")


def test_of_each_class_something_is_learnt(tmp_path):
    """The one picture of class a would be the first to be held out."""
    fill(tmp_path, "a/0.png", *(f"b/{i:02}.png" for i in range(20)), *(f"c/{i}.png" for i in "01"))
    assert np.bincount(whole(tmp_path)["label"]).tolist() == [1, 18, 1]
    assert np.bincount(whole(tmp_path, "test")["label"]).tolist() == [0, 2, 1]
    assert "none held out of a" in described(Folder(str(tmp_path)).open("train", None))


@pytest.mark.parametrize("name", ["val", "valid", "Validation", "Test"])
def test_a_folder_of_another_name_is_held_out(tmp_path, name):
    fill(tmp_path, "Train/cat/1.png", "Train/dog/1.png", value=10)
    fill(tmp_path, f"{name}/cat/1.png", f"{name}/dog/1.png", value=20)
    assert (whole(tmp_path)["image"] < 20 / 127.5 - 1).all()
    assert (whole(tmp_path, "test")["image"] > 19 / 127.5 - 1).all()
    assert Folder(str(tmp_path)).open("train", None).class_names == ("cat", "dog")


def test_a_folder_train_alone_holds_the_classes(tmp_path):
    fill(tmp_path, *(f"train/{kind}/{i:02}.png" for kind in ("cat", "dog") for i in range(12)))
    records = Folder(str(tmp_path)).open("train", None)
    assert records.class_names == ("cat", "dog")
    assert np.bincount(whole(tmp_path, "test")["label"]).tolist() == [2, 2]
    fill(tmp_path, "bus/1.png", "bus/2.png")
    assert Folder(str(tmp_path)).open("train", None).class_names == ("bus", "train")


def test_a_picture_is_what_its_content_says(tmp_path):
    for i in range(6):
        save(tmp_path / f"{i}.jfif", Image.new("L", (8, 8), 9), format="JPEG")
        save(tmp_path / f"{i}", Image.new("L", (8, 8), 9), format="PNG")
    (tmp_path / "none.jfif").write_bytes(b"none")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "out.dat").symlink_to("/etc/passwd")
    assert len(whole(tmp_path)["image"]) + len(whole(tmp_path, "test")["image"]) == 12


def test_what_is_passed_over_is_counted(tmp_path):
    fill(tmp_path, *(f"train/cat/{i}.png" for i in range(3)), "train/dog/1.png", "test/cat/1.png")
    fill(tmp_path, "val/cat/1.png", "cover.png")
    for name in ("a.txt", "b.txt", "readme", ".DS_Store"):
        (tmp_path / name).write_bytes(b"no picture")
    (tmp_path / "train/cat/2.png").write_bytes(b"")
    (tmp_path / "train/elk").mkdir()
    records = Folder(str(tmp_path)).open("train", None, max_bad_records=1)
    assert described(records) == (
        "4 images of 8x8 in grey; 2 classes: cat (3), dog (1); none held out of dog; 1 held out; "
        "passed over 1 hidden, 2 .txt files that hold no picture, "
        "1 other files that hold no picture, 1 folders without a picture, "
        "2 outside train/ and test/, 1 damaged"
    )


def test_names_that_are_not_utf8(tmp_path):
    for name in (b"caf\xe9", b"na\xefve"):
        fill(tmp_path, *(f"{os.fsdecode(name)}/{i}.png" for i in range(2)))
    line = described(Folder(str(tmp_path)).open("train", None))
    assert r"'caf\udce9 (1)', 'na\udcefve (1)'" in line
    line.encode("ascii")


def test_no_subfolders_no_labels(tmp_path):
    records = Folder(str(fill(tmp_path, "1.png", "2.png"))).open("train", None)
    assert set(records[0]) == {"image"}
    assert (records.num_classes, records.class_names) == (None, ())


def test_hidden_and_foreign_files_are_left_out(tmp_path):
    fill(tmp_path, "1.png", "2.PNG", "3.Jpeg", "4.GIF", "5.webp", "6.BMP", "7.tif", "8.JPG")
    for name in (".DS_Store", "._1.jpg", "notes.txt", "list.csv"):
        (tmp_path / name).write_bytes(b"no picture")
    assert len(whole(tmp_path, "train")["image"]) == 7


def test_grey_jpegs_of_300_by_200(tmp_path):
    for index in range(12):
        save(tmp_path / f"{index}.jpg", Image.fromarray(noise(1, 200, 300, 1, index)[0, ..., 0]))
    assert Folder(str(tmp_path)).open("train", None).image_shape == (200, 300, 1)
    records = Folder(str(tmp_path)).open("train", 64)
    assert records.image_shape == (64, 64, 1)
    assert next(batches(records, 4, seed=0))["image"].shape == (4, 64, 64, 1)


def test_one_picture_in_colour_makes_all_so(tmp_path):
    fill(tmp_path, "1.png", "2.png", "3.png", value=200)
    save(tmp_path / "4.png", Image.new("RGB", (8, 8), (255, 0, 0)))
    images = whole(tmp_path)["image"]
    assert images.shape == (3, 8, 8, 3)
    np.testing.assert_allclose(images[:2], 200 / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(images[2, 0, 0], [1, -1, -1])


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("L", (8, 8), value) for value in (255, 0)]
    for name in ("1.gif", "2.gif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
    assert (whole(tmp_path)["image"] == 1).all()


@pytest.mark.parametrize("image_size", [None, 10])
def test_exif_orientation_is_applied(tmp_path, image_size):
    """Orientation 6: what is left in the file belongs on top."""
    pixels = np.zeros((20, 30), np.uint8)
    pixels[:, :15] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("1.jpg", "2.jpg", "3.png"):
        save(tmp_path / name, pixels, exif=exif)
    images = whole(tmp_path, image_size=image_size)["image"]
    height, width = images.shape[1:3]
    assert (height, width) == ((30, 20) if image_size is None else (10, 10))
    assert images[:, : height // 2 - 1].mean() > 0.95
    assert images[:, height // 2 + 1 :].mean() < -0.95


def test_large_jpegs_are_decoded_smaller_but_alike(tmp_path):
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    pixels = np.broadcast_to(ramp, (800, 800))
    save(tmp_path / "1.jpg", pixels)
    save(tmp_path / "2.jpg", pixels)
    image = whole(tmp_path, image_size=16)["image"][0, :, :, 0]
    expected = (np.arange(16) + 0.5) / 8 - 1
    np.testing.assert_allclose(image, np.broadcast_to(expected, (16, 16)), atol=0.02)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(1, 80), st.integers(1, 80)), min_size=2, max_size=4),
    st.integers(1, 64),
    st.sampled_from(["png", "jpg", "gif", "bmp", "webp", "tiff"]),
)
def test_any_sizes(tmp_path, sizes, image_size, suffix):
    root = tmp_path / "pictures"
    shutil.rmtree(root, ignore_errors=True)
    for index, (height, width) in enumerate(sizes):
        save(root / f"{index}.{suffix}", noise(1, height, width, 3)[0])
    images = whole(root, image_size=image_size)["image"]
    assert images.shape == (len(sizes) - 1, image_size, image_size, 3)
    assert abs(images).max() <= 1


def test_refuses_a_missing_folder(tmp_path):
    assert "no folder" in refusal(tmp_path / "nowhere")


def test_refuses_a_folder_without_images(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    message = refusal(tmp_path)
    assert "no images" in message
    assert ".png" in message
    assert ".jpg" in message


def test_refuses_an_empty_split(tmp_path):
    fill(tmp_path, "train/1.png")
    (tmp_path / "test").mkdir()
    assert "no images in" in refusal(tmp_path, split="test")
    shutil.rmtree(tmp_path / "test")
    assert "has too few images (1) to leave one for the test" in refusal(tmp_path, split="test")
    assert len(whole(tmp_path)["image"]) == 1


def test_refuses_sizes_that_differ(tmp_path):
    fill(tmp_path, "1.png", "2.png")
    fill(tmp_path, "3.png", size=(9, 7))
    message = refusal(tmp_path)
    assert "3.png' is 9x7" in message
    assert "give an image_size" in message


def test_refuses_images_beside_classes(tmp_path):
    fill(tmp_path, "a/1.png", "b/1.png", "cover.png")
    message = refusal(tmp_path)
    assert "cover.png' is in no class folder" in message
    assert "(a, b)" in message


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _garble(path):
    path.write_bytes(b"not a picture at all")


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


BAD = [("jpg", _cut), ("jpg", _garble), ("png", _cut), ("png", _garble), ("png", _flip)]


@pytest.mark.parametrize(("suffix", "damage"), BAD)
def test_refuses_a_damaged_image_on_opening(tmp_path, suffix, damage):
    for index in range(12):
        save(tmp_path / f"{index:02}.{suffix}", noise(1, 40, 40, 3, index)[0])
    damage(tmp_path / f"05.{suffix}")
    for split in ("train", "test"):
        assert f"cannot read image '{tmp_path / f'05.{suffix}'}'" in refusal(tmp_path, split=split)


def test_refuses_a_damaged_image_on_reading(tmp_path, monkeypatch):
    """Beyond the files that are decoded on opening; and out of the reading threads."""
    monkeypatch.setattr(encoded, "DECODED_ON_OPEN", 2)
    for index in range(4):
        save(tmp_path / f"{index}.jpg", noise(1, 40, 40, 3, index)[0])
    _cut(tmp_path / "3.jpg")
    records = Folder(str(tmp_path)).open("train", None)
    with pytest.raises(UserError, match=r"cannot read image '.*3\.jpg' \(image file is truncated"):
        next(batches(records, 8, seed=0))


def test_refuses_pixels_of_no_known_range(tmp_path):
    fill(tmp_path, "1.png")
    save(tmp_path / "2.tiff", np.zeros((8, 8), np.float32))
    assert "2.tiff' (its pixels have 32 bits" in refusal(tmp_path)


def test_refuses_other_formats_under_a_picture_name(tmp_path):
    fill(tmp_path, "1.png")
    save(tmp_path / "2.png", Image.new("RGB", (8, 8)), format="EPS")
    assert "cannot identify" in refusal(tmp_path)


@pytest.mark.parametrize("limit", [1500, 999])  # Pillow itself warns from once, refuses from twice
def test_refuses_a_bomb(tmp_path, monkeypatch, recwarn, limit):
    fill(tmp_path, "1.png")
    fill(tmp_path, "2.png", size=(50, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    message = refusal(tmp_path, image_size=8)
    assert "2.png" in message
    assert "bomb" in message
    assert not [warning for warning in recwarn if "bomb" in str(warning.message)]


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width, height, *chunks):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = zlib.compress(bytes(height * (width + 1)) if width * height < 1000 else b"")
    end = chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + end


def gif_of_large_canvas(tmp_path):
    Image.new("P", (8, 8)).save(tmp_path / "small.gif")
    data = bytearray((tmp_path / "small.gif").read_bytes())
    data[6:10] = struct.pack("<HH", 60000, 60000)
    return bytes(data)


def gif_of_large_frame(tmp_path):
    Image.new("P", (8, 8)).save(tmp_path / "small.gif")
    data = bytearray((tmp_path / "small.gif").read_bytes())
    place = data.index(b"\x2c\0\0\0\0\x08\0\x08\0")
    data[place + 5 : place + 9] = struct.pack("<HH", 60000, 60000)
    return bytes(data)


def webp_of_large_canvas(tmp_path):
    frames = [Image.new("RGB", (8, 8), value) for value in ("red", "blue")]
    frames[0].save(tmp_path / "small.webp", save_all=True, append_images=frames[1:])
    data = bytearray((tmp_path / "small.webp").read_bytes())
    data[24:30] = (16000 - 1).to_bytes(3, "little") * 2
    return bytes(data)


TEXT = b"Comment\0\0" + zlib.compress(bytes(50_000_000))
BOMBS = {  # the file as it is made, in a folder that may be used
    "wide.png": lambda _: png(100_000, 100_000),
    "over the first limit.png": lambda _: png(10_000, 10_000),
    "text.png": lambda _: png(8, 8, chunk(b"zTXt", TEXT)),
    "many texts.png": lambda _: png(
        8, 8, *[chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(1_000_000)))] * 70
    ),
    "profile.png": lambda _: png(8, 8, chunk(b"iCCP", TEXT)),
    "canvas.gif": gif_of_large_canvas,
    "frame.gif": gif_of_large_frame,
    "canvas.webp": webp_of_large_canvas,
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("max_bad_records", [0, 9])
def test_bombs_are_refused_and_never_skipped(tmp_path, name, max_bad_records, recwarn):
    root = fill(tmp_path / "root", "1.png", "2.png")
    (root / name).write_bytes(BOMBS[name](tmp_path))
    assert (root / name).stat().st_size < 200_000
    with pytest.raises(UserError) as caught:
        Folder(str(root)).open("train", 8, max_bad_records)
    message = str(caught.value)
    assert message.startswith(f"cannot read image '{root / name}' (")
    assert message.endswith("): remove it")
    assert "\n" not in message
    assert not [warning for warning in recwarn if "bomb" in str(warning.message)]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_put_there_after_opening_is_refused(tmp_path):
    records = Folder(str(fill(tmp_path, "1.png", "2.png"))).open("train", 8)
    (tmp_path / "2.png").write_bytes(png(10_000, 10_000))
    with pytest.raises(UserError, match=r"10000x10000 pixels, could be a decomp") as caught:
        records[0]
    assert not isinstance(caught.value, BadRecord)


@pytest.mark.parametrize("kind", ["file", "folder", "dangling"])
def test_refuses_links_that_lead_out(tmp_path, kind):
    fill(tmp_path, "outside/secret.png")
    root = fill(tmp_path / "root", "a/1.png", "a/2.png")
    target = {"file": "outside/secret.png", "folder": "outside", "dangling": "gone.png"}[kind]
    link = root / "a" / ("link" if kind == "folder" else "link.png")
    link.symlink_to(tmp_path / target)
    assert f"'{link}' is a link out of" in refusal(root)


def test_refuses_links_to_folders_inside(tmp_path):
    """os.walk would leave the class out without a word."""
    root = fill(tmp_path, "store/cat/1.png", "store/cat/2.png")
    (root / "cat").symlink_to(root / "store" / "cat")
    assert f"'{root / 'cat'}' is a link to a folder: put the folder itself there" in refusal(root)


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a pipe", "link to a device"])
def test_refuses_special_files_and_does_not_wait_for_them(tmp_path, monkeypatch, kind):
    """In a process of its own: a pipe that is opened waits for a writer for ever."""
    root = fill(tmp_path / "root", "1.png", "2.png")
    monkeypatch.chdir(root)  # the path of a socket must be short
    if kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("3.png")
    elif kind == "link to a device":
        (root / "3.png").symlink_to("/dev/zero")
    else:
        os.mkfifo(root / ("3.png" if kind == "pipe" else "pipe"))
    if kind == "link to a pipe":
        (root / "3.png").symlink_to("pipe")
    code = (
        "from diffjax.data.folder import Folder\n"
        f"try: Folder({str(root)!r}).open('train', 8, 9)\n"
        "except ValueError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    what = "a link out of" if "device" in kind else "a pipe, socket or device and no file"
    assert f"3.png' is {what}" in done.stdout


@pytest.mark.parametrize("name", ["pictures.zip", "pictures.tar.gz", "PICTURES.ZIP", "p.tgz"])
def test_archives_are_refused_and_never_unpacked(tmp_path, name):
    archive = tmp_path / name
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../1.png", b"out of the folder")
    message = refusal(archive)
    assert message == f"path={str(archive)!r} is an archive: unpack it first, and give the folder"
    assert list(tmp_path.iterdir()) == [archive]


def test_archives_among_the_pictures_are_left_out(tmp_path):
    fill(tmp_path, "1.png", "2.png")
    (tmp_path / "3.zip").write_bytes(b"PK")
    assert len(whole(tmp_path)["image"]) == 1


def test_refuses_a_file_in_place_of_a_folder(tmp_path):
    assert "is a file: give the folder that it lies in" in refusal(
        fill(tmp_path, "1.png") / "1.png"
    )


@pytest.mark.parametrize("path", ["gs://bucket/pictures", "https://example.org/pictures"])
def test_refuses_what_is_not_on_this_machine(path):
    assert f"path='{path}' is not on this machine: copy it to a disk, or mount" in refusal(path)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/x", "a" * 5000, "null\0byte"])
def test_refuses_strange_paths(path):
    assert "no folder" in refusal(path) if "\0" not in path else True


def test_links_that_stay_inside_are_read(tmp_path):
    root = fill(tmp_path / "root", "a/1.png", "a/2.png")
    (root / "a" / "3.png").symlink_to(root / "a" / "1.png")
    (tmp_path / "alias").symlink_to(root)
    assert len(whole(tmp_path / "alias")["label"]) == 2


def test_home_is_expanded(tmp_path, monkeypatch):
    fill(tmp_path / "pictures", "1.png", "2.png")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(Folder("~/pictures").open("train", None)) == 1


def test_nothing_is_written(tmp_path):
    root = fill(tmp_path / "root", "1.png", "2.png")
    before = sorted(pathlib.Path(root).rglob("*"))
    whole(root)
    assert sorted(pathlib.Path(root).rglob("*")) == before
