"""``/v1/users/…``: HTTP in, a service or selector called, HTTP out."""

from typing import Any, ClassVar, NoReturn

from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from apps.channels import Channel
from apps.preferences import profile, selectors, services
from apps.preferences.api import serializers, wishes
from apps.preferences.api.etags import read_if_match, to_etag
from apps.preferences.models import Recipient
from apps.problems import Problem

READ = "preferences:read"
WRITE = "preferences:write"

USER_ID = OpenApiParameter(
    "user_id",
    {"type": "string", "minLength": 1, "maxLength": profile.USER_ID_MAX_LENGTH, "pattern": "^[^/]+$"},
    OpenApiParameter.PATH,
    description="The caller's own id of the recipient: 1 to 128 printable characters without '/', percent-encoded.",
    examples=[OpenApiExample("A user", "user-1")],
)
_PROFILE_EXAMPLE = OpenApiExample(
    "A profile",
    {
        "email": "ann@example.com",
        "phone": "+15005550006",
        "locale": "en-US",
        "time_zone": "Europe/Berlin",
        "attributes": {"plan": "gold"},
    },
    request_only=True,
)
_RECIPIENT_EXAMPLE = OpenApiExample(
    "A recipient",
    {
        "user_id": "user-1",
        "email": "a•••@example.com",
        "phone": "+1•••06",
        "locale": "en-US",
        "time_zone": "Europe/Berlin",
        "attributes": {"plan": "gold"},
        "created_at": "2026-01-31T12:00:00Z",
        "updated_at": "2026-01-31T12:00:00Z",
    },
    response_only=True,
)
_PREFERENCES_EXAMPLE = OpenApiExample(
    "No text messages, no marketing by e-mail, quiet nights",
    {
        "opted_out": False,
        "time_zone": "Europe/Berlin",
        "channels": {"sms": False},
        "categories": {"marketing": {"email": False}},
        "quiet_hours": [{"days": ["mon", "tue", "wed", "thu", "fri"], "start": "22:00", "end": "07:00"}],
    },
    request_only=True,
)
_STATED_EXAMPLE = OpenApiExample(
    "No text messages, no marketing by e-mail, quiet nights",
    {
        "opted_out": False,
        "time_zone": "Europe/Berlin",
        "channels": {"push": None, "sms": False, "email": None},
        "categories": {"marketing": {"email": False}},
        "quiet_hours": [{"days": ["mon", "tue", "wed", "thu", "fri"], "start": "22:00", "end": "07:00"}],
        "effective": {
            "": {"push": True, "sms": False, "email": True},
            "marketing": {"push": True, "sms": False, "email": False},
        },
    },
    response_only=True,
)
_ETAG = OpenApiParameter(
    "ETag",
    str,
    OpenApiParameter.HEADER,
    response=[200],
    description="Changes with every change of the preferences.",
)
_IF_MATCH = OpenApiParameter(
    "If-Match",
    str,
    OpenApiParameter.HEADER,
    description="The `ETag` of an earlier answer: if the preferences have changed since, nothing is done (412).",
)
_DEVICE_EXAMPLE = OpenApiExample(
    "A phone", {"token": "fGk3-example-token", "platform": "android", "app_id": "com.example.app"}, request_only=True
)
_TAG = ["Recipients"]


