from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from servers.models import Server
from servers.serializers import ServerListSerializer, ServerSerializer


class ServerListView(APIView):
    @extend_schema(operation_id="servers_list", responses=ServerListSerializer)
    def get(self, request: Request) -> Response:
        """List every server with its latest state and interfaces."""
        servers = list(Server.objects.with_snapshot())
        listing = {"servers": servers, "total": len(servers)}
        return Response(ServerListSerializer(listing, context={"now": timezone.now()}).data)


class ServerDetailView(APIView):
    @extend_schema(operation_id="servers_retrieve", responses=ServerSerializer)
    def get(self, request: Request, server_id: str) -> Response:
        """Return one server with its latest state and interfaces; a new one has none."""
        server = get_object_or_404(Server.objects.with_snapshot(), id=server_id)
        return Response(ServerSerializer(server, context={"now": timezone.now()}).data)
