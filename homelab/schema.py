"""What the OpenAPI schema says of our keys, and of the one shape of every error."""

from typing import Any

from drf_spectacular.contrib.django_filters import DjangoFilterExtension
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiExample
from rest_framework import serializers

from homelab.examples import examples
from metrics.serializers import RefusalSerializer

# Otherwise whoever first asks for the schema has the hub run ldconfig, and gcc, to look for a library of maps.
DjangoFilterExtension._has_gis = False  # type: ignore[attr-defined]


class ErrorResponseSerializer(RefusalSerializer):
    request_id = serializers.CharField(help_text="Also in the hub's log.")


class ApiSchema(AutoSchema):
    def get_summary(self) -> str | None:
        """Return the first sentence of what the call says of itself."""
        return super().get_description().split("\n\n")[0].replace("\n", " ").rstrip(".") or None

    def get_description(self) -> str:  # type: ignore[override] # of drf-spectacular, not of DRF
        return super().get_description().partition("\n\n")[2]

    def get_examples(self) -> list[OpenApiExample]:
        return list(examples(self.get_operation_id()))

    def _get_request_body(self, direction: Any = "request") -> dict[str, Any] | None:
        body = super()._get_request_body(direction)
        return body and {**body, "required": True}

    def _get_response_bodies(self, direction: Any = "response") -> dict[str, Any]:
        errors = self._get_response_for_code(ErrorResponseSerializer, "default")
        errors["description"] = "Whatever is not 2xx."
        return {**super()._get_response_bodies(direction), "default": errors}


class KeyScheme(OpenApiAuthenticationExtension):
    target_class = "servers.authentication.KeyAuthentication"
    name = ["bearerKey", "headerKey"]

    def get_security_definition(self, auto_schema: Any) -> Any:
        return [
            {"type": "http", "scheme": "bearer", "description": "A key made in the admin or by `createkey`."},
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        ]
