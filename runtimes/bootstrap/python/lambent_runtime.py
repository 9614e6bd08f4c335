"""The runtime interface client of Lambent's Python runtimes: it asks the Runtime API for events, runs the function's
handler, and posts what it gave.

Starting is most of a cold start, so this file imports what is compiled into CPython (_socket, _json) and leaves json,
re, socket, logging and traceback, which cost tens of milliseconds, to the functions that want them. It runs on Python
3.8 and later.
"""

import _json
import _socket
import os
import sys
from importlib import import_module
from time import gmtime, strftime, time

VERSION = "%d.%d" % sys.version_info[:2]
LIBRARY = os.path.dirname(os.__file__) + "/"  # the standard library
DATE_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
SPACE = " \t\n\r"
NO_BREAK_SPACE = "\u00a0"

# Responses up to this size go out in one write together with the request for the next event, which saves a wake-up.
ONE_WRITE = 256 << 10


class Fault(Exception):
    """An error that is the runtime's word on the function, not an exception of the function's own."""

    def __init__(self, kind, message, trace=None):
        super().__init__(message)
        self.kind = "Runtime." + kind
        self.message = message
        self.trace = trace or []


class Current:
    """What the log lines of this moment belong to."""

    request_id = None
    tenant_id = None


# --- JSON -----------------------------------------------------------------------------------------------------------


class _Scanner:
    """How the scanner reads: as json.loads does when it is given no options."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}.__getitem__
    memo = {}


_scan = _json.make_scanner(_Scanner)

# Lambda writes responses in plain UTF-8 since Python 3.12, and escapes what is not ASCII before.
_quote = _json.encode_basestring if sys.version_info >= (3, 12) else _json.encode_basestring_ascii


def loads(text):
    """Parses JSON. What is wrong with a bad text is told by the json module, which is slower to load."""
    start = 0
    while text[start : start + 1] in SPACE and start < len(text):
        start += 1
    try:
        value, end = _scan(text, start)
        if end == len(text) or not text[end:].strip(SPACE):
            return value
    except StopIteration:
        pass
    import json

    return json.loads(text)


class _Plain:
    """Stands in for decimal.Decimal, which JSON's encoder would have to write without quotes: it is written as a
    string between two marks, and the marks are cut out with their quotes."""

    mark = ""


def _encode_other(value):
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).decode("utf-8")
    decimal = sys.modules.get("decimal")
    if decimal is not None and isinstance(value, decimal.Decimal):
        if value.is_nan():
            return float("nan")
        if not _Plain.mark:
            _Plain.mark = os.urandom(16).hex()
        return _Plain.mark + str(value) + _Plain.mark
    raise TypeError("Object of type %s is not JSON serializable" % type(value).__name__)


def dumps(value, quote=_quote):
    """Formats JSON as Lambda's Python runtimes do: named tuples are objects, bytes are text, decimals are numbers."""
    if _named_tuples():
        try:
            value = _as_objects(value)
        except RecursionError:
            pass  # a circle, which the encoder finds too, and names
    encode = _json.make_encoder({}, _encode_other, quote, None, ": ", ", ", False, False, True)
    text = "".join(encode(value, 0))
    if _Plain.mark:
        text = text.replace('"' + _Plain.mark, "").replace(_Plain.mark + '"', "")
    return text


def _named_tuples():
    """Whether the function may have named tuples of its own: looking for them in each response takes time."""
    kinds = tuple.__subclasses__()
    if len(kinds) != _named_tuples.seen:
        _named_tuples.seen = len(kinds)
        for kind in kinds:
            file = getattr(sys.modules.get(kind.__module__), "__file__", None) or LIBRARY
            if hasattr(kind, "_asdict") and ("-packages/" in file or not file.startswith(LIBRARY)):
                _named_tuples.found = True
    return _named_tuples.found


_named_tuples.seen = 0
_named_tuples.found = False


def _as_objects(value):
    """Copies what contains named tuples, with objects in their place."""
    if isinstance(value, dict):
        copy = {key: _as_objects(item) for key, item in value.items()}
        return copy if any(copy[key] is not value[key] for key in copy) else value
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: _as_objects(item) for key, item in value._asdict().items()}
    if isinstance(value, (list, tuple)):
        copy = [_as_objects(item) for item in value]
        return copy if any(new is not old for new, old in zip(copy, value)) else value
    return value


