"""Which errors pass by themselves: a store or a server is away for a while, nothing that a person must mend."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

from ml.errors import BadInputError, HemlineError

_NETWORK = {
    "requests.exceptions.ConnectionError", "requests.exceptions.Timeout", "requests.exceptions.ChunkedEncodingError",
    "requests.exceptions.RetryError",  # only answers that may pass are retried
    "urllib3.exceptions.ProtocolError", "urllib3.exceptions.TimeoutError", "urllib3.exceptions.MaxRetryError",
    "httpx.TimeoutException", "httpx.NetworkError", "httpx.RemoteProtocolError",
    "botocore.exceptions.ConnectionError", "botocore.exceptions.HTTPClientError",
    "botocore.exceptions.IncompleteReadError",
}  # fmt: skip
"""Classes of libraries that may not be loaded, by name."""
_NEVER = {"requests.exceptions.SSLError", "requests.exceptions.InvalidURL"}
_ERRNO = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT, errno.ESTALE}
_STORE = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|SERVICE_UNAVAILABLE|INTERNAL_FAILURE|REQUEST_TIMEOUT|THROTTLING)"
    r"|HTTP status (429|5\d\d)"
)
"""How pyarrow's object stores say it: their errors are plain OSErrors."""
_DATABASE = re.compile(
    r"database is locked|Connection refused|server closed the connection|terminating connection|timeout expired"
    r"|the database system is (starting up|shutting down|in recovery mode)|too many (connections|clients)"
    r"|remaining connection slots|could not receive data|SSL connection has been closed"
)
"""How SQLite and PostgreSQL say, through SQLAlchemy, that they are busy or away; a wrong password is neither."""
_MLFLOW = {"TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED", "DEADLINE_EXCEEDED"}
_BUSY = {408, 425, 429}


class UnreachableError(HemlineError):
    """A server or a store did not answer, however often it was asked."""


def is_transient(error: BaseException) -> bool:
    """Return whether trying again later may help: lost connections, timeouts, answers 408, 425, 429 and 5xx.

    BadInputError never is. Another error of our own, or of a library, is if what caused it is. Everything unknown is
    not: an error that is repeated in vain delays the message by hours.
    """
    return any(_passes(one) for one in _causes(error))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and what it was raised from, up to a BadInputError; MLflow does not say `from`."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen and not isinstance(current, BadInputError):
        seen.add(id(current))
        yield current
        by_mlflow = type(current).__module__.startswith("mlflow.")
        current = current.__cause__ or (current.__context__ if by_mlflow else None)


def _passes(error: BaseException) -> bool:
    names = {f"{kind.__module__}.{kind.__qualname__}" for kind in type(error).__mro__}
    if isinstance(error, HemlineError) or names & _NEVER:
        return False
    if isinstance(error, (ConnectionError, TimeoutError)) or names & _NETWORK:
        return True
    status = _status(error)
    if status is not None:
        return status >= 500 or status in _BUSY
    if "sqlalchemy.exc.OperationalError" in names:
        return bool(_DATABASE.search(str(error)))
    if "mlflow.exceptions.MlflowException" in names:
        return _tracking_server_is_away(error, names)
    return isinstance(error, OSError) and (error.errno in _ERRNO or bool(_STORE.search(str(error))))


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that requests, httpx, botocore or urllib put into their errors."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    code = getattr(response, "status_code", None)
    code = getattr(error, "code", None) if code is None else code
    return code if isinstance(code, int) and 100 <= code < 600 else None


def _tracking_server_is_away(error: BaseException, names: set[str]) -> bool:
    """Whether MLflow's server said so. Its client calls its own mistakes INTERNAL_ERROR as well: those do not pass."""
    code = getattr(error, "error_code", None)
    from_server = "mlflow.exceptions.RestException" in names or "failed with error code 5" in str(error)
    return code in _MLFLOW or (code == "INTERNAL_ERROR" and from_server)
