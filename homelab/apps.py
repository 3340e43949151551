from django.apps import AppConfig


class HomelabConfig(AppConfig):
    name = "homelab"
    verbose_name = "Homelab"

    def ready(self) -> None:
        from homelab import checks, schema  # noqa: F401 - Django and drf-spectacular find them by import