# --- Runtime API ----------------------------------------------------------------------------------------------------


class RuntimeAPI:
    """A keep-alive connection to the Runtime API. One request is under way at a time, but for a small response, which
    the request for the next event follows at once."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self._address = (host, int(port))
        self._tail = " HTTP/1.1\r\nHost: %s\r\n" % address
        self._next = ("GET /2018-06-01/runtime/invocation/next" + self._tail + "\r\n").encode()
        self._socket = None
        self._rest = b""
        self._asked = False  # for the next event, along with a response that is not answered yet

    def next(self):
        """Waits for the next event; returns its headers, by lower-case name, and its body."""
        answer = None
        if self._asked:
            self._asked = False
            try:
                self._accepted(*self._receive())
                answer = self._receive() if self._socket else None
            except ConnectionError:
                self._socket = None
        # Asked again where the connection was closed after the response: then the first question was not read.
        status, headers, body = answer or self._exchange(self._next)
        if status != 200:
            raise RuntimeError("Runtime API: next: status %d: %s" % (status, bytes(body[:200]).decode("utf-8", "replace")))
        return headers, body

    def respond(self, request_id, payload, content_type):
        """Posts a response. The Runtime API tells the function's caller when it is too large."""
        head = self._post("invocation/" + request_id + "/response", payload, content_type, None)
        if len(payload) <= ONE_WRITE:
            self._connect()
            self._socket.sendall(head + payload + self._next)
            self._asked = True
        else:
            self._accepted(*self._exchange(head, payload))

    def fail(self, path, error):
        """Posts an error of the initialisation or of an invoke."""
        payload = dumps(error).encode("utf-8", "backslashreplace")
        self._exchange(self._post(path, payload, "application/json", error["errorType"]), payload)

    def _post(self, path, payload, content_type, error_type):
        kind = ""
        if error_type:
            text = "".join(c for c in error_type if " " <= c <= "~")
            kind = "Lambda-Runtime-Function-Error-Type: %s\r\n" % text
        return (
            "POST /2018-06-01/runtime/%s%sContent-Type: %s\r\n%sContent-Length: %d\r\n\r\n"
            % (path, self._tail, content_type, kind, len(payload))
        ).encode()

    def _connect(self):
        if self._socket is None:
            self._socket = _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM)
            self._socket.connect(self._address)
            self._socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
            self._rest = b""

    def _exchange(self, *parts):
        self._connect()
        for part in parts:
            self._socket.sendall(part)
        return self._receive()

    def _accepted(self, status, _, body):
        if status >= 500:
            raise RuntimeError("Runtime API: response: status %d: %s" % (status, bytes(body).decode("utf-8", "replace")))

    def _receive(self):
        data = self._rest
        end = data.find(b"\r\n\r\n")
        while end < 0:
            chunk = self._socket.recv(65536)
            if not chunk:
                raise ConnectionResetError("the Runtime API closed the connection")
            data += chunk
            end = data.find(b"\r\n\r\n")
        lines = data[:end].decode("utf-8", "surrogateescape").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", 0))
        body = data[end + 4 :]
        if len(body) < length:
            body = self._receive_body(body, length)
            self._rest = b""
        else:
            self._rest = body[length:]
            body = body[:length]
        if headers.get("connection", "").lower() == "close":
            self._socket = None
        return int(lines[0][9:12]), headers, body

    def _receive_body(self, begin, length):
        body = bytearray(length)
        body[: len(begin)] = begin
        left = memoryview(body)[len(begin) :]
        while left:
            count = self._socket.recv_into(left)
            if not count:
                raise ConnectionResetError("the Runtime API closed the connection")
            left = left[count:]
        return body


# --- What the handler is given --------------------------------------------------------------------------------------


class _Record:
    """An object whose attributes are the members of a JSON object that Lambda names."""

    __slots__ = ()

    def __init__(self, values):
        for name in self.__slots__:
            setattr(self, name, values.get(name))

    def __repr__(self):
        return "%s([%s])" % (type(self).__name__, ",".join("%s=%s" % (n, getattr(self, n)) for n in self.__slots__))


class CognitoIdentity(_Record):
    __slots__ = ("cognito_identity_id", "cognito_identity_pool_id")


