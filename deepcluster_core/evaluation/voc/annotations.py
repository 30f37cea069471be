"""Annotations of Pascal VOC: XML -> the objects of a picture."""

import codecs
import re
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

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
        return tuple(_object(found) for found in _parse(data).findall("object"))
    except ElementTree.ParseError as error:
        raise ValueError(str(error)) from error


def _parse(data: bytes) -> ElementTree.Element:
    text = _text(data)
    # Nested entities can expand without limit ("billion laughs").
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it defines a document type, as no annotation of VOC does")
    return ElementTree.fromstring(text)  # noqa: S314  no entities, see above


def _text(data: bytes) -> str:
    """Return the text of an annotation, whose declared encoding is not always the actual one.

    A byte order mark takes precedence over the declaration, and UTF-8 comes last. If all of these
    fail, the text is decoded as Latin-1, which accepts any byte. This is safe, because the class
    names and numbers are ASCII.
    """
    declared = _DECLARED.match(data)
    encodings = [declared[1].decode("ascii")] if declared else []
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encodings.insert(0, "utf-16")
    elif data.startswith(codecs.BOM_UTF8):
        encodings.insert(0, "utf-8-sig")
    for encoding in (*encodings, "utf-8"):
        try:
            text = data.decode(encoding)
        except (LookupError, ValueError):
            continue
        if text.lstrip().startswith("<"):
            return text.lstrip()
    return data.decode("latin-1").lstrip()


def _object(found: ElementTree.Element) -> VocObject:
    name = (found.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    sides = [found.findtext(f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")]
    try:
        left, top, right, bottom = (float(side or "") for side in sides)
    except ValueError:
        raise ValueError(f"the {name} has no box of four numbers, but {sides}") from None
    if not (1 <= left <= right < np.inf and 1 <= top <= bottom < np.inf):
        raise ValueError(f"the {name} has an impossible box, {sides}")
    difficult = (found.findtext("difficult") or "0").strip()
    return VocObject(name, (left - 1, top - 1, right, bottom), difficult == "1")
