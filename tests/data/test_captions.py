"""The captioned images that come with the package."""

import numpy as np
import pytest

from diffjax.data import epoch
from diffjax.data.captions import Captions
from diffjax.data.contents import described
from diffjax.data.families import normalised
from diffjax.errors import UserError


def whole(split, **options):
    return next(epoch(Captions(**options).open(split, None), 10**6))


@pytest.mark.parametrize(
    ("style", "counts"), [(None, (3062, 408)), ("noto", (1683, 223)), ("fluent", (1379, 185))]
)
def test_sizes(style, counts):
    assert tuple(len(Captions(style).open(s, None)) for s in ("train", "test")) == counts


def test_no_name_and_no_picture_is_in_both_splits():
    train, test = whole("train"), whole("test")
    for key, form in (("text", normalised), ("image", np.ndarray.tobytes)):
        assert not set(map(form, train[key])) & set(map(form, test[key])), key


def test_names_fit_the_pictures():
    """By colour alone: a heart and a circle of a colour have this colour."""
    for style in ("noto", "fluent"):
        batches = [whole(split, style=style) for split in ("train", "test")]
        found = {
            text: image for b in batches for text, image in zip(b["text"], b["image"], strict=True)
        }
        for channel, colour in enumerate(("red", "green", "blue")):
            centre = found[f"large {colour} circle"][12:20, 12:20].mean((0, 1))
            assert centre.argmax() == channel, (style, colour)


def test_labels_are_categories():
    records = Captions().open("train", None)
    label = {records[i]["text"]: records[i]["label"] for i in range(len(records))}
    assert records.class_names[label["norway flag"]] == "Flags"
    assert records.class_names[label["artist palette"]] == "Activities"
    assert described(records).startswith(
        "3,062 images of 32x32 in colour; 9 classes: Activities (149), "
    )


def test_another_style_is_refused():
    with pytest.raises(UserError, match=r"style='twemoji'\): choose one of fluent, noto, or None"):
        Captions("twemoji")
