"""JSON as the API takes it: one encoding, no duplicate keys, no NaN, nothing nested without end."""

import json
from collections.abc import Iterable
from typing import Any, NoReturn

from django.conf import settings
from django.core.exceptions import RequestDataTooBig
from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request


class StrictJSONParser(BaseParser):
    media_type = "application/json"

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Any = None) -> Any:
        """Return the JSON value of the body.

        Raises ParseError (400) for anything that is not strict JSON in UTF-8, and UnsupportedMediaType (415)
        for a body that is compressed or in another encoding: it is never inflated.
        """
        request = (parser_context or {}).get("request")
        if request is not None:
            _refuse_size(request)
            _refuse_encodings(request)
        try:
            return json.loads(
                stream.read().decode("utf-8"),
                object_pairs_hook=_unique_keys,
                parse_constant=_refuse_constant,
                parse_float=_finite,
            )
        except RecursionError:
            raise ParseError("The JSON is nested too deeply.") from None
        except UnicodeDecodeError:
            raise ParseError("The body is not UTF-8.") from None
        except ValueError as error:
            raise ParseError(_reason(error)) from None


class JSONNegotiation(DefaultContentNegotiation):
    """Answer JSON whatever the Accept header says: a script that asks for text/html still gets its answer."""

    def select_renderer(
        self, request: Request, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type or ""


class _JSONRuleError(ValueError):
    """A rule of ours that the JSON broke; its text may be shown."""


def _refuse_size(request: Request) -> None:
    if int(request.META.get("CONTENT_LENGTH") or 0) > settings.DATA_UPLOAD_MAX_MEMORY_SIZE:
        raise RequestDataTooBig


def _refuse_encodings(request: Request) -> None:
    encoding = request.META.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if encoding not in ("", "identity"):
        raise UnsupportedMediaType(encoding, detail="Send the body without Content-Encoding.")
    charset = request.content_type.lower().partition("charset=")[2].split(";")[0].strip(' "')
    if charset not in ("", "utf-8", "utf8"):
        raise UnsupportedMediaType(charset, detail="Send the body in UTF-8.")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise _JSONRuleError("An object has the same key twice.")
    return keys


def _refuse_constant(name: str) -> NoReturn:
    raise _JSONRuleError("NaN and Infinity are not JSON.")


def _finite(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _JSONRuleError("A number is too large.")
    return value


def _reason(error: ValueError) -> str:
    return str(error) if isinstance(error, _JSONRuleError) else "The body is not JSON."
