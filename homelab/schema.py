"""What the OpenAPI schema says of our keys."""

from typing import Any

from drf_spectacular.extensions import OpenApiAuthenticationExtension


class KeyScheme(OpenApiAuthenticationExtension):
    target_class = "servers.authentication.KeyAuthentication"
    name = ["bearerKey", "headerKey"]

    def get_security_definition(self, auto_schema: Any) -> Any:
        return [
            {"type": "http", "scheme": "bearer", "description": "A key made in the admin or by `createkey`."},
            {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        ]
