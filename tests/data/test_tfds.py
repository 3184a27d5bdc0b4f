"""Prepared TFDS sets: what is used of them, what is said without them, and no tensorflow."""

import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from written_data import noise, write_tfds

import diffjax.data
from diffjax import spec
from diffjax.data import epoch
from diffjax.data.bad import BadRecord
from diffjax.data.tfds import TFDS
from diffjax.errors import UserError


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    """One set with train alone, one with both splits, and one with images of no fixed size."""
    folder = tmp_path_factory.mktemp("tfds")
    write_tfds(folder)
    write_tfds(folder, name="both", splits=("train", "test", "validation"))
    write_tfds(folder, name="loose", shape=(None, None, 3), texts=["id"])
    return str(folder)


def refusal(split="train", image_size=None, **options):
    with pytest.raises(UserError) as caught:
        TFDS(**options).open(split, image_size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_reads_what_was_written(data_dir):
    batch = next(epoch(TFDS("tiny", data_dir).open("train", None), 30))
    rows = [index for index in range(30) if index % 10]
    numbers = [int(text.removeprefix("caption é ")) for text in batch["text"]]
    assert len(numbers) == len(rows)
    assert batch["label"].tolist() == [number % 3 for number in numbers]
    pixels = np.rint((batch["image"] + 1) * 127.5)
    np.testing.assert_array_equal(pixels, noise(30)[numbers])


def test_one_by_one_is_as_many_at_once(data_dir):
    records = TFDS("tiny", data_dir).open("test", 5)
    many = records.__getitems__([2, 0, 1])
    for row, index in zip(many, (2, 0, 1), strict=True):
        assert row.keys() == records[index].keys()
        assert all(np.array_equal(row[key], records[index][key]) for key in row)


def test_own_test_split_is_used(data_dir):
    for split, seed in (("train", 0), ("test", 1)):
        batch = next(epoch(TFDS("both", data_dir).open(split, None), 99))
        numbers = [int(text.removeprefix("caption é ")) for text in batch["text"]]
        pixels = np.rint((batch["image"] + 1) * 127.5)
        np.testing.assert_array_equal(pixels, noise(30, seed=seed)[numbers])
        assert sorted(numbers) == list(range(30))


def test_classes(data_dir):
    records = TFDS("tiny", data_dir).open("train", None)
    assert (records.num_classes, records.class_names) == (3, ("a", "b", "c"))


def test_a_class_that_would_be_held_out_whole_is_learnt(data_dir, tmp_path):
    """The second record that is held out of a set becomes the only one of its class."""

    def numbers(records):
        return [int(records[i]["text"].split()[-1]) for i in range(len(records))]

    first, rare, last = numbers(TFDS("tiny", data_dir).open("test", None))
    write_tfds(tmp_path, label=lambda index: 2 * (index == rare))
    train, test = (TFDS("tiny", str(tmp_path)).open(split, None) for split in ("train", "test"))
    assert numbers(test) == [first, last]
    assert sorted(numbers(train)) == [i for i in range(30) if i not in (first, last)]
    assert (train.contents.trained, train.contents.held_out) == ((27, 0, 1), (2, 0, 0))


def numbers(records):
    return sorted(int(records[i]["text"].split()[-1]) for i in range(len(records)))


@pytest.mark.parametrize("name", ["tiny", "both"])
@pytest.mark.parametrize(
    ("select", "keeps"),
    [
        ("kind=b", lambda i: i % 3 == 1),
        (" kind = a | c ", lambda i: i % 3 != 1),
        ("kind!=a", lambda i: i % 3 != 0),
        ("kind!=a,odd=false", lambda i: i % 3 != 0 and not i % 2),
        ("odd=true", lambda i: i % 2),
        ("odd!=1", lambda i: not i % 2),
        ("number=3|6|9", lambda i: i in (3, 6, 9)),
        ("id!=id é 7", lambda i: i != 7),
    ],
)
def test_select(data_dir, name, select, keeps):
    splits = [TFDS(name, data_dir, select=select).open(split, None) for split in ("train", "test")]
    kept = [i for i in range(30) if keeps(i)]
    found = list(map(numbers, splits))
    assert found == [kept, kept] if name == "both" else sorted(found[0] + found[1]) == kept
    for records in splits:
        assert records.contents == splits[0].contents
        assert records.contents.num_held_out == len(found[1])


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("kind=d", "select: no record of both has kind=d; kind is one of a, b, c"),
        ("number=30", "select: no record of both has number=30; number is one of 0, 1, 10, 11, "),
        ("odd=yes", "select: no record of both has odd=yes; odd is one of 0, 1, false, true"),
        ("style=a", "select: both has no feature 'style' to choose by; it has: caption, id, kind"),
        ("image=a", "select: both has no feature 'image' to choose by"),
        ("kind=a,kind=b", "select='kind=a,kind=b' leaves no record of both in the train split: "),
        *((text, "write 'feature=value', ") for text in ("kind", "kind=", "=a", "kind==a", "a,b")),
        *((text, "write 'feature=value', ") for text in ("kind=a|", "kind=a,", ",", "!=a")),
    ],
)
def test_what_cannot_be_selected(data_dir, select, message):
    assert message in refusal(name="both", data_dir=data_dir, select=select)


