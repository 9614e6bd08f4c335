"""python3 -m unittest"""

import base64
import json
import os
import re
import unittest
import zlib

import app
from pdf import Document, Name, PDFError, Ref, Scanner, Stream, serialise

CONTENT = b"BT /F1 12 Tf 72 720 Td (original) Tj ET"


def build(pages=2, kind="table", rotate=0, box=(0, 0, 612, 792), contents="stream", tree="flat"):
    """Writes a PDF with cross-references of a kind: table, stream (with packed objects), or none."""
    objects = {
        1: {"Type": Name("Catalog"), "Pages": Ref((2, 0))},
        2: {"Type": Name("Pages"), "Kids": [], "Count": pages, "MediaBox": list(box), "Resources": Ref((3, 0))},
        3: {"Font": {"F1": Ref((4, 0))}},
        4: {"Type": Name("Font"), "Subtype": Name("Type1"), "BaseFont": Name("Odd#Name (1)")},
        5: Stream({"Filter": Name("FlateDecode")}, zlib.compress(CONTENT)),
    }
    for number in range(6, 6 + pages):
        page = {"Type": Name("Page"), "Parent": Ref((2, 0)), "Rotate": rotate}
        page.update({"stream": {"Contents": Ref((5, 0))}, "array": {"Contents": [Ref((5, 0)), Ref((5, 0))]}, "none": {}}[contents])
        objects[number] = page
        objects[2]["Kids"].append(Ref((number, 0)))
    if tree == "nested":
        objects[50] = {"Type": Name("Pages"), "Kids": objects[2]["Kids"], "Count": pages, "Parent": Ref((2, 0))}
        objects[2]["Kids"] = [Ref((50, 0))]
    out = bytearray(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")
    places = {}
    if kind == "stream":
        packed = {n: serialise(o) for n, o in objects.items() if not isinstance(o, Stream)}
        heads, bodies = b"", b""
        for index, (number, body) in enumerate(packed.items()):
            heads += b"%d %d " % (number, len(bodies))
            bodies += body + b" "
            places[number] = (2, 90, index)
            objects.pop(number)
        objects[90] = Stream({"Type": Name("ObjStm"), "N": len(packed), "First": len(heads), "Filter": Name("FlateDecode")}, zlib.compress(heads + bodies))
    for number, value in objects.items():
        places[number] = (1, len(out), 0)
        out += b"%d 0 obj\n%s\nendobj\n" % (number, serialise(value))
    start = len(out)
    if kind == "table":
        out += b"xref\n0 1\n0000000000 65535 f \n"
        for number, place in places.items():
            out += b"%d 1\n%010d 00000 n \n" % (number, place[1])
        out += b"trailer\n" + serialise({"Size": max(places) + 1, "Root": Ref((1, 0))}) + b"\n"
    if kind == "stream":
        places[91] = (1, start, 0)
        rows, up, index = b"", bytes(7), []
        for number, place in sorted(places.items()):
            row = bytes([place[0]]) + place[1].to_bytes(4, "big") + place[2].to_bytes(2, "big")
            rows += b"\x02" + bytes((a - b) & 255 for a, b in zip(row, up))  # predicted from the row above
            up = row
            index += [number, 1]
        entries = {
            "Type": Name("XRef"), "Size": 92, "Root": Ref((1, 0)), "W": [1, 4, 2], "Index": index,
            "Filter": Name("FlateDecode"), "DecodeParms": {"Predictor": 12, "Columns": 7},
        }
        out += b"91 0 obj\n" + serialise(Stream(entries, zlib.compress(rows))) + b"\nendobj\n"
    return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def run(data, **options):
    result = app.handler(dict({"pdf": base64.b64encode(data).decode(), "text": "COPY"}, **options), None)
    return base64.b64decode(result["pdf"]), result["pages"]


def drawn(document, page):
    """Returns what a page draws, as text."""
    streams = document.resolve(page["Contents"])
    streams = streams if isinstance(streams, list) else [page["Contents"]]
    return b"\n".join(document.decode(document.resolve(stream)) for stream in streams)


class StampTest(unittest.TestCase):
    def check(self, original, stamped, pages, text=b"COPY"):
        self.assertTrue(stamped.startswith(original), "the original's bytes are changed")
        document = Document(stamped)
        self.assertFalse(document.rebuilt, "the cross-references cannot be read")
        self.assertEqual(len(document.pages()), pages)
        for _, page in document.pages():
            content = drawn(document, page)
            self.assertEqual(content.count(b"<%s> Tj" % text.hex().encode()), 1)
            self.assertEqual(len(re.findall(rb"\bq\b", content)), len(re.findall(rb"\bQ\b", content)))
            font, state = re.search(rb"/(\w+) gs .* /(\w+) [\d.]+ Tf [^<]*<%s>" % text.hex().encode(), content, re.S).groups()[::-1]
            resources = document.resolve(page["Resources"])
            self.assertEqual(document.resolve(resources["Font"][font.decode()])["BaseFont"], "Helvetica-Bold")
            self.assertIn("ca", document.resolve(resources["ExtGState"][state.decode()]))
            self.assertIn("F1", resources["Font"])
        return document

    def test_every_kind_of_file(self):
        for kind in ("table", "stream"):
            for contents in ("stream", "array", "none"):
                for tree in ("flat", "nested"):
                    with self.subTest(kind=kind, contents=contents, tree=tree):
                        original = build(kind=kind, contents=contents, tree=tree)
                        stamped, pages = run(original)
                        self.assertEqual(pages, 2)
                        document = self.check(original, stamped, 2)
                        _, page = document.pages()[0]
                        self.assertEqual(drawn(document, page).count(CONTENT), {"stream": 1, "array": 2, "none": 0}[contents])

    def test_stamping_twice_keeps_both(self):
        for kind in ("table", "stream"):
            once, _ = run(build(kind=kind))
            twice, _ = run(once, text="SECOND")
            document = self.check(once, twice, 2, b"SECOND")
            for _, page in document.pages():
                self.assertIn(b"COPY".hex().encode(), drawn(document, page))

    def test_damaged_references_are_rebuilt(self):
        for kind in ("table", "stream"):
            original = build(kind=kind)
            damaged = re.sub(rb"startxref\n\d+", b"startxref\n7", original)
            stamped, pages = run(damaged)
            self.assertEqual(pages, 2)
            self.check(damaged, stamped, 2)

    def test_where_the_stamp_is(self):
        """The middle of the text is the middle of the page, whichever way the page is turned."""
        for rotate in (0, 90, 180, 270, -90):
            for position in ("diagonal", "top", "bottom"):
                with self.subTest(rotate=rotate, position=position):
                    stamped, _ = run(build(rotate=rotate, box=(10, 20, 610, 820)), position=position)
                    document = Document(stamped)
                    content = drawn(document, document.pages()[0][1]).rpartition(b"\nQ\n")[2]
                    numbers = rb"((?:-?[\d.]+ ){6})"
                    turn = [float(n) for n in re.search(rb"q " + numbers + b"cm", content)[1].split()]
                    size = float(re.search(rb" ([\d.]+) Tf", content)[1])
                    text = [float(n) for n in re.search(numbers + b"Tm", content)[1].split()]
                    half = size * (722 + 778 + 667 + 667) / 2000
                    middle = [text[4] + half * text[0] - size * 0.359 * text[1], text[5] + half * text[1] + size * 0.359 * text[0]]
                    x = turn[0] * middle[0] + turn[2] * middle[1] + turn[4]
                    y = turn[1] * middle[0] + turn[3] * middle[1] + turn[5]
                    edge = 24 + size * 0.359
                    wanted = {"diagonal": (310, 420), "top": (310, 820 - edge), "bottom": (310, 20 + edge)}[position]
                    if position != "diagonal":
                        offset = (400 if rotate % 180 == 0 else 300) - edge
                        offset = offset if position == "top" else -offset
                        up = {0: (0, 1), 90: (-1, 0), 180: (0, -1), 270: (1, 0)}[rotate % 360]
                        wanted = (310 + up[0] * offset, 420 + up[1] * offset)
                    self.assertAlmostEqual(x, wanted[0], delta=0.1)
                    self.assertAlmostEqual(y, wanted[1], delta=0.1)

    def test_options(self):
        stamped, _ = run(build(), text="Größe €5", colour="#00ff80", size=20, opacity=1)
        document = self.check(build(), stamped, 2, "Größe €5".encode("cp1252"))
        content = drawn(document, document.pages()[0][1])
        self.assertIn(b"0 1 0.502 rg", content)
        self.assertIn(b" 20 Tf", content)

    def test_refusals(self):
        good = base64.b64encode(build()).decode()
        encrypted = build().replace(b"trailer\n<<", b"trailer\n<</Encrypt 4 0 R ")
        cases = [
            ({}, "needs"), ({"pdf": good}, "needs"), ({"pdf": "*", "text": "x"}, "not base64"),
            ({"pdf": base64.b64encode(b"hello").decode(), "text": "x"}, "not a PDF"),
            ({"pdf": base64.b64encode(b"%PDF-1.4 nothing").decode(), "text": "x"}, "damaged"),
            ({"pdf": base64.b64encode(encrypted).decode(), "text": "x"}, "encrypted"),
            ({"pdf": good, "text": ""}, "one line"), ({"pdf": good, "text": "a\nb"}, "one line"),
            ({"pdf": good, "text": "x", "position": "left"}, "position"), ({"pdf": good, "text": "x", "colour": "red"}, "colour"),
            ({"pdf": good, "text": "x", "opacity": 2}, "opacity"), ({"pdf": good, "text": "x", "size": 0}, "size"),
        ]
        for event, message in cases:
            with self.subTest(event=str(event)[:60]):
                with self.assertRaisesRegex(ValueError, message):
                    app.handler(event, None)

    def test_the_sample_event(self):
        with open(os.path.join(os.path.dirname(__file__), "event.json")) as file:
            event = json.load(file)
        original = base64.b64decode(event["pdf"])
        stamped, pages = run(original, **{key: event[key] for key in event if key != "pdf"})
        self.check(original, stamped, pages, event["text"].encode("cp1252"))


class DamageTest(unittest.TestCase):
    def test_cut_and_changed_files_end_in_an_answer(self):
        for kind in ("table", "stream"):
            data = build(kind=kind)
            for at in range(0, len(data), 7):
                for damaged in (data[:at], data[:at] + b"<<[(" + data[at + 4 :]):
                    try:
                        stamped, _ = run(damaged)
                        Document(stamped)
                    except ValueError:
                        pass


class SyntaxTest(unittest.TestCase):
    def test_objects(self):
        cases = {
            b"(a\\(b\\)(c)\\n\\101\\\r\nd)": b"a(b)(c)\nAd", b"<4 14>": b"A@", b"/A#20b": Name("A b"), b"-.5": -0.5, b"+3": 3,
            b"[1 0 R 2 0 3 R]": [Ref((1, 0)), 2, Ref((0, 3))], b"<</a[true null]/b<</c 1 2 R>>>>": {"a": [True, None], "b": {"c": Ref((1, 2))}},
            b"% comment\n 7": 7,
        }
        for text, want in cases.items():
            with self.subTest(text=text):
                got = Scanner(text).object()
                self.assertEqual(got, want)
                self.assertEqual(Scanner(serialise(got)).object(), want)
        for text in (b"", b"<</a", b"(a", b"<41", b"[1", b"word", b">>", b"<<1 2>>", b"[" * 100000):
            with self.subTest(text=text[:10]):
                with self.assertRaises(PDFError):
                    Scanner(text).object()


if __name__ == "__main__":
    unittest.main()
