"""Annotations of Pascal VOC: XML -> the objects of a picture."""

import codecs
import re
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

_SIDES = ("bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax")
_DECLARED = re.compile(rb"""\A\s*<\?xml[^>]*encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(frozen=True)
class VocObject:
    """One object of a picture."""

    name: str
    """Name of its class."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom in pixels from 0; right and bottom are exclusive. The files count
    from 1 and include the last pixel."""
    difficult: bool
    """Whether finding the object counts neither for nor against a detector."""


def parse_objects(data: bytes) -> tuple[VocObject, ...]:
    """Return the objects of an annotation, in its order.

    Raises:
        ValueError: the annotation is damaged; the message is only the reason.
    """
    try:
        root = _parse(data)
        return tuple(_object(element) for element in root.findall("object"))
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error


def _parse(data: bytes) -> ElementTree.Element:
    text = _text(data)
    # Nested entities can expand without limit ("billion laughs").
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it defines a document type, which annotations of VOC never do")
    return ElementTree.fromstring(text)  # noqa: S314  no entities, see above


def _text(data: bytes) -> str:
    """Return the text of an annotation, whose declared encoding is not always the actual one.

    A byte order mark takes precedence over the declaration, and UTF-8 comes last. If all of these
    fail, the text is decoded as Latin-1, which accepts any byte. This is safe, because the class
    names and numbers are ASCII.
    """
    encodings: list[str] = []
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings.append("utf-16")
    elif data.startswith(codecs.BOM_UTF8):
        encodings.append("utf-8-sig")
    declared = _DECLARED.match(data)
    if declared is not None:
        encodings.append(declared[1].decode("ascii"))
    encodings.append("utf-8")
    for encoding in encodings:
        try:
            text = data.decode(encoding).lstrip()
        except (LookupError, ValueError):
            continue
        # A wrong encoding may accept the bytes, but does not give XML.
        if text.startswith("<"):
            return text
    return data.decode("latin-1").lstrip()


def _object(element: ElementTree.Element) -> VocObject:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    sides = [element.findtext(path) for path in _SIDES]
    try:
        left, top, right, bottom = (float(side or "") for side in sides)
    except ValueError:
        raise ValueError(f"the {name} has no box of four numbers, but {sides}") from None
    # All comparisons with NaN are false.
    has_width = 1 <= left <= right < np.inf
    has_height = 1 <= top <= bottom < np.inf
    if not (has_width and has_height):
        raise ValueError(f"the {name} has an impossible box, {sides}")
    difficult = (element.findtext("difficult") or "0").strip()
    # Count from 0, with exclusive ends.
    box = (left - 1, top - 1, right, bottom)
    return VocObject(name, box, difficult == "1")
