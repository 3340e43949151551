"""One shape for every error under /api: type, errors (code, detail, attr) and the request's id."""

import logging
import sqlite3
import sys
from typing import Any

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import DatabaseError, DataError, InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from drf_standardized_errors.formatter import ExceptionFormatter
from drf_standardized_errors.handler import ExceptionHandler
from drf_standardized_errors.types import ErrorResponse
from rest_framework import status
from rest_framework.exceptions import APIException, NotFound, ParseError
from rest_framework.response import Response

from homelab.middleware import request_id
from metrics.codec import CodecError

logger = logging.getLogger(__name__)


class Unavailable(APIException):
    status_code = status.HTTP_503_SERVICE_UNAVAILABLE
    default_code = "unavailable"
    default_detail = "The database is busy; try again."
    wait = 5  # becomes Retry-After


class DiskFull(APIException):
    status_code = status.HTTP_507_INSUFFICIENT_STORAGE
    default_code = "disk_full"
    default_detail = "The hub's disk is full."
    wait = 60


class Damaged(APIException):
    status_code = status.HTTP_500_INTERNAL_SERVER_ERROR
    default_code = "damaged"
    default_detail = "The hub's database is damaged; a backup must be restored."


class TooLarge(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"
    default_detail = "The body is larger than 1 MiB."


SQLITE_CONDITIONS = {
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "readonly",
    sqlite3.SQLITE_CORRUPT: "damaged",
    sqlite3.SQLITE_NOTADB: "damaged",
}
POSTGRESQL_CONDITIONS = {
    "40001": "busy",  # serialization_failure
    "40P01": "busy",  # deadlock_detected
    "53300": "busy",  # too_many_connections
    "55P03": "busy",  # lock_not_available
    "57014": "busy",  # query_canceled: it took longer than it may
    "53100": "full",  # disk_full
    "25006": "readonly",  # read_only_sql_transaction
    "XX001": "damaged",  # data_corrupted
    "XX002": "damaged",  # index_corrupted
}


TOO_LONG = "22001"  # string_data_right_truncation: Citus says it of a text that no row can have


def condition(error: Exception) -> str:
    """Return one word for why the database refused: `busy`, `full`, `readonly`, `damaged`, or else `failing`."""
    cause = error.__cause__
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return SQLITE_CONDITIONS.get(code & 0xFF, "failing")  # the higher bits say more exactly where
    return POSTGRESQL_CONDITIONS.get(getattr(cause, "sqlstate", None) or "", "failing")


def is_damage(error: object) -> bool:
    """Tell whether something stored is not what was stored: what the codec says, or the database."""
    return isinstance(error, CodecError) or (isinstance(error, DatabaseError) and condition(error) == "damaged")


class ErrorHandler(ExceptionHandler):
    def convert_known_exceptions(self, exc: Exception) -> Exception:
        if is_damage(exc):
            return Damaged(str(exc) if isinstance(exc, CodecError) else None)
        if isinstance(exc, (OperationalError, InterfaceError)):
            return DiskFull() if condition(exc) == "full" else Unavailable()
        if isinstance(exc, DataError) and getattr(exc.__cause__, "sqlstate", "") == TOO_LONG:
            return NotFound()
        if isinstance(exc, RequestDataTooBig):
            return TooLarge()
        if isinstance(exc, SuspiciousOperation):
            return ParseError("The request is malformed.")
        return super().convert_known_exceptions(exc)

    def report_exception(self, exc: APIException, response: Response) -> None:
        """Log a database that does not answer in one line: where it was asked says nothing about why."""
        if isinstance(exc, (Unavailable, DiskFull, Damaged)):
            logger.warning("Answered %s: %s", exc.status_code, str(self.exc).partition("\n")[0])
        else:
            super().report_exception(exc, response)


class ErrorFormatter(ExceptionFormatter):
    def format_error_response(self, error_response: ErrorResponse) -> dict[str, Any]:
        return {**super().format_error_response(error_response), "request_id": request_id.get()}


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return _answer(400, "client_error", "bad_request", "The request is malformed.")
    return defaults.bad_request(request, exception)


def permission_denied(request: HttpRequest, exception: Exception) -> HttpResponse:
    if _is_api(request):
        return _answer(403, "client_error", "permission_denied", "You may not do this.")
    return defaults.permission_denied(request, exception)


def not_found(request: HttpRequest, exception: Exception | None = None) -> HttpResponse:
    if _is_api(request):
        return _answer(404, "client_error", "not_found", "There is nothing here.")
    return defaults.page_not_found(request, exception or Exception())


def server_error(request: HttpRequest) -> HttpResponse:
    error = sys.exc_info()[1]
    if is_damage(error):
        return _damaged(request, str(error))
    if isinstance(error, (OperationalError, InterfaceError)):
        return _unavailable(request)
    if _is_api(request):
        return _answer(500, "server_error", "error", "The hub failed; its log has this request's id.")
    return defaults.server_error(request)


def _unavailable(request: HttpRequest) -> HttpResponse:
    """Tell who asked for a page that the database cannot answer now: it is locked, full, or starts again."""
    text = "The hub's database does not answer. Try again in a few seconds."
    answer = (
        _answer(503, "server_error", Unavailable.default_code, Unavailable.default_detail)
        if _is_api(request)
        else HttpResponse(text, status=503, content_type="text/plain")
    )
    answer["Retry-After"] = str(Unavailable.wait)
    return answer


def _damaged(request: HttpRequest, text: str) -> HttpResponse:
    """Name what is damaged to who asked for a page, which only those do who may see it."""
    logger.error("Answered 500: %s", text)
    if _is_api(request):
        return _answer(500, "server_error", Damaged.default_code, text)
    return HttpResponse(text, status=500, content_type="text/plain; charset=utf-8")


def _is_api(request: HttpRequest) -> bool:
    return request.path.startswith("/api")


def _answer(status: int, kind: str, code: str, detail: str) -> HttpResponse:
    return JsonResponse(body_of(kind, code, detail), status=status)


def body_of(kind: str, code: str, detail: str) -> dict[str, Any]:
    return {
        "type": kind,
        "errors": [{"code": code, "detail": detail, "attr": None}],
        "request_id": request_id.get(),
    }