class RecipientView(APIView):
    """What the calls below ``/v1/users/{user_id}`` have in common: an id that could exist."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": READ, "PUT": WRITE, "POST": WRITE, "DELETE": WRITE}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        try:
            profile.check_user_id(kwargs["user_id"])
        except profile.InvalidValue as error:
            raise Problem(422, "invalid-user-id", f"The user id in the address cannot exist. {error}") from None

    def handle_exception(self, exc: Exception) -> Response:
        if isinstance(exc, services.UnknownRecipient):
            exc = _unknown_recipient_problem()
        return super().handle_exception(exc)


def _unknown_recipient_problem() -> Problem:
    return Problem(404, "unknown-user", "There is no such user. PUT /v1/users/{user_id} creates one.")


def _unknown_device() -> NoReturn:
    raise Problem(404, "unknown-device", "The user has no such device.")


def _get_recipient(user_id: str) -> Recipient:
    recipient = selectors.select_recipient(user_id)
    if recipient is None:
        raise _unknown_recipient_problem()
    return recipient


def _validated(serializer: Any) -> dict[str, Any]:
    serializer.is_valid(raise_exception=True)
    return serializer.validated_data  # type: ignore[no-any-return]


class UserView(RecipientView):
    """A recipient's profile: contact points, locale, time zone, attributes."""

    @extend_schema(
        operation_id="users_get",
        tags=_TAG,
        summary="Show a recipient, contact points masked",
        parameters=[USER_ID],
        responses={200: serializers.RecipientSerializer},
        examples=[_RECIPIENT_EXAMPLE],
    )
    def get(self, request: Request, user_id: str) -> Response:
        return Response(serializers.present_recipient(_get_recipient(user_id)))

    @extend_schema(
        operation_id="users_put",
        tags=_TAG,
        summary="Create or replace a recipient's profile",
        description="The whole profile: a field that is left out is removed. Preferences and devices stay. "
        "The same call again changes nothing.",
        parameters=[USER_ID],
        request=serializers.ProfileSerializer,
        responses={
            200: serializers.RecipientSerializer,
            201: OpenApiResponse(serializers.RecipientSerializer, description="Created."),
        },
        examples=[_PROFILE_EXAMPLE, _RECIPIENT_EXAMPLE],
    )
    def put(self, request: Request, user_id: str) -> Response:
        values = _validated(serializers.ProfileSerializer(data=request.data))
        recipient, is_new = services.upsert_recipient(user_id=user_id, **values)
        return Response(serializers.present_recipient(recipient), status=201 if is_new else 200)

    @extend_schema(
        operation_id="users_delete",
        tags=_TAG,
        summary="Erase a recipient",
        description="Removes contact points, devices, locale, time zone and attributes for good. Opt-outs outlive it: "
        "a user created again under the same id is still opted out of what they were opted out of.",
        parameters=[USER_ID],
        responses={204: None},
    )
    def delete(self, request: Request, user_id: str) -> Response:
        services.erase_recipient(user_id=user_id)
        return Response(status=204)


class PreferencesView(RecipientView):
    """What a recipient wants to get."""

    @extend_schema(
        operation_id="users_preferences_get",
        tags=_TAG,
        summary="Show a recipient's preferences",
        description="What the person said; `null` is nothing said. The most specific word counts: the global opt-out, "
        "then the category on the channel, then the channel, then the category's default. `effective` is the result.",
        parameters=[USER_ID, _ETAG],
        responses={200: wishes.PreferencesSerializer},
        examples=[_STATED_EXAMPLE],
    )
    def get(self, request: Request, user_id: str) -> Response:
        return _show_preferences(_get_recipient(user_id))

    @extend_schema(
        operation_id="users_preferences_put",
        tags=_TAG,
        summary="Change a recipient's preferences",
        description="What is given replaces what was there, what is left out stays: "
        '`{"channels": {"sms": false}}` switches SMS off and touches nothing else; `null` takes a word back. '
        "Idempotent; the answer of GET sent back changes nothing. After the 200 no send is decided against it.",
        parameters=[USER_ID, _ETAG, _IF_MATCH],
        request=wishes.PreferencesSerializer,
        responses={
            200: wishes.PreferencesSerializer,
            412: OpenApiResponse(description="`If-Match` was given, and the preferences have changed since."),
        },
        examples=[_PREFERENCES_EXAMPLE, _STATED_EXAMPLE],
    )
    def put(self, request: Request, user_id: str) -> Response:
        only_if = read_if_match(request.headers.get("If-Match"))
        values = _validated(wishes.PreferencesSerializer(data=request.data))
        try:
            recipient = services.update_preferences(
                user_id=user_id,
                is_opted_out=values.get("opted_out"),
                channels=_to_words(values.get("channels", {})),
                categories={key: _to_words(words) for key, words in values.get("categories", {}).items()},
                quiet_hours=(values["quiet_hours"] or ()) if "quiet_hours" in values else None,
                time_zone=values.get("time_zone"),
                only_if=only_if,
            )
        except services.UnknownCategory as error:
            wishes.refuse_unknown_categories(error.keys, "categories")
            raise
        except services.PreferencesChanged:
            raise Problem(
                412,
                "preferences-changed",
                "The preferences have changed since the answer whose ETag is in If-Match; read them again.",
            ) from None
        return _show_preferences(recipient)


