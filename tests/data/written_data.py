"""Small data sets of every kind, written as files."""

import gzip
import io
import json
import struct
import tarfile
import threading

import numpy as np
import pytest
from PIL import Image

from diffjax.errors import UserError

SIDE = 12


def noise(count, height=SIDE, width=SIDE, channels=3, seed=0):
    """Distinct images, each with pixels of 0 and of 255."""
    images = np.random.default_rng(seed).integers(0, 256, (count, height, width, channels))
    images[:, 0, 0], images[:, -1, -1] = 0, 255
    return images.astype(np.uint8)


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_idx(path, array):
    data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    data += array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder, train=60, test=20, suffix=".gz", separator="-"):
    folder.mkdir(exist_ok=True)
    for prefix, count in (("train", train), ("t10k", test)):
        if count:
            images = noise(count, channels=1, seed=count)[..., 0]
            labels = (np.arange(count) % 10).astype(np.uint8)
            write_idx(folder / f"{prefix}-images{separator}idx3-ubyte{suffix}", images)
            write_idx(folder / f"{prefix}-labels{separator}idx1-ubyte{suffix}", labels)
    return folder


def write_things(folder, count=40):
    """As write_mnist, without a test split: squares of noise on black."""
    folder.mkdir()
    images = np.zeros((count, SIDE, SIDE), np.uint8)
    images[:, 3:9, 3:9] = noise(count, 6, 6, 1)[..., 0]
    write_idx(folder / "train-images-idx3-ubyte", images)
    write_idx(folder / "train-labels-idx1-ubyte", (np.arange(count) % 3).astype(np.uint8))
    return folder


def write_folder(folder, count=40):
    for index, image in enumerate(noise(count, seed=count)):
        path = folder / f"class{index % 3}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def write_captioned(folder, count=40):
    """Pictures with a text file beside each; two pictures share a caption."""
    folder.mkdir(parents=True)
    for index, image in enumerate(noise(count, seed=count)):
        Image.fromarray(image).save(folder / f"{index:03}.png")
        (folder / f"{index:03}.txt").write_text(f"Thing  {index // 2}\n", encoding="utf-8")
    return folder


def write_tar(path, members):
    """A tar file of pairs of a name and its content, or of a TarInfo and None."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            info = name if content is None else tarfile.TarInfo(name)
            if content is not None:
                info.size = len(content)
            tar.addfile(info, io.BytesIO(content or b""))
    return path


def write_webdataset(folder, count=40):
    """As write_captioned, in two tar files; the captions of the second are in JSON."""
    folder.mkdir(parents=True)
    pictures = [png(image) for image in noise(count, seed=count)]
    half = count // 2
    texts = [f"Thing  {index // 2}" for index in range(count)]
    first = [(f"{i:03}.png", data) for i, data in enumerate(pictures[:half])]
    first += [(f"{i:03}.txt", text.encode()) for i, text in enumerate(texts[:half])]
    write_tar(folder / "shard-2.tar", first)
    second = [
        (f"./{i:03}.json", json.dumps({"caption": texts[half + i]}).encode()) for i in range(half)
    ]
    second += [(f"./{i:03}.png", data) for i, data in enumerate(pictures[half:])]
    write_tar(folder / "shard-10.tar", second)
    return folder


def write_parquet(folder, count=40, group=7):
    """As write_captioned, as datasets writes it, in row groups of `group`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder.mkdir(parents=True)
    pictures = [{"bytes": png(i), "path": "none.png"} for i in noise(count, seed=count)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    texts = [f"Thing  {index // 2}" for index in range(count)]
    table = pa.table({"image": pa.array(pictures, kind), "text": texts})
    pq.write_table(table, folder / "data.parquet", row_group_size=group)
    return folder


def write_tfds(
    data_dir,
    name="tiny",
    splits=("train",),
    shape=(SIDE, SIDE, 3),
    texts=("caption", "id"),
    label=lambda index: index % 3,
    spoil=None,
    words=lambda key, index: f"{key} é {index}",
):
    """Labelled images, 30 a split, with texts; prepared as ArrayRecord without tensorflow.

    `number` is the index, and `odd` whether it is odd.

    `spoil` maps the numbers of images to what is to be made of their encoded bytes.
    """
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    def examples(self, seed):
        for index, image in enumerate(noise(30, seed=seed)):
            data = (spoil or {}).get(index, bytes)(png(image))
            features = {"image": io.BytesIO(data), "kind": label(index)}
            features |= {key: words(key, index) for key in texts}
            yield index, {**features, "odd": bool(index % 2), "number": index}

    def info(self):
        features = {
            "image": tfds.features.Image(shape=shape),
            "kind": tfds.features.ClassLabel(names=["a", "b", "c"]),
            **{key: tfds.features.Text() for key in texts},
            "odd": np.bool_,
            "number": np.int64,
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def split_generators(self, _):
        return {split: examples(self, seed) for seed, split in enumerate(splits)}

    members = {
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": split_generators,
        "_generate_examples": examples,
        "__module__": __name__,
        "name": name,
    }
    with registered.skip_registration():
        builder = type(name.title(), (tfds.core.GeneratorBasedBuilder,), members)
    builder(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return data_dir


def check_many_threads_read_the_same(records):
    """Eight threads at once read what one has read."""
    expected = [records[i]["image"] for i in range(len(records))]
    wrong = []

    def read(seed):
        for i in np.random.default_rng(seed).permutation(len(records)):
            if not np.array_equal(records[int(i)]["image"], expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=read, args=[seed]) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Opened:
    """A kind of data set of captioned pictures, opened; its texts; and why it is refused."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, path, split="train", image_size=None, max_bad_records=0, **options):
        return self.kind(str(path), **options).open(split, image_size, max_bad_records)

    def texts(self, path, split="train", **options):
        records = self(path, split, **options)
        return [records[index]["text"] for index in range(len(records))]

    def refusal(self, *args, **options):
        with pytest.raises(UserError) as caught:
            self(*args, **options)
        assert "\n" not in str(caught.value)
        return str(caught.value)
