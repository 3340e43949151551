"""The export: all readings or hours of a window, streamed as CSV or as a JSON object a line."""

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from itertools import chain, islice
from typing import Any, NamedTuple

from django.http import HttpResponseBase, StreamingHttpResponse
from django.utils import timezone
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema
from rest_framework.exceptions import NotFound, Throttled
from rest_framework.request import Request
from rest_framework.views import APIView

from metrics import history
from metrics.export import ExportedHour, ExportedReading, export_hours, export_readings
from metrics.read_serializers import ExportQuerySerializer
from metrics.read_views import servers_of, validated

ROWS_AT_ONCE = 1000
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would compute what begins with these
CONTENT_TYPES = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}
MOST_AT_ONCE = 3  # each holds a thread of the hub for as long as its reader takes

_places = threading.BoundedSemaphore(MOST_AT_ONCE)


class ExportView(APIView):
    @extend_schema(
        operation_id="metrics_export",
        parameters=[ExportQuerySerializer],
        responses={(200, content_type): OpenApiTypes.STR for content_type in ("text/csv", CONTENT_TYPES["ndjson"])},
    )
    def get(self, request: Request) -> HttpResponseBase:
        """Stream all readings of a window, or its hours; interface by interface, oldest first.

        Readings are raw counters: `at, server_id, interface, rx_bytes, tx_bytes, rx_packets, tx_packets, rx_errors,
        tx_errors, rx_dropped, tx_dropped, is_up, boot`. Hours are what passed in each UTC hour: the same counters as
        increases, then `rx_peak, tx_peak, covered_seconds, up_seconds, resets, marks`. What is unknown is empty, or
        null. In CSV, text that a spreadsheet would compute has an apostrophe before it. An answer that is cut off by a
        fault ends without its last chunk, which clients report as an error.
        """
        query = validated(request, ExportQuerySerializer, timezone.now())
        interfaces = history.fleet(servers_of(query), query.get("interface"), by_server=False)
        if "server" in query and "interface" in query and not interfaces:
            raise NotFound("The server has no such interface.")
        is_hourly = query["resolution"] == "hour"
        row_class: type[NamedTuple] = ExportedHour if is_hourly else ExportedReading
        rows = (export_hours if is_hourly else export_readings)(
            interfaces if request.method != "HEAD" else [], query["start"], query["end"]
        )
        lines = _csv(rows, row_class._fields) if query["format"] == "csv" else _ndjson(rows)
        return StreamingHttpResponse(
            _Placed(lines),
            content_type=CONTENT_TYPES[query["format"]],
            headers={"Content-Disposition": f'attachment; filename="{file_name(query)}"', "Cache-Control": "no-store"},
        )


def file_name(query: dict[str, Any]) -> str:
    """Return a name that says what is in the file, of characters that any system takes."""
    what = (query.get("server"), query.get("interface"), f"{query['start']:%Y%m%d}", f"{query['end']:%Y%m%d}")
    name = "-".join(["homelab", *filter(None, what)])
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', name)}.{query['format']}"


class _Placed:
    """A stream that takes one of the places for exports, until it is closed. Raises Throttled."""

    is_open = False

    def __init__(self, chunks: Iterator[str]) -> None:
        if not _places.acquire(blocking=False):
            raise Throttled(wait=30, detail=f"{MOST_AT_ONCE} exports are running.")
        self.is_open = True
        try:
            first = list(islice(chunks, 1))  # what fails at once is an error, not a stream that is cut off
        except BaseException:
            self.close()
            raise
        self.chunks = chain(first, chunks)

    def __iter__(self) -> Iterator[str]:
        return self.chunks

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            _places.release()

    __del__ = close  # of an answer that was dropped


def _csv(rows: Iterator[tuple[Any, ...]], names: tuple[str, ...]) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head: Iterable[tuple[Any, ...]] = [names]
    while some := list(islice(chain(head, rows), ROWS_AT_ONCE)):
        writer.writerows(map(_cells, some))
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
        head = ()


def _cells(row: tuple[Any, ...]) -> list[Any]:
    return [CELLS[type(value)](value) if type(value) in CELLS else value for value in row]


def _ndjson(rows: Iterator[Any]) -> Iterator[str]:
    encode = json.JSONEncoder(default=_text, ensure_ascii=False, separators=(",", ":")).encode
    while some := list(islice(rows, ROWS_AT_ONCE)):
        yield "".join([f"{encode(row._asdict())}\n" for row in some])


def _text(instant: datetime) -> str:
    return f"{instant.isoformat(timespec='milliseconds')[:-6]}Z"


CELLS: dict[type, Callable[[Any], str]] = {
    str: lambda text: f"'{text}" if text.startswith(FORMULA) else text,
    bool: lambda value: "true" if value else "false",
    datetime: _text,
    list: " ".join,
}
