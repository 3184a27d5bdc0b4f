"""Credentials hold for the image that was signed, and for no other."""

import os

import numpy as np
import pytest
from PIL import Image

from diffjax.display.images import save_images
from diffjax.display.marks import Mark, marked, read_mark
from diffjax.errors import UserError
from diffjax.trust.credentials import sign, verify
from diffjax.trust.identity import Identity, make_ca

GENERATION = {"model": "garments", "checkpoint": "ab" * 32, "flags": ["--steps=3"], "seed": 7}
PIXELS = np.arange(64, dtype=np.uint8).reshape(8, 8)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keys") / "ca"
    make_ca(folder)
    return folder


@pytest.fixture(scope="module")
def signed(authority, tmp_path_factory):
    path = tmp_path_factory.mktemp("signed") / "image.png"
    Image.fromarray(PIXELS).save(path)
    sign(path, Identity.read(authority), GENERATION)
    return path


def changed(path, places, tmp_path, trust):
    """The states of a file after a bit of one of its bytes has changed, by the byte's place."""
    data, states = path.read_bytes(), {}
    for place in places:
        other = bytearray(data)
        other[place] ^= 1
        (tmp_path / path.name).write_bytes(other)
        try:
            states[place] = verify(tmp_path / path.name, trust).state
        except UserError:
            states[place] = "unreadable"
    return states


def manifest_chunk(data):
    """Where a PNG's chunk of credentials begins and ends."""
    name = data.index(b"caBX")
    return name - 4, name + 4 + int.from_bytes(data[name - 4 : name], "big") + 4


def test_who_vouches_decides_between_trusted_and_valid(signed, authority, tmp_path):
    make_ca(tmp_path / "other")
    assert verify(signed, authority / "root.pem").state == "trusted"
    for trust in (None, tmp_path / "other" / "root.pem"):
        verdict = verify(signed, trust)
        assert verdict.state == "valid"
        assert verdict.problems == ("signingCredential.untrusted",)


def test_the_manifest_says_what_made_the_image(signed):
    manifest = verify(signed).manifest
    assert verify(signed).generation == GENERATION
    (action,) = manifest["assertions"][0]["data"]["actions"]
    assert action["action"] == "c2pa.created"
    assert action["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    np.testing.assert_array_equal(np.asarray(Image.open(signed)), PIXELS)


def test_a_change_of_any_byte_of_the_image_is_found(signed, authority, tmp_path):
    data = signed.read_bytes()
    start, end = manifest_chunk(data)
    outside = [*range(start), *range(end, len(data))]
    states = changed(signed, outside, tmp_path, authority / "root.pem")
    assert set(states.values()) <= {"tampered", "unreadable"}


@pytest.mark.slow
def test_changes_that_are_not_found_leave_the_manifests_words(signed, authority, tmp_path):
    data, trust = signed.read_bytes(), authority / "root.pem"
    whole = verify(signed, trust)
    states = changed(signed, range(*manifest_chunk(data)), tmp_path, trust)
    unnoticed = [place for place, state in states.items() if state == "trusted"]
    assert set(states.values()) <= {"trusted", "tampered", "unreadable"}
    assert len(unnoticed) < len(states) / 2
    for place in unnoticed:
        other = bytearray(data)
        other[place] ^= 1
        (tmp_path / signed.name).write_bytes(other)
        verdict = verify(tmp_path / signed.name, trust)
        assert verdict.generation == whole.generation
        assert verdict.manifest["signature_info"] == whole.manifest["signature_info"]


def test_an_image_saved_again_has_no_credentials(signed, tmp_path):
    Image.open(signed).save(tmp_path / "again.png")
    assert verify(tmp_path / "again.png").state == "unsigned"


def test_credentials_moved_to_another_image(signed, authority, tmp_path):
    data = signed.read_bytes()
    start, end = manifest_chunk(data)
    Image.fromarray(PIXELS.T.copy()).save(tmp_path / "other.png")
    other = (tmp_path / "other.png").read_bytes()
    (tmp_path / "other.png").write_bytes(other[:start] + data[start:end] + other[start:])
    assert verify(tmp_path / "other.png", authority / "root.pem").state == "tampered"


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_formats(authority, tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(PIXELS).save(path)
    before = np.asarray(Image.open(path))
    sign(path, Identity.read(authority), GENERATION)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), before)
    assert verify(path, authority / "root.pem").state == "trusted"


def test_signing_keeps_the_mark_in_xmp(authority, tmp_path):
    with marked(Mark("abc", 7)):
        (path,) = save_images(tmp_path, PIXELS[None, ..., None])
    sign(path, Identity.read(authority), GENERATION)
    assert read_mark(path) == Mark("abc", 7)


def test_a_part_that_is_drawn(authority, tmp_path):
    Image.fromarray(PIXELS).save(tmp_path / "sheet.png")
    sign(tmp_path / "sheet.png", Identity.read(authority), GENERATION, drawn="part")
    (action,) = verify(tmp_path / "sheet.png").manifest["assertions"][0]["data"]["actions"]
    assert action["digitalSourceType"].endswith("/compositeWithTrainedAlgorithmicMedia")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image.gif", b"GIF89a", "of no kind that holds credentials"),
        ("image.png", b"no image", "cannot be read as an image"),
    ],
)
def test_files_that_cannot_be_verified(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        verify(tmp_path / name)


def test_anchors_that_are_none(signed, tmp_path):
    (tmp_path / "root.pem").write_text("nothing")
    with pytest.raises(UserError, match="no certificate in PEM"):
        verify(signed, tmp_path / "root.pem")
    with pytest.raises(UserError, match="cannot read the trust anchors"):
        verify(signed, tmp_path / "missing.pem")


def test_keys_are_for_their_owner_alone(authority):
    assert os.stat(authority / "key.pem").st_mode & 0o077 == 0
    assert os.stat(authority).st_mode & 0o077 == 0
    assert {path.name for path in authority.iterdir()} == {"root.pem", "chain.pem", "key.pem"}


def test_no_key_is_overwritten(authority):
    before = (authority / "key.pem").read_bytes()
    with pytest.raises(UserError, match="exists"):
        make_ca(authority)
    assert (authority / "key.pem").read_bytes() == before


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda ca, other: (ca / "key.pem").unlink(), "key.pem"),
        (lambda ca, other: (ca / "key.pem").write_text("nothing"), "not certificates and an open"),
        (lambda ca, other: (ca / "chain.pem").write_text("nothing"), "not certificates and an"),
        (
            lambda ca, other: (ca / "key.pem").write_bytes((other / "key.pem").read_bytes()),
            "is not the key of the first certificate",
        ),
    ],
)
def test_identities_that_cannot_sign(tmp_path, authority, harm, message):
    make_ca(tmp_path / "ca")
    harm(tmp_path / "ca", authority)
    with pytest.raises(UserError, match=message):
        Identity.read(tmp_path / "ca")
