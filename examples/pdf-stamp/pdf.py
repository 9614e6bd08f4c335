"""Reads the structure of PDF files, and appends to them. It knows what stamping needs: cross-reference tables and
streams, object streams, and the page tree. The bytes of the original are kept as they are; changes are appended behind
them, as the format intends."""

import re
import zlib

SPACE = b"\x00\t\n\x0c\r "
DELIMITERS = b"()<>[]{}/%"
REGULAR = re.compile(rb"[^\x00\t\n\x0c\r ()<>\[\]{}/%]*")
NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)")
REFERENCE = re.compile(rb"(\d+)\s+(\d+)\s+R(?![^\x00\t\n\x0c\r ()<>\[\]{}/%])")
OBJECT = re.compile(rb"\s*(\d+)\s+(\d+)\s+obj\b")
MAX_DEPTH = 200
MAX_STRUCTURE = 64 << 20  # bytes of an object stream, unpacked


class PDFError(ValueError):
    """The file is not a PDF that can be stamped. The text is for the person who sent it."""


# What reading a damaged file may end in.
DAMAGE = (PDFError, AttributeError, IndexError, KeyError, TypeError, ValueError, RecursionError, zlib.error)


class Name(str):
    """A PDF name, without its slash."""


class Ref(tuple):
    """A reference to an indirect object: (number, generation)."""


class Stream:
    """A dictionary with bytes, encoded as its Filter says."""

    def __init__(self, entries, raw):
        self.entries, self.raw = entries, raw


