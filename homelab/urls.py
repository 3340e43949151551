from django.contrib import admin
from django.urls import include, path, re_path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerSplitView

from homelab import errors
from homelab.health import HealthView
from metrics.exposition import ExpositionView
from servers.adding import agent_file

handler400 = errors.bad_request
handler403 = errors.permission_denied
handler404 = errors.not_found
handler500 = errors.server_error

urlpatterns = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("admin/", admin.site.urls),
    path("agent/homelab_agent.py", agent_file, name="agent-file"),
    path("api/v1/", include("servers.urls")),
    path("api/v1/", include("metrics.urls")),
    path("metrics", ExpositionView.as_view(), name="prometheus"),
    path("api/v1/system/health", HealthView.as_view(), name="health"),
    path("api/schema", SpectacularAPIView.as_view(), name="schema"),
    path("api/docs", SpectacularSwaggerSplitView.as_view(url_name="schema"), name="docs"),
    re_path(r"^api(/.*)?$", errors.not_found),
]
