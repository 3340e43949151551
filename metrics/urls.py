from django.urls import path

from metrics import event_views, export_views, read_views, views

urlpatterns = [
    path("agents/heartbeat", views.HeartbeatView.as_view(), name="heartbeat"),
    path("agents/heartbeats", views.HeartbeatBatchView.as_view(), name="heartbeat-batch"),
    path("metrics/sparkline/<slug:server_id>/network", views.SparklineView.as_view(), name="sparkline"),
    path("metrics/history/<slug:server_id>/network", read_views.HistoryView.as_view(), name="history"),
    path("metrics/usage", read_views.UsageView.as_view(), name="usage"),
    path("metrics/top", read_views.TopView.as_view(), name="top"),
    path("metrics/export", export_views.ExportView.as_view(), name="export"),
    path("events", event_views.EventListView.as_view(), name="event-list"),
    path("servers/<slug:server_id>/interfaces", read_views.InterfaceListView.as_view(), name="interface-list"),
    path(
        "servers/<slug:server_id>/interfaces/<path:name>",
        read_views.InterfaceDetailView.as_view(),
        name="interface-detail",
    ),
]