class Client(_Record):
    __slots__ = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")


class ClientContext(_Record):
    __slots__ = ("custom", "env", "client")

    def __init__(self, values):
        super().__init__(values)
        if self.client is not None:
            self.client = Client(self.client)


class LambdaContext:
    """The second argument of a handler."""

    def __init__(self, headers):
        env = os.environ.get
        self.aws_request_id = headers.get("lambda-runtime-aws-request-id")
        self.log_group_name = env("AWS_LAMBDA_LOG_GROUP_NAME")
        self.log_stream_name = env("AWS_LAMBDA_LOG_STREAM_NAME")
        self.function_name = env("AWS_LAMBDA_FUNCTION_NAME")
        self.memory_limit_in_mb = env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE")
        self.function_version = env("AWS_LAMBDA_FUNCTION_VERSION")
        self.invoked_function_arn = headers.get("lambda-runtime-invoked-function-arn")
        self.tenant_id = headers.get("lambda-runtime-aws-tenant-id")
        client = _parse_header(headers, "lambda-runtime-client-context", "Client Context")
        self.client_context = None if client is None else ClientContext(client)
        identity = _parse_header(headers, "lambda-runtime-cognito-identity", "Cognito Identity") or {}
        self.identity = CognitoIdentity(
            {
                "cognito_identity_id": identity.get("cognitoIdentityId"),
                "cognito_identity_pool_id": identity.get("cognitoIdentityPoolId"),
            }
        )
        self._deadline_ms = int(headers.get("lambda-runtime-deadline-ms", 0))

    def get_remaining_time_in_millis(self):
        return max(0, self._deadline_ms - int(time() * 1000))

    def log(self, message):
        write_line(str(message))

    def __repr__(self):
        names = ("aws_request_id", "log_group_name", "log_stream_name", "function_name", "memory_limit_in_mb")
        names += ("function_version", "invoked_function_arn", "client_context", "identity", "tenant_id")
        return "LambdaContext([%s])" % ",".join("%s=%s" % (n, getattr(self, n)) for n in names)


def _parse_header(headers, name, what):
    text = headers.get(name)
    if not text:
        return None
    try:
        return loads(text)
    except Exception as e:
        raise Fault("LambdaContextUnmarshalError", "Unable to parse %s JSON: %s" % (what, e))


# --- Log ------------------------------------------------------------------------------------------------------------


def write_line(text):
    """Writes one event of the log. A line feed would begin another, so those inside become carriage returns."""
    line = text.rstrip("\n").replace("\n", "\r") + "\n"
    try:
        sys.stdout.write(line)
    except UnicodeEncodeError:
        sys.stdout.write(line.encode("utf-8", "backslashreplace").decode())


def log_error(error):
    if os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON":
        write_line(dumps(dict({"timestamp": strftime(DATE_FORMAT, gmtime()), "log_level": "ERROR"}, **error)))
        return
    kind, message = error["errorType"], error["errorMessage"]
    title = ": ".join(part for part in (kind, message) if part)
    lines = ["[ERROR] " + title if title else "[ERROR]", "Traceback (most recent call last):"]
    for entry in error["stackTrace"]:
        for line in entry.splitlines():
            text = line.lstrip(" ")
            lines.append(NO_BREAK_SPACE * (len(line) - len(text)) + text)
    write_line("\r".join(lines))


class _LoggingHook:
    """Sets the root logger up as Lambda does, when and if the function imports logging."""

    def find_spec(self, name, path=None, target=None):
        if name != "logging":
            return None
        sys.meta_path.remove(self)
        for finder in sys.meta_path:
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._loader = spec.loader
                spec.loader = self
                return spec
        return None

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _set_up_logging(module)


def _set_up_logging(logging):
    import lambent_logging

    lambent_logging.set_up(logging, Current, write_line, lambda fields: dumps(fields, _json.encode_basestring))


def _watch_logging():
    if "logging" in sys.modules:
        _set_up_logging(sys.modules["logging"])
    else:
        sys.meta_path.insert(0, _LoggingHook())


# --- The function ---------------------------------------------------------------------------------------------------


