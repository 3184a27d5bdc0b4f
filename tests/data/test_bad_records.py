"""Damaged records are let pass up to a number, alike on every layout and after every resume."""

import itertools
import re
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from written_data import noise, write_tfds

from diffjax.data import batches, encoded, epoch
from diffjax.data.bad import BadRecord, Tally
from diffjax.data.contents import Contents
from diffjax.data.folder import Folder
from diffjax.data.skipping import Skipping
from diffjax.data.tfds import TFDS
from diffjax.errors import UserError


class Numbered:
    """Records that carry their index as label, some of them bad; and how often each was read."""

    image_shape = (1, 1, 1)
    class_names = ()
    contents = Contents()

    def __init__(self, count, bad=()):
        self.num_classes = count
        self.bad = set(bad)
        self.reads = []

    def __len__(self):
        return self.num_classes

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.bad:
            raise BadRecord(f"record {index} is damaged", "replace it")
        return {"image": np.zeros((1, 1, 1), np.float32), "label": np.int32(index)}


class Many(Numbered):
    """The same, read many at once, where the error names no record."""

    def __getitems__(self, indices):
        if self.bad & set(indices):
            raise BadRecord("one of many is damaged", "replace it")
        return [self[index] for index in indices]


class Broken(Numbered):
    def __getitem__(self, index):
        raise UserError(f"record {index} is a trap")


def labels(iterator, count):
    return [batch["label"].tolist() for batch in itertools.islice(iterator, count)]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


def stand_in(index, bad, count):
    """By definition: the next by index that is good, from the last to the first."""
    return next(i % count for i in range(index, index + count) if i % count not in bad)


@st.composite
def damaged_sets(draw):
    count = draw(st.integers(1, 25))
    bad = draw(st.sets(st.integers(0, count - 1), max_size=count - 1))
    return count, bad


@pytest.mark.parametrize("kind", [Numbered, Many])
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damaged_sets(), st.sampled_from([1, 2, 3, 4]), st.integers(1, 4), st.integers(0, 12))
def test_same_records_on_any_layout_and_after_resuming(
    kind, damaged, process_count, local, position
):
    count, bad = damaged
    allowed = len(bad) or 1
    batch_size, steps = local * process_count, 10
    whole = flat(labels(batches(Numbered(count), batch_size, 3), steps + position))
    expected = [stand_in(index, bad, count) for index in whole][position * batch_size :]
    streams = []
    for index in range(process_count):
        first = batches(kind(count, bad), batch_size, 3, index, process_count, allowed)
        labels(first, position)
        state = first.get_state()
        streams.append(labels(first, steps))
        resumed = batches(kind(count, bad), batch_size, 3, index, process_count, allowed)
        resumed.set_state(state)
        assert labels(resumed, steps) == streams[-1]
    joined = flat(flat(parts) for parts in zip(*streams, strict=True))
    assert joined == expected


