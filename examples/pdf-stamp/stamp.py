"""Stamps a line of text on every page of a PDF: across the page, or at its top or bottom."""

import math
import zlib

from pdf import DAMAGE, Document, Name, PDFError, Ref, Stream

# Widths of Helvetica Bold's characters from space to tilde, in thousandths of its size.
WIDTHS = (
    278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 333, 333, 584, 584, 584, 611, 975, 722, 722, 722, 722, 667, 611, 778, 722, 278, 556, 722, 611, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 333, 278, 333, 584, 556, 333, 556, 611, 556, 611, 556, 333, 611,
    611, 278, 278, 556, 278, 889, 611, 611, 611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389, 280, 389, 584,
)
CAP_HEIGHT = 0.718
MARGIN = 24  # points
POSITIONS = ("diagonal", "top", "bottom")


class Style:
    """What a stamp looks like. Size is in points; None: as large as fits, for diagonal stamps."""

    def __init__(self, position="diagonal", size=None, colour=(0.8, 0.1, 0.1), opacity=0.3):
        if position not in POSITIONS:
            raise ValueError("position is one of %s" % ", ".join(POSITIONS))
        if size is not None and not 1 <= size <= 1000:
            raise ValueError("size is between 1 and 1000 points")
        if not 0 < opacity <= 1:
            raise ValueError("opacity is above 0, and at most 1")
        self.position, self.size, self.colour, self.opacity = position, size, colour, opacity


def stamp(data, text, style):
    """Returns the PDF with text on every page, and the number of its pages. PDFError: it cannot be stamped."""
    encoded = text.encode("cp1252", "replace")
    if not encoded.strip() or len(encoded) > 200 or min(encoded) < 32:
        raise ValueError("text is one line of 1 to 200 characters")
    document = Document(data)
    pages = document.pages()
    if not pages:
        raise PDFError("the file has no pages")
    try:
        return document.append(_objects(document, pages, encoded, style)), len(pages)
    except DAMAGE:
        raise PDFError("the file is damaged: a page cannot be read")


def _objects(document, pages, encoded, style):
    """Returns the objects that are new, and the pages as they become, by number."""
    free = max(document.places) + 1
    font, state, before = Ref((free, 0)), Ref((free + 1, 0)), Ref((free + 2, 0))
    objects = {
        font[0]: {
            "Type": Name("Font"), "Subtype": Name("Type1"), "BaseFont": Name("Helvetica-Bold"),
            "Encoding": Name("WinAnsiEncoding"),
        },
        state[0]: {"Type": Name("ExtGState"), "ca": float(style.opacity)},
        before[0]: Stream({}, b"q"),  # what the page itself draws must leave nothing behind
    }
    after = {}  # content stream by what it depends on
    for reference, page in pages:
        resources = dict(document.resolve(page.get("Resources")) or {})
        names = {}
        for kind, own in (("Font", font), ("ExtGState", state)):
            entries = dict(document.resolve(resources.get(kind)) or {})
            names[kind] = _unused(entries)
            entries[names[kind]] = own
            resources[kind] = entries
        key = (_box(document, page), _rotation(document, page), names["Font"], names["ExtGState"])
        if key not in after:
            after[key] = Ref((free + 3 + len(after), 0))
            content = b"\nQ\n" + _content(encoded, style, *key)
            objects[after[key][0]] = Stream({"Filter": Name("FlateDecode")}, zlib.compress(content))
        contents = page.get("Contents")
        old = document.resolve(contents)
        old = old if isinstance(old, list) else [contents] if old is not None else []
        objects[reference[0]] = dict(page, Resources=resources, Contents=[before] + old + [after[key]])
    return objects


def _unused(entries):
    """Returns a resource's name that the page does not use yet."""
    number = 0
    while "Stamp%d" % number in entries:
        number += 1
    return Name("Stamp%d" % number)


def _box(document, page):
    """Returns what of the page is seen: left, bottom, width, height."""
    for name in ("CropBox", "MediaBox"):
        box = document.resolve(page.get(name))
        if isinstance(box, list) and len(box) == 4:
            x0, y0, x1, y1 = (float(document.resolve(side)) for side in box)
            if x0 != x1 and y0 != y1:
                return min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)
    return 0.0, 0.0, 612.0, 792.0


def _rotation(document, page):
    rotation = document.resolve(page.get("Rotate"))
    return rotation % 360 // 90 * 90 if isinstance(rotation, int) else 0


def _content(encoded, style, box, rotation, font, state):
    """Writes the drawing operators of a stamp, upright as the page is seen."""
    left, bottom, width, height = box
    turn = {
        0: (1, 0, 0, 1, left, bottom),
        90: (0, 1, -1, 0, left + width, bottom),
        180: (-1, 0, 0, -1, left + width, bottom + height),
        270: (0, -1, 1, 0, left, bottom + height),
    }[rotation]
    if rotation in (90, 270):
        width, height = height, width
    advance = sum(WIDTHS[c - 32] if c < 127 else 556 for c in encoded) / 1000
    if style.position == "diagonal":
        angle = math.atan2(height, width)
        # The length of the page's diagonal, less what the text's own height takes off at both ends.
        fits = 0.8 * math.hypot(width, height) / (advance + CAP_HEIGHT)
        size = style.size or min(fits, 0.3 * min(width, height))
        x = width / 2 - math.cos(angle) * advance * size / 2 + math.sin(angle) * CAP_HEIGHT * size / 2
        y = height / 2 - math.sin(angle) * advance * size / 2 - math.cos(angle) * CAP_HEIGHT * size / 2
    else:
        angle = 0
        size = style.size or max(4, min(12, (width - 2 * MARGIN) / advance))
        x = (width - advance * size) / 2
        y = MARGIN if style.position == "bottom" else height - MARGIN - CAP_HEIGHT * size
    cosine, sine = math.cos(angle), math.sin(angle)
    return b"q %s cm /%s gs %s rg BT /%s %s Tf %s Tm <%s> Tj ET Q\n" % (
        _numbers(*turn), state.encode(), _numbers(*style.colour), font.encode(), _numbers(size),
        _numbers(cosine, sine, -sine, cosine, x, y), encoded.hex().encode(),
    )


def _numbers(*values):
    return b" ".join((b"%.4f" % value).rstrip(b"0").rstrip(b".") for value in values)
