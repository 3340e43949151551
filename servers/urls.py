from django.urls import path

from servers import views

urlpatterns = [
    path("agents/enrol", views.EnrolView.as_view(), name="enrol"),
    path("servers", views.ServerListView.as_view(), name="server-list"),
    path("servers/<slug:server_id>", views.ServerDetailView.as_view(), name="server-detail"),
]
