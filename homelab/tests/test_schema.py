"""The OpenAPI schema tells the truth: each example in it is sent, and what is answered is as it says."""

import json
from collections.abc import Iterator
from functools import cache
from typing import Any
from urllib.parse import quote

import pytest
from django.test import Client
from drf_spectacular.generators import SchemaGenerator
from drf_spectacular.validation import validate_schema
from jsonschema import Draft202012Validator, FormatChecker

from servers.models import ApiKey

KINDS = {"agents_enrol": "enrolment", "agents_heartbeat": "shared", "agents_heartbeats": "shared"}


@cache
def schema() -> dict[str, Any]:
    return SchemaGenerator().get_schema(request=None, public=True)


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in schema()["paths"].items():
        for method, operation in methods.items():
            yield method.upper(), path, operation


def requests_of(operation: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield each way to send a call by its examples: parameters (the first time only those of the path) and body."""
    bodies = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {})
    for body in [example["value"] for example in bodies.values()] or [None]:
        parameters = operation.get("parameters", [])
        values = {
            each["name"]: [of["value"] for of in each["examples"].values()] for each in parameters if "examples" in each
        }
        yield {each["name"]: values[each["name"]][0] for each in parameters if each["in"] == "path"}, body
        for turn in range(max(map(len, values.values()), default=0)):
            yield {name: options[turn % len(options)] for name, options in values.items()}, body


CASES = [
    pytest.param(method, path, operation, parameters, body, id=f"{operation['operationId']}-{number}")
    for method, path, operation in operations()
    for number, (parameters, body) in enumerate(requests_of(operation))
]


def check(answer: Any, of: dict[str, Any]) -> None:
    rules = {**json_schema(of), "components": json_schema(schema()["components"])}
    Draft202012Validator(rules, format_checker=FormatChecker()).validate(answer)


def json_schema(of: Any) -> Any:
    """Return OpenAPI 3.0's dialect as JSON Schema: it says `nullable`."""
    if isinstance(of, list):
        return [json_schema(each) for each in of]
    if not isinstance(of, dict):
        return of
    rules = {name: json_schema(value) for name, value in of.items()}
    return {"anyOf": [rules, {"type": "null"}]} if rules.pop("nullable", False) is True else rules


@pytest.fixture
def hub(keys: dict[str, str], golden: dict[str, Any], shared) -> Client:
    """A hub that knows the server of the examples."""
    assert shared.post("/api/v1/agents/heartbeat", golden, format="json").status_code == 200
    return Client()


def test_the_schema_is_valid():
    validate_schema(schema())


@pytest.mark.parametrize(("method", "path", "operation", "parameters", "body"), CASES)
def test_an_example_is_answered_as_the_schema_says(hub, keys, method, path, operation, parameters, body):
    query = dict(parameters)
    for name in [name for name in parameters if f"{{{name}}}" in path]:
        path = path.replace(f"{{{name}}}", quote(query.pop(name), safe=""))
    key = keys[KINDS.get(operation["operationId"], "read")]
    answer = hub.generic(
        method,
        path,
        data=json_of(body),
        content_type="application/json",
        headers={"Authorization": f"Bearer {key}"},
        query_params=query,
    )
    content = b"".join(answer.streaming_content) if answer.streaming else answer.content
    assert str(answer.status_code) in operation["responses"], content
    assert answer.status_code < 300, content
    told = operation["responses"][str(answer.status_code)]["content"]
    media_type = answer["Content-Type"].partition(";")[0]
    assert media_type in told
    if media_type == "application/json":
        check(answer.json(), told[media_type]["schema"])


def json_of(body: Any) -> bytes:
    return b"" if body is None else json.dumps(body).encode()


@pytest.mark.parametrize(
    "operation", [pytest.param(operation, id=operation["operationId"]) for _, _, operation in operations()]
)
def test_a_call_says_what_it_does_and_shows_its_answer(operation: dict[str, Any]):
    assert operation["summary"]
    assert all(each["description"] for each in operation.get("parameters", []))
    success = next(answer for code, answer in operation["responses"].items() if code.startswith("2"))
    for media_type, content in success["content"].items():
        for example in content["examples"].values():
            if media_type == "application/json":
                check(example["value"], content["schema"])


def test_every_kind_of_key_is_tried(keys):
    assert set(KINDS.values()) | {"read", "agent"} == set(ApiKey.objects.values_list("kind", flat=True))
