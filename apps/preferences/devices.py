"""Writes about push tokens. Used through ``services``."""

from datetime import datetime
from typing import Final

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from apps.preferences import addresses, cipher, profile
from apps.preferences.locks import UnknownRecipient, lock_addresses, lock_recipient, lock_recipients, touch_recipients
from apps.preferences.models import Device, Platform, Recipient

MAX_ACTIVE_DEVICES: Final = 20
REASON_MAX_LENGTH: Final = 64


@transaction.atomic
def register_device(
    *, user_id: str, token: str, platform: str, app_id: str = "", now: datetime | None = None
) -> tuple[Device, bool]:
    """Register a token for a recipient; returns the device and whether it is new to this recipient.

    An upsert: the same token again refreshes ``registered_at`` and switches a dead device on. A token another
    recipient holds moves: somebody else signed in on that phone, and the old owner stops getting its messages.
    Beyond 20 active devices the one not seen for longest is switched off.
    Raises ``UnknownRecipient``, ``profile.InvalidValue``, ``addresses.InvalidAddress``."""
    now = now or timezone.now()
    if platform not in Platform.values:
        raise profile.InvalidValue(f"Enter one of the platforms {', '.join(Platform.values)}.")
    profile.check_app_id(app_id)
    token = addresses.normalise_token(token)
    token_bi = cipher.blind_index(addresses.TOKEN, token)
    lock_addresses(token_bi)
    owner, device = _lock_owner(user_id, token_bi)
    if device is None:
        device = Device.objects.create(
            recipient=owner,
            platform=platform,
            app_id=app_id,
            token_ct=cipher.encrypt(token.encode(), cipher.device_aad(user_id)),
            token_bi=token_bi,
            registered_at=now,
            last_seen_at=now,
        )
        _enforce_cap(owner, device, now)
        touch_recipients([owner])
        return device, True
    seen = (device.platform, device.app_id, device.deactivated_at)
    device.platform, device.app_id, device.deactivated_at = platform, app_id, None
    device.deactivated_reason = ""
    device.registered_at = device.last_seen_at = now
    device.save()
    if seen != (platform, app_id, None):
        _enforce_cap(owner, device, now)
        touch_recipients([owner])
    return device, False


def _lock_owner(user_id: str, token_bi: bytes) -> tuple[Recipient, Device | None]:
    """The recipient, locked, and its device of this token if it has one; another recipient's is taken away.
    The token's own lock is held, so nobody can register it meanwhile; it can only go."""
    holds_token = Q(pk__in=Device.objects.filter(token_bi=token_bi).values("recipient_id"))
    recipients = lock_recipients(Recipient.objects.filter(Q(user_id=user_id, erased_at=None) | holds_token))
    owner = next((recipient for recipient in recipients if recipient.user_id == user_id), None)
    if owner is None or owner.erased_at is not None:
        raise UnknownRecipient("There is no such recipient.")
    device = Device.objects.filter(token_bi=token_bi).first()
    if device is not None and device.recipient_id != owner.pk:
        device.delete()
        touch_recipients([recipient for recipient in recipients if recipient.pk == device.recipient_id])
        return owner, None
    return owner, device


def _enforce_cap(owner: Recipient, newest: Device, now: datetime) -> None:
    others = Device.objects.filter(recipient=owner, deactivated_at=None).exclude(pk=newest.pk)
    surplus = others.order_by("-last_seen_at", "-pk").values_list("pk", flat=True)[MAX_ACTIVE_DEVICES - 1 :]
    Device.objects.filter(pk__in=list(surplus)).update(
        deactivated_at=now, deactivated_reason=f"more than {MAX_ACTIVE_DEVICES} devices"
    )


@transaction.atomic
def remove_device(*, user_id: str, token: str | None = None, device_id: int | None = None) -> bool:
    """Forget one of the recipient's devices, named by token or by id; whether there was such a device.
    Raises ``UnknownRecipient``, ``addresses.InvalidAddress``."""
    recipient = lock_recipient(user_id)
    devices = Device.objects.filter(recipient=recipient)
    if device_id is not None:
        devices = devices.filter(pk=device_id)
    if token is not None or device_id is None:
        devices = devices.filter(token_bi=cipher.blind_index(addresses.TOKEN, token or ""))
    removed, _ = devices.delete()
    if removed:
        touch_recipients([recipient])
    return bool(removed)


@transaction.atomic
def deactivate_device(*, device_id: int, dead_since: datetime | None, reason: str) -> bool:
    """Switch off a device whose token the provider calls dead; whether anything changed.

    ``dead_since`` (aware) is the provider's time of death (APNs 410 ``timestamp``), or else when the attempt
    was made: a token registered after it is alive and stays. ``None`` switches it off whatever its registration.
    ``reason`` is the provider's code."""
    recipient = Recipient.objects.select_for_update(of=("self",)).filter(devices=device_id).first()
    devices = Device.objects.filter(pk=device_id, recipient=recipient, deactivated_at=None)
    if dead_since is not None:
        devices = devices.filter(registered_at__lte=dead_since)
    changed = devices.update(deactivated_at=timezone.now(), deactivated_reason=reason[:REASON_MAX_LENGTH])
    if recipient is not None and changed:
        touch_recipients([recipient])
    return bool(changed)