def test_records_of_one_text_are_held_out_together(tmp_path):
    """26 texts, each of one record or two."""
    write_tfds(tmp_path, words=lambda key, index: f"{'AB'[index % 2]}  {index % 13}".lower())
    train, test = (TFDS("tiny", str(tmp_path), label="").open(s, None) for s in ("train", "test"))
    texts = [{r[i]["text"] for i in range(len(r))} for r in (train, test)]
    assert not texts[0] & texts[1]
    assert len(train) + len(test) == 30
    assert len(texts[0] | texts[1]) == 26
    assert len(texts[1]) == 3
    assert test.contents.num_held_out == len(test)


def test_a_feature_family_says_what_is_held_out_together(tmp_path):
    write_tfds(
        tmp_path,
        texts=("caption", "family"),
        words=lambda key, index: f"{index}" if key == "caption" else f"{index % 11}",
    )
    train, test = (TFDS("tiny", str(tmp_path), label="").open(s, None) for s in ("train", "test"))
    kinds = [{n % 11 for n in numbers(records)} for records in (train, test)]
    assert not kinds[0] & kinds[1]
    assert sorted(kinds[0] | kinds[1]) == list(range(11))
    assert len(kinds[1]) == 2


def test_one_text_alone_leaves_nothing_to_test_on(tmp_path):
    write_tfds(tmp_path, words=lambda key, index: "a dog")
    assert len(TFDS("tiny", str(tmp_path)).open("train", None)) == 30
    message = refusal("test", name="tiny", data_dir=str(tmp_path))
    assert message.startswith("tiny has too few families of captions to leave one for the test")


def test_texts_that_are_not_utf8_are_bad_records(tmp_path):
    write_tfds(tmp_path, words=lambda key, index: b"caf\xe9 %d" % index)
    records = TFDS("tiny", str(tmp_path), label="").open("train", None)
    for read in (lambda: records[0], lambda: records.__getitems__([0, 1])):
        with pytest.raises(BadRecord, match="the text of record 1 of tiny is not UTF-8"):
            read()


def test_a_damaged_record_stays_in_a_selection(data_dir, monkeypatch):
    """So that it is named and counted when it is met."""
    records = TFDS("both", data_dir, select="kind=a").open("train", None)
    kind = type(records.source)
    plain = kind.__getitem__

    def damaged(self, number):
        if number == 4:
            raise RuntimeError("of the reader")
        return plain(self, number)

    monkeypatch.setattr(kind, "__getitem__", damaged)
    monkeypatch.setattr(kind, "__getitems__", lambda self, many: [self[n] for n in many])
    again = TFDS("both", data_dir, select="kind=a").open("train", None)
    assert set(again.indices) == {*records.indices, 4}
    with pytest.raises(BadRecord, match=r"cannot read record 4 of both \(of the reader\)"):
        again[list(again.indices).index(4)]


def test_features_can_be_named(data_dir):
    records = TFDS("tiny", data_dir, image="image", label="kind", text="id").open("train", None)
    assert records[0]["text"].startswith("id é ")


def test_a_text_of_another_name_is_no_caption(data_dir):
    assert set(TFDS("loose", data_dir).open("train", 9)[0]) == {"image", "label"}


def test_images_of_no_fixed_size_need_one(data_dir):
    assert "images of loose differ in size: give an image_size" in refusal(
        name="loose", data_dir=data_dir
    )
    assert TFDS("loose", data_dir).open("train", 9)[0]["image"].shape == (9, 9, 3)


def test_folder_from_option_default_or_environment(data_dir, monkeypatch, tmp_path):
    built = spec.build("tfds(name='tiny')", diffjax.data, defaults={"data_dir": data_dir})
    assert built == TFDS("tiny", data_dir)
    monkeypatch.setenv("TFDS_DATA_DIR", data_dir)
    assert len(TFDS("tiny").open("train", None)) == 27
    assert f"in '{tmp_path}'" in refusal(name="tiny", data_dir=str(tmp_path))
    monkeypatch.delenv("TFDS_DATA_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert f"in '{tmp_path}/tensorflow_datasets'" in refusal(name="tiny")


@pytest.mark.parametrize("name", ["tinny", "TINNY", "tiny:3.0.0", "tiny/x", "", "a:b:c", "../x"])
def test_missing_sets(data_dir, name):
    message = refusal(name=name, data_dir=data_dir)
    assert f"no data set {name!r} in {data_dir!r}" in message
    assert "prepared there: both:1.0.0, loose:1.0.0, tiny:1.0.0" in message
    assert f"tfds build {name} --file_format=array_record --data_dir={data_dir}" in message
    assert ("(did you mean 'tiny'?)" in message) == ("ti" in name.lower())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": "id"}, "tiny has no ClassLabel feature 'id' for label; it has: kind"),
        ({"text": "words"}, "no Text feature 'words' for text; it has: .*caption"),
        ({"image": "photo"}, "no Image feature 'photo' for image; it has: image"),
    ],
)
def test_wrong_features(data_dir, options, message):
    with pytest.raises(UserError, match=message):
        TFDS("tiny", data_dir, **options).open("train", None)