def load(name):
    """Finds the handler that a function's configuration names: module.function, where the module may be nested with
    dots or slashes."""
    module, dot, function = name.rpartition(".")
    if not dot:
        raise Fault("MalformedHandlerName", "Bad handler '%s': not enough values to unpack (expected 2, got 1)" % name)
    if module.split(".")[0] in sys.builtin_module_names:
        raise Fault("BuiltInModuleConflict", "Cannot use built-in module %s as a handler module" % module)
    try:
        found = import_module(module.replace("/", "."))
    except ImportError as e:
        raise Fault("ImportModuleError", "Unable to import module '%s': %s" % (module, e))
    except SyntaxError as e:
        trace = ['  File "%s" Line %s\n    %s' % (e.filename, e.lineno, e.text)]
        raise Fault("UserCodeSyntaxError", "Syntax error in module '%s': %s" % (module, e), trace)
    try:
        return getattr(found, function)
    except AttributeError:
        raise Fault("HandlerNotFound", "Handler '%s' missing on module '%s'" % (function, module))


def describe(exception, request_id):
    """Makes the error's payload."""
    if isinstance(exception, Fault):
        kind, message, trace = exception.kind, exception.message, exception.trace
    else:
        kind, message, trace = type(exception).__name__, _text(exception), _trace(exception)
    return {"errorMessage": message, "errorType": kind, "requestId": request_id, "stackTrace": trace}


def _text(exception):
    try:
        return str(exception)
    except Exception as e:
        return "<the message of this %s cannot be had: %s>" % (type(exception).__name__, type(e).__name__)


def _trace(exception):
    import traceback

    frames = [(f.filename, f.lineno, f.name, f.line) for f in traceback.extract_tb(exception.__traceback__)]
    own = 0
    while own < len(frames) and frames[own][0] == __file__:
        own += 1
    return traceback.format_list(frames[own:] or frames)


def run_once(api, handler):
    """Waits for an event, runs the handler on it, and posts what it gave."""
    headers, body = api.next()
    request_id = headers.get("lambda-runtime-aws-request-id", "")
    Current.request_id = request_id
    Current.tenant_id = headers.get("lambda-runtime-aws-tenant-id")
    trace = headers.get("lambda-runtime-trace-id")
    if trace:
        os.environ["_X_AMZN_TRACE_ID"] = trace
    else:
        os.environ.pop("_X_AMZN_TRACE_ID", None)
    try:
        response = handler(_parse_event(body), LambdaContext(headers))
        payload, content_type = _format_response(response)
    except Exception as e:
        error = describe(e, request_id)
    else:
        api.respond(request_id, payload, content_type)
        return
    log_error(error)
    api.fail("invocation/" + request_id + "/error", error)


def _parse_event(body):
    try:
        return loads(body.decode("utf-8", "surrogatepass"))
    except Exception as e:
        raise Fault("UnmarshalError", "Unable to unmarshal input: %s" % e)


def _format_response(response):
    if isinstance(response, bytes):
        return response, "application/unknown"
    try:
        return dumps(response).encode(), "application/json"
    except Exception as e:
        raise Fault("MarshalError", "Unable to marshal response: %s" % e)


def _set_up_path():
    """Puts the function's code first, then its layers, then the language's own, as on Lambda. Python is started without
    its site module, so the packages that are installed with the interpreter are added here, last."""
    own = ["/opt/python/lib/python%s/site-packages" % VERSION, "/opt/python"]
    path = [os.environ.get("LAMBDA_TASK_ROOT", "/var/task")] + own + sys.path
    if sys.flags.no_site:
        import builtins

        from _sitebuiltins import Quitter

        builtins.exit, builtins.quit = Quitter("exit", "Ctrl-D (i.e. EOF)"), Quitter("quit", "Ctrl-D (i.e. EOF)")
        for packages in (LIBRARY + "site-packages", "/usr/lib/python3/dist-packages"):
            if os.path.isdir(packages):
                path.append(packages)
    sys.path[:] = dict.fromkeys(path)


def main():
    """Runs until the process is killed. Ends with status 1 when the function cannot be initialised."""
    api = RuntimeAPI(os.environ["AWS_LAMBDA_RUNTIME_API"])
    _set_up_path()
    _watch_logging()
    try:
        handler = load(os.environ.get("_HANDLER", ""))
    except Exception as e:
        error = describe(e, "")
        log_error(error)
        api.fail("init/error", error)
        sys.exit(1)
    while True:
        run_once(api, handler)
