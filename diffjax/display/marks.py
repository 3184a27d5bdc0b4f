"""The machine-readable mark of what made an image, in its XMP metadata.

IPTC's properties say that an image is synthetic (Photo Metadata Standard 2025.1): a reader of files
finds them without this library.
"""

import contextlib
import contextvars
import dataclasses
import importlib.metadata
import os
import re
from collections.abc import Iterator
from typing import Literal
from xml.etree import ElementTree
from xml.sax.saxutils import quoteattr

from PIL import Image, PngImagePlugin

from diffjax.errors import UserError

Drawn = Literal["all", "part", "none"]
"""How much of a picture a model has drawn."""

# IPTC's terms for a picture that is drawn, and for one in which drawn parts stand beside others.
SOURCES: dict[Drawn, str] = {
    "all": "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia",
    "part": "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia",
}
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
XMP = "http://ns.adobe.com/xap/1.0/"
OWN = "tag:diffjax,2026:mark/"
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
PNG_KEY = "XML:com.adobe.xmp"  # of the chunk of text that holds XMP


@dataclasses.dataclass(frozen=True)
class Mark:
    """What made a picture. run: a digest of what the model is. seed: of its noise, if known."""

    run: str
    seed: int | None = None
    drawn: Drawn = "all"

    def xmp(self) -> str:
        """The packet of XMP (ISO 16684-1)."""
        values = {
            "xmp:CreatorTool": software(),
            "Iptc4xmpExt:AISystemUsed": software() if self.drawn in SOURCES else None,
            "Iptc4xmpExt:DigitalSourceType": SOURCES.get(self.drawn),
            "diffjax:Run": self.run,
            "diffjax:Seed": None if self.seed is None else str(self.seed),
        }
        told = "".join(f" {n}={quoteattr(v)}" for n, v in values.items() if v is not None)
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
            f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}">'
            f'<rdf:Description rdf:about="" xmlns:xmp="{XMP}" xmlns:Iptc4xmpExt="{IPTC}"'
            f' xmlns:diffjax="{OWN}"{told}/></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
        )


_MARK: contextvars.ContextVar[Mark | None] = contextvars.ContextVar("_MARK", default=None)


@contextlib.contextmanager
def marked(mark: Mark | None) -> Iterator[None]:
    """Pictures that are written meanwhile carry the mark; None leaves it out."""
    token = _MARK.set(mark)
    try:
        yield
    finally:
        _MARK.reset(token)


def png_info(drawn: Drawn) -> PngImagePlugin.PngInfo | None:
    """The mark in force as a PNG's metadata, of a picture of which so much is drawn."""
    if (mark := _MARK.get()) is None:
        return None
    info = PngImagePlugin.PngInfo()
    info.add_itxt(PNG_KEY, dataclasses.replace(mark, drawn=drawn).xmp())
    return info


def read_mark(path: str | os.PathLike[str]) -> Mark | None:
    """The mark in the file of an image; None where it has none of diffjax.

    Raises UserError for a file that is no image.
    """
    try:
        with Image.open(path) as image:
            packet = image.info.get(PNG_KEY) or image.info.get("xmp") or ""
    except OSError as error:
        raise UserError(f"{path} cannot be read as an image: {error}") from error
    text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
    return _parsed(text)


def _parsed(packet: str) -> Mark | None:
    start = re.search(r"<x:xmpmeta.*</x:xmpmeta>", packet, re.DOTALL)
    if start is None:
        return None
    try:
        told = ElementTree.fromstring(start[0]).find(f".//{{{RDF}}}Description")
    except ElementTree.ParseError:
        return None
    run = None if told is None else told.get(f"{{{OWN}}}Run")
    if told is None or run is None:
        return None
    source = told.get(f"{{{IPTC}}}DigitalSourceType")
    drawn: Drawn = next((drawn for drawn, own in SOURCES.items() if own == source), "none")
    seed = re.fullmatch(r"[0-9]{1,20}", told.get(f"{{{OWN}}}Seed", ""))
    return Mark(run, int(seed[0]) if seed else None, drawn)


def software() -> str:
    """This library and its version."""
    try:
        return f"diffjax {importlib.metadata.version('diffjax')}"
    except importlib.metadata.PackageNotFoundError:
        return "diffjax"  # where it runs from its sources
