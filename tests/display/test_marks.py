"""What a picture tells of its origin, as other programs read it too."""

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from diffjax.display.images import save_grid, save_picture
from diffjax.display.marks import SOURCES, Mark, marked, read_mark
from diffjax.errors import UserError

IMAGES = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1)
SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
SOURCE = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def described(path):
    """The properties in the XMP of an image, by their names in its schemas."""
    with Image.open(path) as image:
        packet = ElementTree.fromstring(image.info["XML:com.adobe.xmp"])
    (told,) = packet.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    return told.attrib


def test_a_drawn_grid_says_so_to_other_readers(tmp_path):
    with marked(Mark("abc", seed=7)):
        save_grid(tmp_path / "grid.png", IMAGES)
    found = described(tmp_path / "grid.png")
    assert found[SOURCE] == SYNTHETIC
    assert found["{http://ns.adobe.com/xap/1.0/}CreatorTool"].startswith("diffjax")
    assert read_mark(tmp_path / "grid.png") == Mark("abc", 7)


def test_pixels_are_those_of_an_unmarked_picture(tmp_path):
    save_grid(tmp_path / "plain.png", IMAGES)
    with marked(Mark("abc")):
        save_grid(tmp_path / "marked.png", IMAGES)
    assert read_mark(tmp_path / "plain.png") is None
    plain, own = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in ("plain", "marked"))
    np.testing.assert_array_equal(plain, own)


@pytest.mark.parametrize("drawn", ["all", "part", "none"])
def test_how_much_of_a_picture_is_drawn(tmp_path, drawn):
    with marked(Mark("abc")):
        save_picture(tmp_path / "sheet.png", Image.fromarray(IMAGES[0, ..., 0]), drawn)
    assert described(tmp_path / "sheet.png").get(SOURCE) == SOURCES.get(drawn)
    assert read_mark(tmp_path / "sheet.png") == Mark("abc", None, drawn)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"])), st.integers(0, 2**32))
def test_a_mark_is_read_as_it_was_written_from_png_and_jpeg(tmp_path_factory, run, seed):
    folder, mark = tmp_path_factory.getbasetemp(), Mark(run, seed)
    with marked(mark):
        save_picture(folder / "mark.png", Image.new("L", (2, 2)))
    Image.new("L", (2, 2)).save(folder / "mark.jpeg", xmp=mark.xmp().encode())
    assert read_mark(folder / "mark.png") == mark
    assert read_mark(folder / "mark.jpeg") == mark


@pytest.mark.parametrize(
    "packet",
    [
        "",
        "<x:xmpmeta",
        "<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>",
        "<x:xmpmeta></y></x:xmpmeta>",
    ],
)
def test_what_is_no_mark_of_ours(tmp_path, packet):
    path = tmp_path / "other.jpeg"
    Image.new("L", (2, 2)).save(path, xmp=packet.encode())
    assert read_mark(path) is None


def test_what_is_no_image(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(UserError, match="cannot be read as an image"):
        read_mark(tmp_path / "text.png")
