"""Stamps a text on every page of a PDF.

    {"pdf": BASE64, "text": "COPY"}  ->  {"pdf": BASE64, "pages": 3}

Optional: "position" (diagonal, top or bottom), "size" in points, "colour" as "#rrggbb", "opacity" from 0 to 1.
"""

import base64
import re

from stamp import Style, stamp


def handler(event, context):
    for name in ("pdf", "text"):
        if not isinstance(event.get(name), str):
            raise ValueError('the event needs "pdf", a PDF file in base64, and "text", what to stamp on it')
    try:
        data = base64.b64decode(event["pdf"], validate=True)
    except ValueError:
        raise ValueError('"pdf" is not base64')
    stamped, pages = stamp(data, event["text"], style(event))
    print("stamped %d pages, %d bytes" % (pages, len(data)))
    return {"pdf": base64.b64encode(stamped).decode(), "pages": pages}


def style(event):
    options = {name: event[name] for name in ("position", "size", "opacity") if name in event}
    if "colour" in event:
        match = re.fullmatch("#([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", str(event["colour"]))
        if not match:
            raise ValueError('"colour" is written "#rrggbb"')
        options["colour"] = tuple(int(part, 16) / 255 for part in match.groups())
    return Style(**options)
