from django.apps import AppConfig
from django.contrib.admin.apps import AdminConfig


class HomelabConfig(AppConfig):
    name = "homelab"
    verbose_name = "Homelab"

    def ready(self) -> None:
        from homelab import checks, schema  # noqa: F401 - Django and drf-spectacular find them by import


class HubAdminConfig(AdminConfig):
    default_site = "metrics.site.HubSite"