def test_format_that_needs_tensorflow(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "copy")
    info = tmp_path / "copy" / "tiny" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    message = refusal(name="tiny", data_dir=str(tmp_path / "copy"))
    assert "only tensorflow reads" in message
    assert "--file_format=array_record" in message


@pytest.fixture
def copy(data_dir, tmp_path):
    """The folder of a set that may be damaged; a copy of `data_dir` is two above it."""
    shutil.copytree(data_dir, tmp_path / "copy")
    return tmp_path / "copy" / "tiny" / "1.0.0"


def damaged(copy):
    return refusal(name="tiny", data_dir=str(copy.parent.parent))


@pytest.mark.parametrize(
    ("keep", "fault"),
    [
        (None, "no such file"),
        (0, "at least 64KB"),
        (1000, "at least 64KB"),
        (70_000, "."),
        (-1, "Riegeli"),
        (-500, "Riegeli"),
    ],
)
def test_files_cut_short_or_missing_are_found_on_opening(copy, keep, fault):
    (shard,) = copy.glob("*array_record-*")
    if keep is None:
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:keep])
    message = damaged(copy)
    assert re.search(rf"cannot read tiny \('{shard}': .*{fault}.*\): prepare it again$", message)


def test_a_file_of_another_split_is_found_on_opening(data_dir, copy):
    (shard,) = copy.glob("*array_record-*")
    (other,) = (copy.parent.parent / "loose" / "1.0.0").glob("*array_record-*")
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace('"30"', '"31"'))
    shutil.copy(other, shard)
    assert "30 records in place of 31" in damaged(copy)


NOT_JSON = {
    "nothing": b"",
    "cut": b'{"splits": [{"name": "tr',
    "a list": b"[]",
    "an object of nothing": b"{}",
    "no text": b"\xff\xfe\0",
    "wrong types": b'{"splits": 5, "featuresDict": 3}',
    "a pit": b"[" * 100_000,
}


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
@pytest.mark.parametrize("kind", NOT_JSON)
def test_damaged_descriptions(copy, name, kind):
    (copy / name).write_bytes(NOT_JSON[kind])
    message = damaged(copy)
    assert message.startswith(
        f"cannot read dataset_info.json and features.json of tiny in '{copy.parent}' ("
    )
    assert message.endswith("): prepare it again")


def test_features_that_are_no_dictionary(copy):
    features = json.loads((copy / "features.json").read_text())
    image = features["featuresDict"]["features"]["image"]
    (copy / "features.json").write_text(json.dumps(image))
    assert "no dictionary of features" in damaged(copy)


def with_class_of_others(features, how):
    """features.json in the ways in which TFDS takes the name of a class from it."""
    if how == "nested":
        features["featuresDict"]["features"]["id"]["pythonClassName"] = "trap.Feature"
    elif how == "another spelling":
        features["featuresDict"]["features"]["id"].pop("pythonClassName")
        features["featuresDict"]["features"]["id"]["python_class_name"] = "trap.Feature"
    elif how == "old":
        features = {"type": "trap.Feature", "content": {}}
    elif how == "old, JSON in JSON":
        nested = json.dumps({"features": {"x": {"pythonClassName": "trap.Feature"}}})
        kind = features["pythonClassName"]
        features = {"type": kind, "content": nested, "proto_cls": "tensorflow_datasets.Feature"}
    else:
        features["pythonClassName"] = "trap.Feature"
    return features


@pytest.mark.parametrize(
    "how", ["on top", "nested", "another spelling", "old", "old, JSON in JSON"]
)
def test_no_module_is_imported_that_the_files_name(copy, how, monkeypatch):
    """TFDS imports the module of a feature's class, from the working folder too."""
    (copy / "trap.py").write_text("raise SystemExit('the trap was run')")
    monkeypatch.syspath_prepend(str(copy))
    info = copy / "dataset_info.json"
    info.write_text(info.read_text().replace('"written_data"', '"trap"'))
    assert '"trap"' in info.read_text()
    assert len(TFDS("tiny", str(copy.parent.parent)).open("train", None)) == 27
    features = with_class_of_others(json.loads((copy / "features.json").read_text()), how)
    (copy / "features.json").write_text(json.dumps(features))
    message = damaged(copy)
    assert "features.json' has features of 'trap.Feature': only those of TFDS itself" in message


