from typing import cast

from django.shortcuts import get_object_or_404
from django.utils import timezone
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import status
from rest_framework.exceptions import APIException
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from servers.authentication import refusal
from servers.enrolment import KeySpent, ServerTaken, enrol
from servers.models import ApiKey, Server
from servers.permissions import CanEnrol
from servers.serializers import EnrolledSerializer, EnrolmentSerializer, ServerListSerializer, ServerSerializer
from servers.throttling import ReportThrottle


class Taken(APIException):
    status_code = status.HTTP_409_CONFLICT
    default_code = "server_exists"
    default_detail = "This server has a live key. Revoke it, choose another id, or enrol with the server's guid."


class EnrolView(APIView):
    permission_classes = (CanEnrol,)
    throttle_classes = (ReportThrottle,)

    @extend_schema(
        operation_id="agents_enrol",
        request=EnrolmentSerializer,
        responses={201: EnrolledSerializer, 409: OpenApiResponse(description=Taken.default_detail)},
    )
    def post(self, request: Request) -> Response:
        """Give a machine a key of its own, and make its server when it is not known yet.

        A server that has a live key is given another only to the machine that names its guid; otherwise 409. Older
        keys stay until they are revoked.
        """
        body = EnrolmentSerializer(data=request.data)
        body.is_valid(raise_exception=True)
        machine = body.validated_data
        try:
            text = enrol(
                cast(ApiKey, request.auth),
                machine["server_id"],
                machine["hostname"],
                guid=machine.get("server_guid"),
                now=timezone.now(),
            )
        except KeySpent:
            raise refusal(request) from None
        except ServerTaken:
            raise Taken from None
        answer = {"server_id": machine["server_id"], "key": text}
        return Response(answer, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})


class ServerListView(APIView):
    @extend_schema(operation_id="servers_list", responses=ServerListSerializer)
    def get(self, request: Request) -> Response:
        """List every server with its latest state and interfaces."""
        servers = list(Server.objects.with_snapshot())
        listing = {"servers": servers, "total": len(servers)}
        return Response(ServerListSerializer(listing, context={"now": timezone.now()}).data)


class ServerDetailView(APIView):
    @extend_schema(
        operation_id="servers_retrieve",
        parameters=[OpenApiParameter("server_id", str, OpenApiParameter.PATH, description="The server's id.")],
        responses=ServerSerializer,
    )
    def get(self, request: Request, server_id: str) -> Response:
        """Return one server with its latest state and interfaces; a new one has none."""
        server = get_object_or_404(Server.objects.with_snapshot(), id=server_id)
        return Response(ServerSerializer(server, context={"now": timezone.now()}).data)