class Scanner:
    """Parses objects from a position on."""

    def __init__(self, data, position=0):
        self.data, self.position, self.depth = data, position, 0

    def skip(self):
        data, at = self.data, self.position
        while at < len(data):
            if data[at] in SPACE:
                at += 1
            elif data[at] == 0x25:  # a comment
                while at < len(data) and data[at] not in b"\r\n":
                    at += 1
            else:
                break
        self.position = at

    def take(self, token):
        self.skip()
        if not self.data.startswith(token, self.position):
            return False
        self.position += len(token)
        return True

    def object(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise PDFError("objects are nested too deeply")
        try:
            return self._object()
        finally:
            self.depth -= 1

    def _object(self):
        if self.take(b"<<"):
            return self._dictionary()
        if self.take(b"["):
            items = []
            while not self.take(b"]"):
                items.append(self.object())
            return items
        if self.take(b"/"):
            return self._name()
        if self.take(b"("):
            return self._string()
        if self.take(b"<"):
            return self._hex()
        reference = REFERENCE.match(self.data, self.position)
        if reference:
            self.position = reference.end()
            return Ref((int(reference[1]), int(reference[2])))
        number = NUMBER.match(self.data, self.position)
        if number:
            self.position = number.end()
            return float(number[0]) if b"." in number[0] else int(number[0])
        word = REGULAR.match(self.data, self.position)[0]
        if word not in (b"true", b"false", b"null"):
            raise PDFError("no object at byte %d" % self.position)
        self.position += len(word)
        return {b"true": True, b"false": False, b"null": None}[word]

    def _dictionary(self):
        entries = {}
        while not self.take(b">>"):
            if not self.take(b"/"):
                raise PDFError("no key at byte %d" % self.position)
            key = self._name()
            entries[key] = self.object()
        return entries

    def _name(self):
        word = REGULAR.match(self.data, self.position)[0]
        self.position += len(word)
        plain = re.sub(rb"#([0-9A-Fa-f]{2})", lambda m: bytes([int(m[1], 16)]), word)
        return Name(plain.decode("latin-1"))

    def _string(self):
        data, at, out, depth = self.data, self.position, bytearray(), 1
        escapes = {0x6E: 10, 0x72: 13, 0x74: 9, 0x62: 8, 0x66: 12}
        while at < len(data):
            c = data[at]
            at += 1
            if c == 0x5C:
                octal = re.compile(rb"[0-7]{1,3}").match(data, at)
                if octal:
                    out.append(int(octal[0], 8) & 255)
                    at = octal.end()
                elif data[at : at + 2] == b"\r\n":
                    at += 2
                else:
                    if data[at : at + 1] not in (b"\r", b"\n", b""):
                        out.append(escapes.get(data[at], data[at]))
                    at += 1
                continue
            depth += (c == 0x28) - (c == 0x29)
            if depth == 0:
                self.position = at
                return bytes(out)
            out.append(c)
        raise PDFError("a string does not end")

    def _hex(self):
        end = self.data.find(b">", self.position)
        if end < 0:
            raise PDFError("a string does not end")
        digits = re.sub(rb"[^0-9A-Fa-f]", b"", self.data[self.position : end])
        self.position = end + 1
        return bytes.fromhex((digits + b"0" * (len(digits) % 2)).decode())


class Document:
    """A PDF file. Objects are read when they are asked for."""

    def __init__(self, data):
        if b"%PDF-" not in data[:1024]:
            raise PDFError("this is not a PDF file")
        self.data = data
        self.places = {}  # object number: ("at", offset) or ("in", number of an object stream, index)
        self.trailer = {}
        self.start = 0  # where the newest cross-reference section is
        self.has_streams = False  # the file's cross-references are streams, so what is appended has to be one
        self.rebuilt = False
        self._objects = {}
        try:
            self._read_references()
            self.pages()
        except DAMAGE:
            self._rebuild()
        self._refuse_encrypted()

    def _refuse_encrypted(self):
        if "Encrypt" in self.trailer:
            raise PDFError("the file is encrypted: remove its password first")

    # --- Cross-references

    def _read_references(self):
        starts = re.findall(rb"startxref\s+(\d+)", self.data[-2048:])
        if not starts:
            raise PDFError("no startxref")
        self.start = int(starts[-1])
        waiting, seen = [self.start], set()
        while waiting:
            at = waiting.pop(0)
            if at in seen:
                continue
            seen.add(at)
            scanner = Scanner(self.data, at)
            trailer = self._read_table(scanner) if scanner.take(b"xref") else self._read_stream(at)
            for key, value in trailer.items():
                self.trailer.setdefault(key, value)
            waiting += [trailer[key] for key in ("XRefStm", "Prev") if isinstance(trailer.get(key), int)]
        if "Root" not in self.trailer:
            raise PDFError("no catalogue")

    def _read_table(self, scanner):
        section = re.compile(rb"\s*(\d+)\s+(\d+)")
        entry = re.compile(rb"\s*(\d{10})\s+(\d{5})\s+([nf])")
        while True:
            match = section.match(self.data, scanner.position)
            if not match:
                break
            scanner.position = match.end()
            for number in range(int(match[1]), int(match[1]) + int(match[2])):
                line = entry.match(self.data, scanner.position)
                if not line:
                    raise PDFError("a cross-reference is damaged")
                scanner.position = line.end()
                self.places.setdefault(number, ("at", int(line[1])) if line[3] == b"n" else None)
        if not scanner.take(b"trailer"):
            raise PDFError("no trailer")
        return scanner.object()

    def _read_stream(self, at):
        stream = self._object_at(at)
        if not isinstance(stream, Stream) or stream.entries.get("Type") != "XRef":
            raise PDFError("no cross-references at byte %d" % at)
        self.has_streams = True
        rows, widths = self.decode(stream), stream.entries["W"]
        index = stream.entries.get("Index") or [0, stream.entries["Size"]]
        position = 0
        for first, count in zip(index[::2], index[1::2]):
            for number in range(first, first + count):
                fields = []
                for width in widths:
                    fields.append(int.from_bytes(rows[position : position + width], "big"))
                    position += width
                kind = fields[0] if widths[0] else 1
                place = {0: None, 1: ("at", fields[1]), 2: ("in", fields[1], fields[2])}.get(kind)
                self.places.setdefault(number, place)
        return stream.entries

    def _rebuild(self):
        """Finds the objects of a file whose cross-references are damaged or missing."""
        self.rebuilt, self.has_streams = True, True
        self.places, self.trailer, self._objects = {}, {}, {}
        for match in re.finditer(rb"(?<![0-9])(\d+)\s+(\d+)\s+obj\b", self.data):
            self.places[int(match[1])] = ("at", match.start())
        for match in re.finditer(rb"\btrailer\b", self.data):
            try:
                self.trailer.update(Scanner(self.data, match.end()).object())
            except PDFError:
                pass
        self._refuse_encrypted()
        for number in list(self.places):
            try:
                found = self.get(number)
            except DAMAGE:
                continue
            entries = found.entries if isinstance(found, Stream) else found
            if not isinstance(entries, dict):
                continue
            if entries.get("Type") == "XRef" and "Root" in entries:
                self.trailer.update({key: entries[key] for key in ("Root", "Info", "ID", "Encrypt") if key in entries})
            if entries.get("Type") == "Catalog":
                self.trailer.setdefault("Root", Ref((number, 0)))
            if entries.get("Type") == "ObjStm":
                self._rebuild_stream(number, entries)
        self._refuse_encrypted()
        try:
            found = self.pages()
        except DAMAGE:
            found = []
        if not found:
            raise PDFError("the file is damaged: no pages are to be found in it")

    def _rebuild_stream(self, number, entries):
        try:
            for index in range(entries.get("N", 0)):
                inner, _ = self._in_stream(number, index)
                self.places.setdefault(inner, ("in", number, index))
        except DAMAGE:
            pass  # what came before the damage is kept

    # --- Objects

    def get(self, number):
        """Returns the indirect object of a number, None where there is none."""
        if number not in self._objects:
            place = self.places.get(number)
            if place is None:
                return None
            if place[0] == "at":
                self._objects[number] = self._object_at(place[1])
            else:
                self._objects[number] = self._in_stream(place[1], place[2])[1]
        return self._objects[number]

    def resolve(self, value):
        for _ in range(MAX_DEPTH):
            if not isinstance(value, Ref):
                return value
            value = self.get(value[0])
        raise PDFError("references go in a circle")

    def _object_at(self, offset):
        head = OBJECT.match(self.data, offset)
        if not head:
            raise PDFError("no object at byte %d" % offset)
        scanner = Scanner(self.data, head.end())
        value = scanner.object()
        if not isinstance(value, dict) or not scanner.take(b"stream"):
            return value
        begin = scanner.position
        begin += 2 if self.data.startswith(b"\r\n", begin) else 1
        length = self.resolve(value.get("Length"))
        if isinstance(length, int) and re.compile(rb"\s*endstream").match(self.data, begin + length):
            return Stream(value, self.data[begin : begin + length])
        end = self.data.find(b"endstream", begin)
        if end < 0:
            raise PDFError("a stream does not end")
        return Stream(value, re.sub(rb"\r?\n?\Z", b"", self.data[begin:end]))

    def _in_stream(self, number, index):
        stream = self.get(number)
        if not isinstance(stream, Stream):
            raise PDFError("object stream %d is missing" % number)
        data, first = self.decode(stream), self.resolve(stream.entries["First"])
        heads = [int(word) for word in data[:first].split()]
        return heads[2 * index], Scanner(data, first + heads[2 * index + 1]).object()

    def decode(self, stream):
        """Returns the content of a stream of the file's structure, which is plain or deflated."""
        filters, parameters = self.resolve(stream.entries.get("Filter")), self.resolve(stream.entries.get("DecodeParms"))
        filters = filters if isinstance(filters, list) else [filters] if filters else []
        parameters = parameters if isinstance(parameters, list) else [parameters]
        if not filters:
            return stream.raw
        if filters != ["FlateDecode"]:
            raise PDFError("the file's structure is packed in a way that is not supported: %s" % filters)
        data = zlib.decompressobj().decompress(stream.raw, MAX_STRUCTURE)
        parameters = self.resolve(parameters[0]) or {}
        if parameters.get("Predictor", 1) >= 10:
            return _undo_prediction(data, parameters.get("Columns", 1) * parameters.get("Colors", 1))
        return data

    # --- Pages

    def pages(self):
        """Returns the pages as (reference, dictionary); what a page inherits is filled in."""
        found, seen = [], set()

        def walk(reference, inherited):
            node = self.resolve(reference)
            if not isinstance(node, dict) or reference in seen:
                return
            seen.add(reference)
            names = ("Resources", "MediaBox", "CropBox", "Rotate")
            inherited = dict(inherited, **{key: node[key] for key in names if key in node})
            if "Kids" in node:
                for kid in self.resolve(node["Kids"]):
                    walk(kid, inherited)
            elif isinstance(reference, Ref):
                found.append((reference, dict(inherited, **node)))

        walk(self.resolve(self.trailer["Root"])["Pages"], {})
        return found

    # --- Writing

    def append(self, objects):
        """Returns the file with objects, by number, added or replaced."""
        out = bytearray(self.data)
        if not out.endswith(b"\n"):
            out += b"\n"
        places = {number: place for number, place in self.places.items() if place} if self.rebuilt else {}
        for number, value in sorted(objects.items()):
            places[number] = ("at", len(out))
            out += b"%d 0 obj\n%s\nendobj\n" % (number, serialise(value))
        trailer = {key: self.trailer[key] for key in ("Root", "Info", "ID") if key in self.trailer}
        if not self.rebuilt:
            trailer["Prev"] = self.start
        start = len(out)
        if self.has_streams:
            number = max(list(self.places) + list(places)) + 1
            places[number] = ("at", start)
            trailer["Size"] = number + 1
            out += b"%d 0 obj\n%s\nendobj\n" % (number, serialise(_reference_stream(places, trailer)))
        else:
            trailer["Size"] = max(list(self.places) + list(places)) + 1
            out += b"xref\n"
            for first, run in _runs(places):
                out += b"%d %d\n" % (first, len(run))
                out += b"".join(b"%010d 00000 n \n" % places[number][1] for number in run)
            out += b"trailer\n%s\n" % serialise(trailer)
        return bytes(out + b"startxref\n%d\n%%%%EOF\n" % start)


def serialise(value):
    """Writes an object."""
    if isinstance(value, Stream):
        entries = dict(value.entries, Length=len(value.raw))
        return serialise(entries) + b"\nstream\n" + value.raw + b"\nendstream"
    if isinstance(value, Ref):
        return b"%d %d R" % value
    if isinstance(value, Name):
        return b"/" + re.sub(rb"[^!-~]|[#%()<>\[\]{}/]", lambda m: b"#%02X" % m[0][0], value.encode("latin-1"))
    if isinstance(value, dict):
        return b"<<" + b" ".join(serialise(Name(key)) + b" " + serialise(item) for key, item in value.items()) + b">>"
    if isinstance(value, list):
        return b"[" + b" ".join(serialise(item) for item in value) + b"]"
    if isinstance(value, bytes):
        return b"<" + value.hex().encode() + b">"
    if value is None or isinstance(value, bool):
        return {None: b"null", True: b"true", False: b"false"}[value]
    if isinstance(value, float):
        return (b"%.5f" % value).rstrip(b"0").rstrip(b".")
    return b"%d" % value


def _undo_prediction(data, columns):
    """Undoes PNG's row filters, which make cross-references pack better."""
    out, previous = bytearray(), bytearray(columns)
    for begin in range(0, len(data), columns + 1):
        kind, row = data[begin], bytearray(data[begin + 1 : begin + 1 + columns])
        for i in range(len(row)):
            left, up, corner = (row[i - 1] if i else 0), previous[i], (previous[i - 1] if i else 0)
            if kind == 4:
                guess = left + up - corner
                predicted = min((abs(guess - left), 0, left), (abs(guess - up), 1, up), (abs(guess - corner), 2, corner))[2]
            else:
                predicted = (0, left, up, (left + up) // 2)[kind]
            row[i] = (row[i] + predicted) & 255
        out += row
        previous = row + bytearray(columns - len(row))
    return bytes(out)


def _reference_stream(places, trailer):
    rows, index = bytearray(), []
    for first, run in _runs(places):
        index += [first, len(run)]
        for number in run:
            kind, where = places[number][0], places[number][1:]
            fields = (1, where[0], 0) if kind == "at" else (2, where[0], where[1])
            rows += fields[0].to_bytes(1, "big") + fields[1].to_bytes(5, "big") + fields[2].to_bytes(2, "big")
    entries = dict(trailer, Type=Name("XRef"), W=[1, 5, 2], Index=index, Filter=Name("FlateDecode"))
    return Stream(entries, zlib.compress(bytes(rows)))


def _runs(numbers):
    """Groups numbers into runs without gaps, as (first, numbers)."""
    runs = []
    for number in sorted(numbers):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return [(run[0], run) for run in runs]
