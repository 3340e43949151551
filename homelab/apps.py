from collections.abc import Iterator
from typing import Any

from axes.apps import AppConfig as AxesConfig
from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class HomelabConfig(AppConfig):
    name = "homelab"
    verbose_name = "Homelab"

    def ready(self) -> None:
        from homelab import checks, schema  # noqa: F401 - Django and drf-spectacular find them by import


class SignInConfig(AxesConfig):
    """django-axes, which counts in the cache: its models have no tables, so that nobody must come across them."""

    def get_models(self, include_auto_created: bool = False, include_swapped: bool = False) -> Iterator[Any]:
        yield from ()


class HubAdminConfig(AdminConfig):
    default_site = "metrics.site.HubSite"
