from django.urls import path

from metrics import views

urlpatterns = [
    path("agents/heartbeat", views.HeartbeatView.as_view(), name="heartbeat"),
    path("metrics/sparkline/<slug:server_id>/network", views.SparklineView.as_view(), name="sparkline"),
]
