"""How Lambda sets up Python's logging: a handler on the root logger that names the request, as text or as JSON. It is
imported when the function imports logging."""

import os
import time

# What every record has. Anything else was given by the function as "extra" and goes into the JSON.
_STANDARD = frozenset(
    "name msg args levelname levelno pathname filename module exc_info exc_text stack_info lineno funcName created msecs"
    " relativeCreated thread threadName processName process taskName aws_request_id tenant_id".split()
)


def set_up(logging, current, write_line, dumps):
    """Adds the handler to the root logger and sets its level. current is read for each record."""

    class LambdaLoggerHandler(logging.Handler):
        def emit(self, record):
            try:
                write_line(self.format(record))
            except Exception:
                self.handleError(record)

    class LambdaLoggerFilter(logging.Filter):
        def filter(self, record):
            record.aws_request_id = current.request_id or ""
            record.tenant_id = current.tenant_id
            return True

    class JsonFormatter(logging.Formatter):
        def format(self, record):
            return dumps(_fields(self, record, logging.getLevelName))

    logging.Formatter.converter = time.gmtime
    if os.environ.get("AWS_LAMBDA_LOG_FORMAT", "").upper() == "JSON":
        formatter = JsonFormatter(datefmt="%Y-%m-%dT%H:%M:%SZ")
    else:
        formatter = logging.Formatter(
            "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s", "%Y-%m-%dT%H:%M:%S"
        )
    handler = LambdaLoggerHandler()
    handler.setFormatter(formatter)
    handler.addFilter(LambdaLoggerFilter())
    root = logging.getLogger()
    root.addHandler(handler)
    level = os.environ.get("AWS_LAMBDA_LOG_LEVEL", "").upper()
    level = getattr(logging, {"TRACE": "DEBUG", "WARN": "WARNING"}.get(level, level), None)
    if isinstance(level, int):
        root.setLevel(level)


def _fields(formatter, record, level_name):
    """The members of a JSON log line, in Lambda's order, without those that are empty."""
    level = min(50, max(0, record.levelno)) // 10 * 10
    fields = {
        "timestamp": formatter.formatTime(record, formatter.datefmt),
        "level": level_name(level),
        "message": record.getMessage(),
        "logger": record.name,
        "stackTrace": None,
        "errorType": None,
        "errorMessage": None,
        "requestId": getattr(record, "aws_request_id", None),
        "location": None,
        "tenantId": getattr(record, "tenant_id", None),
    }
    if record.exc_info and record.exc_info[0]:
        import traceback

        fields["stackTrace"] = traceback.format_tb(record.exc_info[2])
        fields["errorType"] = record.exc_info[0].__name__
        fields["errorMessage"] = str(record.exc_info[1])
        fields["location"] = "%s:%s:%s" % (record.pathname, record.funcName, record.lineno)
    for name, value in record.__dict__.items():
        if name not in _STANDARD and name not in fields:
            fields[name] = value
    return {name: value for name, value in fields.items() if value is not None}