@settings(max_examples=25)
@given(damaged_sets(), st.integers(1, 12))
def test_fails_at_one_more_than_allowed_and_not_before(damaged, batch_size):
    count, bad = damaged
    if len(bad) < 2:
        return
    steps = -(-count // batch_size)
    enough = batches(Numbered(count, bad), batch_size, 0, max_bad_records=len(bad))
    assert len(labels(enough, 3 * steps)) == 3 * steps
    with pytest.raises(UserError) as caught:
        labels(batches(Numbered(count, bad), batch_size, 0, max_bad_records=len(bad) - 1), steps)
    assert re.fullmatch(
        rf"record \d+ is damaged: bad record {len(bad)}, and max_bad_records={len(bad) - 1} "
        "allows no more; repair the data, or choose a larger number",
        str(caught.value),
    )


def test_without_leave_the_first_is_fatal():
    with pytest.raises(BadRecord, match=r"record 2 is damaged: replace it, or skip such records"):
        labels(batches(Numbered(5, {2}), 2, 0), 5)


def test_each_is_named_once(capsys):
    labels(batches(Many(12, {3, 4, 9}), 5, 0, max_bad_records=4), 40)
    lines = capsys.readouterr().err.splitlines()
    assert sorted(re.findall(r"record (\d+) is damaged", "\n".join(lines))) == ["3", "4", "9"]
    assert [line.partition(":")[0] for line in lines] == [
        f"skipping a bad record, {number} of at most 4" for number in (1, 2, 3)
    ]


def test_a_bad_record_is_not_read_again_and_again():
    records = Numbered(6, {2})
    labels(batches(records, 6, 0, max_bad_records=1), 50)
    assert records.reads.count(2) < 20  # as many as threads may meet it at the same time


def test_what_is_no_bad_record_is_never_skipped():
    with pytest.raises(UserError, match="is a trap"):
        labels(batches(Broken(5), 2, 0, max_bad_records=100), 1)


def test_nor_beside_a_bad_record():
    class Both(Many):
        def __getitem__(self, index):
            return Broken.__getitem__(self, index) if index == 3 else super().__getitem__(index)

    with pytest.raises(UserError, match="record 3 is a trap"):
        labels(batches(Both(4, {1}), 4, 0, max_bad_records=100), 1)


def test_no_good_record_at_all():
    with pytest.raises(UserError, match="none of the 4 records can be read: replace the data"):
        labels(batches(Numbered(4, range(4)), 2, 0, max_bad_records=9), 1)


def test_refuses_a_negative_number():
    with pytest.raises(UserError, match="max_bad_records is -1: choose 0 or more"):
        batches(Numbered(4), 2, 0, max_bad_records=-1)


def test_one_pass_in_order_skips_nothing():
    with pytest.raises(BadRecord, match="record 2"):
        list(epoch(Numbered(4, {2}), 1))


class Slow(set):
    """Leaves other threads time between asking and adding."""

    def __contains__(self, item):
        found = super().__contains__(item)
        time.sleep(1e-4)
        return found


def in_threads(count, function):
    threads = [threading.Thread(target=function) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_tally_counts_each_once_in_many_threads():
    """Threads that all meet the same records: each is given one line, and one number."""
    tally, lines = Tally(20), []
    tally._met = Slow()

    def meet():
        for index in range(20):
            lines.append(tally.add(index, BadRecord(f"record {index}", "replace it")))

    in_threads(8, meet)
    lines = [line for line in lines if line]
    assert sorted(int(line.rpartition(" ")[2]) for line in lines) == list(range(20))
    assert sorted(int(re.search(r"(\d+) of", line)[1]) for line in lines) == list(range(1, 21))
    with pytest.raises(UserError, match="bad record 21"):
        tally.add(20, BadRecord("record 20", "replace it"))


def test_two_threads_that_meet_it_together_name_it_once(capsys):
    together = threading.Barrier(2, timeout=20)

    class Together(Numbered):
        def __getitem__(self, index):
            if index in self.bad:
                together.wait()
            return super().__getitem__(index)

    read, rows = Skipping(Together(4, {1}), 3), []
    in_threads(2, lambda: rows.extend(read([1])))
    assert [int(row["label"]) for row in rows] == [2, 2]
    assert len(capsys.readouterr().err.splitlines()) == 1


def write_pictures(root, count=20, bad=()):
    for index in range(count):
        path = root / f"{'ab'[index % 2]}" / f"{index:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(1, 40, 40, 3, index)[0]).save(path)
        if index in bad:
            path.write_bytes(path.read_bytes()[:400] if index % 3 else b"not a picture")
    return str(root)


@pytest.mark.parametrize("decoded", [0, 1000])
def test_folder_with_damaged_files_opens_and_keeps_its_order(
    tmp_path, monkeypatch, capsys, decoded
):
    monkeypatch.setattr(encoded, "DECODED_ON_OPEN", decoded)
    sound = Folder(write_pictures(tmp_path / "sound")).open("train", 8)
    damaged = Folder(write_pictures(tmp_path / "damaged", bad={3, 6, 7})).open("train", 8, 3)
    assert len(damaged) == len(sound)
    assert damaged.class_names == sound.class_names
    names = [path.name for path in sound.paths]
    assert [path.name for path in damaged.paths] == names
    bad = {names.index(name) for name in ("03.jpg", "06.jpg", "07.jpg")}
    for index in set(range(len(names))) - bad:
        np.testing.assert_array_equal(damaged[index]["image"], sound[index]["image"])
    for ours, theirs in zip(
        itertools.islice(batches(damaged, 6, 0, max_bad_records=3), 12),
        itertools.islice(batches(Numbered(len(names)), 6, 0), 12),
        strict=True,
    ):
        wanted = [stand_in(int(label), bad, len(names)) for label in theirs["label"]]
        np.testing.assert_array_equal(ours["image"], [sound[i]["image"] for i in wanted])
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_folder_with_too_many_damaged_files_does_not_open(tmp_path):
    data = Folder(write_pictures(tmp_path, bad={3, 6, 7}))
    with pytest.raises(UserError, match=r"07\.jpg.*: bad record 3, and max_bad_records=2 allows"):
        data.open("train", 8, 2)
    with pytest.raises(BadRecord, match=r"06\.jpg.*: remove it, or skip such records"):
        data.open("train", 8)


def test_folder_without_a_sound_file_does_not_open(tmp_path):
    data = Folder(write_pictures(tmp_path, count=4, bad=range(4)))
    with pytest.raises(UserError, match="none of the 4 images can be read"):
        data.open("train", 8, 10)


def test_damaged_file_does_not_decide_on_colour_or_size(tmp_path):
    for index in range(4):
        Image.fromarray(noise(1, 30, 30, 1, index)[0, ..., 0]).save(tmp_path / f"{index}.png")
    picture = tmp_path / "4.png"
    Image.fromarray(noise(1, 50, 50, 3)[0]).save(picture)
    picture.write_bytes(picture.read_bytes()[:300])
    assert Folder(str(tmp_path)).open("train", None, 1).image_shape == (30, 30, 1)


def test_tfds_record_with_damaged_chunk(tmp_path, capsys):
    write_tfds(tmp_path)
    records = TFDS("tiny", str(tmp_path)).open("train", None)
    sound = [record["image"] for record in map(records.__getitem__, range(len(records)))]
    (shard,) = (tmp_path / "tiny" / "1.0.0").glob("*array_record-*")
    data = bytearray(shard.read_bytes())
    data[5000] ^= 0xFF
    shard.write_bytes(data)
    capsys.readouterr()  # TFDS shows its progress
    records = TFDS("tiny", str(tmp_path)).open("train", None, 1)
    stream = batches(records, 9, 0, max_bad_records=1)
    seen = {image.tobytes() for batch in itertools.islice(stream, 6) for image in batch["image"]}
    assert len(seen) == len(sound) - 1
    assert seen < {image.tobytes() for image in sound}
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(r"1 of at most 1: cannot read record \d+ of tiny \(Corrupted Riegeli", line)
    with pytest.raises(UserError, match=r"cannot read record \d+ of tiny .*: prepare it again, or"):
        list(epoch(records, 9))


def test_tfds_record_with_damaged_image(tmp_path, capsys):
    """Whole as a record, but its bytes are no whole picture."""
    write_tfds(tmp_path, spoil={4: lambda data: data[:-60], 7: lambda data: b"none"})
    capsys.readouterr()  # TFDS shows its progress
    records = TFDS("tiny", str(tmp_path)).open("train", None)
    sound = labels(batches(records, 9, 0, max_bad_records=2), 6)
    assert len(sound) == 6
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("cannot read the image of record" in line for line in lines)
    with pytest.raises(UserError, match=r"bad record 2, and max_bad_records=1 allows no more"):
        labels(batches(records, 27, 0, max_bad_records=1), 1)
