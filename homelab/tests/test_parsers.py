import json
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.request import Request
from rest_framework.test import APIRequestFactory

from homelab.parsers import StrictJSONParser


def parse(data: bytes) -> Any:
    return StrictJSONParser().parse(BytesIO(data))


def parse_as(content_type: str, **headers: str) -> Any:
    request = Request(APIRequestFactory().generic("POST", "/", b'{"a": 1}', content_type, **headers))
    return StrictJSONParser().parse(BytesIO(b'{"a": 1}'), content_type, {"request": request})


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**80), 2**80)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(values, st.booleans())
def test_strict_json_is_what_it_says(value: Any, ascii_only: bool):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse(text.encode()) == value


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_a_parse_error(data: bytes):
    try:
        parse(data)
    except ParseError:
        return
    json.loads(data)


def test_integers_of_64_bits_stay_exact():
    assert parse(b"[9223372036854775807, 18446744073709551615]") == [2**63 - 1, 2**64 - 1]


@pytest.mark.parametrize("data", [b"NaN", b"[Infinity]", b"-Infinity", b"1e999", b"-1e999", b'{"a": 1e400}'])
def test_a_number_that_is_not_finite_is_refused(data: bytes):
    with pytest.raises(ParseError):
        parse(data)


def test_an_integer_of_5000_digits_is_refused():
    with pytest.raises(ParseError):
        parse(b"9" * 5000)


@pytest.mark.parametrize("data", [b'{"a": 1, "a": 1}', b'[{"b": {"a": 1, "a": 2}}]', b'{"a": 1, "\\u0061": 2}'])
def test_the_same_key_twice_is_refused_at_any_depth(data: bytes):
    with pytest.raises(ParseError, match="same key twice"):
        parse(data)


@pytest.mark.parametrize("data", [b"[" * 2000 + b"]" * 2000, b"[" * 100_000, b'{"a":' * 100_000])
def test_nesting_without_end_is_refused(data: bytes):
    with pytest.raises(ParseError):
        parse(data)


@pytest.mark.parametrize(
    "data", [b"\xff", b"\xef\xbb\xbf{}", "{}".encode("utf-16"), '"é"'.encode("latin-1"), b"\xed\xa0\x80"]
)
def test_what_is_not_plain_utf_8_is_refused(data: bytes):
    with pytest.raises(ParseError):
        parse(data)


def test_a_refusal_never_repeats_the_body():
    with pytest.raises(ParseError) as caught:
        parse(b'{"key": s3cret}')
    assert "s3cret" not in str(caught.value.detail)


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", '"utf-8"', "utf-8; x=y"])
def test_utf_8_may_be_named(charset: str):
    assert parse_as(f"application/json; charset={charset}") == {"a": 1}


@pytest.mark.parametrize("charset", ["utf-16", "latin-1", "ascii; x=utf-8"])
def test_another_charset_is_refused(charset: str):
    with pytest.raises(UnsupportedMediaType):
        parse_as(f"application/json; charset={charset}")


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip"])
def test_a_compressed_body_is_refused(encoding: str):
    with pytest.raises(UnsupportedMediaType):
        parse_as("application/json", HTTP_CONTENT_ENCODING=encoding)


def test_identity_is_no_compression():
    assert parse_as("application/json", HTTP_CONTENT_ENCODING="identity") == {"a": 1}