def test_images_without_a_class(tmp_path):
    """-1 would count from the end: as a label it is no class, and without labels no matter."""
    write_tfds(tmp_path, label=lambda index: -1)
    options = {"name": "tiny", "data_dir": str(tmp_path)}
    with pytest.raises(UserError) as caught:
        next(epoch(TFDS(**options).open("train", None), 5))
    assert str(caught.value).startswith(
        "record 1 of tiny has the label -1, and its classes are 0 to 2: pass label='' in the spec "
        "to use the images without labels"
    )
    records = TFDS(**options, label="", text="").open("train", None)
    assert records.num_classes is None
    assert set(next(epoch(records, 27))) == {"image"}
    assert "no Image feature '' for image" in refusal(**options, image="")


@pytest.mark.parametrize("mode", ["L", "CMYK", "P", "RGBA"])
def test_images_of_any_mode(tmp_path, mode):
    """Encoded as others encoded them: TFDS keeps the bytes of files as they are."""

    def encoded(_):
        file = io.BytesIO()
        picture = Image.new("RGB", (12, 12), (204, 204, 204)).convert(mode)
        picture.save(file, "JPEG" if mode == "CMYK" else "PNG")
        return file.getvalue()

    write_tfds(tmp_path, spoil=dict.fromkeys(range(30), encoded))
    batch = next(epoch(TFDS("tiny", str(tmp_path)).open("train", None), 5))
    np.testing.assert_allclose(batch["image"], 204 / 127.5 - 1, atol=0.02)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_among_the_images_is_refused_and_never_skipped(tmp_path, monkeypatch):
    write_tfds(tmp_path)
    records = TFDS("tiny", str(tmp_path)).open("train", None, 9)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(
        UserError, match=r"record 1 of tiny \(.*bomb.*\): prepare it again$"
    ) as caught:
        records.__getitems__([0, 1])
    assert not isinstance(caught.value, BadRecord)


@pytest.mark.parametrize("environment", [False, True])
def test_buckets_are_refused(monkeypatch, environment):
    """The reader of ArrayRecord files knows no buckets, and pathlib would make it gs:/."""
    monkeypatch.setenv("TFDS_DATA_DIR", "gs://bucket/data")
    message = refusal(name="cifar10", data_dir=None if environment else "gs://bucket/data")
    assert message == (
        "data_dir='gs://bucket/data' is not on this machine: copy it to a disk, or mount the "
        "bucket with gcsfuse, and give that folder"
    )


def test_neither_tensorflow_nor_torch_is_imported(specs, tmp_path):
    """Where they are installed: a stand-in for each ends the program that imports it."""
    for module in ("tensorflow", "torch"):
        (tmp_path / module).mkdir()
        code = f"raise SystemExit('{module} was imported')"
        (tmp_path / module / "__init__.py").write_text(code)
    code = f"""
import sys
import diffjax.data
from diffjax import spec
from diffjax.data import batches, epoch
spec.names(diffjax.data)
for text in {list(specs.values())!r}:
    assert "tensorflow_datasets" not in sys.modules, text
    records = spec.build(text, diffjax.data).open("train", 8)
    next(batches(records, 8, seed=0)), next(epoch(records, 8))
assert text.startswith("tfds"), text
assert not {{"tensorflow", "torch"}} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_real_captions(real_data):
    """The set's own counts by style, and no name in both of its splits."""

    def opened(split, select):
        return TFDS("emoji4", str(real_data / "tfds"), select=select).open(split, 8)

    select = "style!=twemoji|openmoji|fluent,skin_variant=false"
    train, test = (opened(split, select) for split in ("train", "test"))
    names = [{r[i]["text"] for i in range(len(r))} for r in (train, test)]
    assert not names[0] & names[1]
    assert len(names[0]) == 1687
    assert len(names[1]) == len(test) == train.contents.num_held_out == 223


def test_real_sets(real_data):
    folder = str(real_data / "tfds")
    cifar10 = TFDS("cifar10", folder)
    assert [len(cifar10.open(split, None)) for split in ("train", "test")] == [50000, 10000]
    assert cifar10.open("train", None).class_names[0] == "airplane"
    emoji = TFDS("noto_emoji64", folder)
    train, test = (emoji.open(split, None) for split in ("train", "test"))
    assert (len(train), len(test)) == (3408, 378)
    assert train.image_shape == (64, 64, 3)
    assert train.num_classes == 10  # the category, its only class label
    assert not {train[index]["text"] for index in range(200)} & {
        test[index]["text"] for index in range(200)
    }
