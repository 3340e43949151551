"""One shape for every error under /api: type, errors (code, detail, attr) and the request's id."""

import sqlite3
from typing import Any

from django.core.exceptions import RequestDataTooBig, SuspiciousOperation
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views import defaults
from drf_standardized_errors.formatter import ExceptionFormatter
from drf_standardized_errors.handler import ExceptionHandler
from drf_standardized_errors.types import ErrorResponse
from rest_framework import status
from rest_framework.exceptions import APIException, ParseError

from homelab.middleware import request_id


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


class TooLarge(APIException):
    status_code = status.HTTP_413_REQUEST_ENTITY_TOO_LARGE
    default_code = "too_large"
    default_detail = "The body is larger than 1 MiB."


SQLITE_CONDITIONS = {
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_READONLY: "readonly",
}
POSTGRESQL_CONDITIONS = {
    "40001": "busy",  # serialization_failure
    "40P01": "busy",  # deadlock_detected
    "53300": "busy",  # too_many_connections
    "55P03": "busy",  # lock_not_available
    "53100": "full",  # disk_full
    "25006": "readonly",  # read_only_sql_transaction
}


def condition(error: Exception) -> str:
    """Return one word for why the database refused: `busy`, `full`, `readonly`, or else `failing`."""
    cause = error.__cause__
    code = getattr(cause, "sqlite_errorcode", None)
    if code is not None:
        return SQLITE_CONDITIONS.get(code & 0xFF, "failing")  # the higher bits say more exactly where
    return POSTGRESQL_CONDITIONS.get(getattr(cause, "sqlstate", None) or "", "failing")


class ErrorHandler(ExceptionHandler):
    def convert_known_exceptions(self, exc: Exception) -> Exception:
        if isinstance(exc, (OperationalError, InterfaceError)):
            return DiskFull() if condition(exc) == "full" else Unavailable()
        if isinstance(exc, RequestDataTooBig):
            return TooLarge()
        if isinstance(exc, SuspiciousOperation):
            return ParseError("The request is malformed.")
        return super().convert_known_exceptions(exc)


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
    if _is_api(request):
        return _answer(500, "server_error", "error", "The hub failed; its log has this request's id.")
    return defaults.server_error(request)


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