def _to_words(labels: dict[str, bool | None]) -> dict[Channel, bool | None]:
    return {Channel.from_label(label): wish for label, wish in labels.items()}


def _show_preferences(recipient: Recipient) -> Response:
    stated = selectors.select_preferences(recipient)
    return Response(wishes.present_preferences(stated), headers={"ETag": to_etag(stated.fingerprint)})


class CategoriesView(APIView):
    """What recipients can choose from, and what a notification's ``category`` can be."""

    required_scopes: ClassVar[dict[str, str]] = {"GET": READ}

    @extend_schema(
        operation_id="categories_list",
        tags=["Categories"],
        summary="List the categories with their rules",
        responses={200: wishes.CategoryListSerializer},
    )
    def get(self, request: Request) -> Response:
        rows = [wishes.present_category(category) for category in selectors.select_categories()]
        return Response({"categories": rows})


class DevicesView(RecipientView):
    """A recipient's push tokens."""

    @extend_schema(
        operation_id="users_devices_list",
        tags=_TAG,
        summary="List a recipient's active devices, tokens masked",
        parameters=[USER_ID],
        responses={200: serializers.DeviceListSerializer},
    )
    def get(self, request: Request, user_id: str) -> Response:
        devices = selectors.select_devices(_get_recipient(user_id).pk)
        return Response({"devices": [serializers.present_device(device, user_id) for device in devices]})

    @extend_schema(
        operation_id="users_devices_post",
        tags=_TAG,
        summary="Register a device",
        description="An upsert: call it at every start of the app. A token that another user held moves to this one. "
        "Beyond 20 active devices the one not seen for longest is switched off.",
        parameters=[USER_ID],
        request=serializers.DeviceRegistrationSerializer,
        responses={
            200: serializers.DeviceSerializer,
            201: OpenApiResponse(serializers.DeviceSerializer, description="New to this user."),
        },
        examples=[_DEVICE_EXAMPLE],
    )
    def post(self, request: Request, user_id: str) -> Response:
        values = _validated(serializers.DeviceRegistrationSerializer(data=request.data))
        device, is_new = services.register_device(user_id=user_id, **values)
        return Response(serializers.present_device(device, user_id), status=201 if is_new else 200)

    @extend_schema(
        operation_id="users_devices_delete_by_token",
        tags=_TAG,
        summary="Remove the device of a token",
        # OpenAPI generators leave the body of a DELETE out: it is written here.
        description='Body: `{"token": "..."}`. It stands there and not in the address, so that it does not end up in '
        "access logs. Where a body cannot be sent, remove the device by its id.",
        parameters=[USER_ID],
        request=serializers.DeviceTokenSerializer,
        responses={204: None},
    )
    def delete(self, request: Request, user_id: str) -> Response:
        values = _validated(serializers.DeviceTokenSerializer(data=request.data))
        if not services.remove_device(user_id=user_id, token=values["token"]):
            _unknown_device()
        return Response(status=204)


class DeviceView(RecipientView):
    """One push token, by the id the registration answered with."""

    @extend_schema(
        operation_id="users_devices_delete",
        tags=_TAG,
        summary="Remove a device",
        parameters=[USER_ID],
        responses={204: None},
    )
    def delete(self, request: Request, user_id: str, device_id: int) -> Response:
        if not services.remove_device(user_id=user_id, device_id=device_id):
            _unknown_device()
        return Response(status=204)
