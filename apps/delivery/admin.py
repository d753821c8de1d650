"""Notifications and deliveries in the admin, to look at, not to change. Content stays sealed, reasons are spelt out."""

from typing import Any
from uuid import UUID

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe

from apps.delivery import admin_broadcasts, admin_templates  # noqa: F401 - register themselves
from apps.delivery.admin_base import ReadOnlyAdmin, status_badge
from apps.delivery.dead_letters import replay
from apps.delivery.ids import delivery_range, notification_id_of
from apps.delivery.models import Attempt, Delivery, Notification, ReceiptEvent
from apps.delivery.selectors import overall_status, select_attempts, select_deliveries, select_deliveries_of
from apps.delivery.statuses import AttemptOutcome
from apps.delivery.wording import explain, provider_alias, reason_label
from apps.providers.messages import ReceiptKind


@admin.register(Notification)
class NotificationAdmin(ReadOnlyAdmin):
    list_display = ("short_id", "created", "client_name", "user_id", "type", "lane", "status", "trace_id")
    list_filter = ("lane",)
    search_fields = ("user_id__exact", "trace_id__exact", "type__exact")
    search_help_text = "A notification's or delivery's id, or exactly a user id, trace id or type"
    ordering = ("-id",)
    list_per_page = 50
    fields = (
        "id", "created", "client_name", "user_id", "type", "category", "lane", "trace_id", "send_at", "expires_at",
        "content", "deliveries", "attempts", "receipts",
    )  # fmt: skip
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> QuerySet[Notification]:
        return super().get_queryset(request).select_related("client").defer("content_ct")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        try:
            return queryset.filter(id=notification_id_of(UUID(search_term.strip()))), False
        except ValueError:
            return super().get_search_results(request, queryset, search_term)

    @admin.display(description="notification")
    def short_id(self, row: Notification) -> str:
        return str(row.id)

    @admin.display(description="accepted")
    def created(self, row: Notification) -> str:
        return f"{row.created_at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"

    @admin.display(description="client")
    def client_name(self, row: Notification) -> str:
        return row.client.name if row.client_id else ""

    @admin.display
    def status(self, row: Notification) -> SafeString:
        statuses = {delivery.status for delivery in select_deliveries_of([row])[row.id]}
        return status_badge(overall_status(statuses))

    @admin.display
    def content(self, row: Notification) -> str:
        return "•••••• (encrypted; not shown)"

    @admin.display
    def deliveries(self, row: Notification) -> SafeString:
        return _table(
            ("channel", "device", "status", "why", "provider", "attempts", "next attempt", "sent", "delivered"),
            [
                (
                    _link(delivery),
                    delivery.device_id or "",
                    status_badge(delivery.status),
                    explain(delivery.reason, delivery.status),
                    provider_alias(delivery.provider) or "",
                    delivery.attempts,
                    _time(delivery.next_attempt_at),
                    _time(delivery.sent_at),
                    _time(delivery.delivered_at),
                )
                for delivery in select_deliveries(row.id)
            ],
        )

    @admin.display(description="failed attempts")
    def attempts(self, row: Notification) -> SafeString:
        return _attempts_table([one for many in select_attempts(row.id).values() for one in many])

    @admin.display
    def receipts(self, row: Notification) -> SafeString:
        return _receipts_table(ReceiptEvent.objects.filter(delivery_id__range=delivery_range(row.id)).order_by("id"))


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    list_display = ("id", "created", "recipient_name", "channel", "lane", "badge", "why", "provider_name", "attempts")
    list_filter = ("status", "channel", "lane")
    search_fields = ("id",)
    search_help_text = "A delivery's id"
    ordering = ("-id",)
    list_per_page = 50
    list_select_related = ("recipient",)
    fields = (
        "id", "notification", "created", "recipient_name", "device_id", "channel", "lane", "badge", "why",
        "reason_name", "provider_name", "provider_message_id", "error_code", "attempts", "lapses",
        "next_attempt_at", "sent_at", "delivered_at", "failed_calls",
    )  # fmt: skip
    readonly_fields = fields
    actions = ("replay_selected",)

    @admin.action(description="Replay selected dead deliveries", permissions=["replay"])
    def replay_selected(self, request: HttpRequest, queryset: QuerySet[Delivery]) -> None:
        revived = replay(list(queryset.values_list("id", flat=True)), client_id=None)
        for delivery in queryset.filter(id__in=revived):
            self.log_change(request, delivery, "Replayed.")
        self.message_user(request, f"{len(revived)} put back into the queue; what was not dead was left alone.")

    def has_replay_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("delivery.change_delivery")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        if not search_term:
            return queryset, False
        try:
            return queryset.filter(id=UUID(search_term.strip())), False
        except ValueError:
            return queryset.none(), False

    @admin.display(description="accepted")
    def created(self, row: Delivery) -> str:
        return f"{row.created_at:%Y-%m-%d %H:%M:%S.%f}"[:-3] + " UTC"

    @admin.display(description="recipient")
    def recipient_name(self, row: Delivery) -> str:
        return row.recipient.user_id

    @admin.display(description="status")
    def badge(self, row: Delivery) -> SafeString:
        return status_badge(row.status)

    @admin.display
    def why(self, row: Delivery) -> str:
        return explain(row.reason, row.status)

    @admin.display(description="reason")
    def reason_name(self, row: Delivery) -> str:
        return reason_label(row.reason) or ""

    @admin.display(description="provider")
    def provider_name(self, row: Delivery) -> str:
        return provider_alias(row.provider) or ""

    @admin.display
    def notification(self, row: Delivery) -> SafeString:
        url = reverse("admin:delivery_notification_change", args=[row.notification_id])
        return format_html('<a href="{}">{}</a>', url, row.notification_id)

    @admin.display(description="failed attempts")
    def failed_calls(self, row: Delivery) -> SafeString:
        return _attempts_table(list(Attempt.objects.filter(delivery_id=row.id).order_by("at")))


def _attempts_table(attempts: list[Attempt]) -> SafeString:
    return _table(
        ("at", "provider", "outcome", "code", "message", "ms"),
        [
            (
                _time(attempt.at),
                provider_alias(attempt.provider) or "",
                AttemptOutcome(attempt.outcome).label,
                attempt.code,
                attempt.message,
                attempt.latency_ms,
            )
            for attempt in attempts
        ],
    )


def _receipts_table(events: QuerySet[ReceiptEvent]) -> SafeString:
    return _table(
        ("received", "occurred", "provider", "event", "code", "changed the status"),
        [
            (
                _time(event.received_at),
                _time(event.occurred_at),
                provider_alias(event.provider) or "",
                ReceiptKind(event.kind).label,
                event.code,
                "yes" if event.is_matched else "no",
            )
            for event in events
        ],
    )


def _link(delivery: Delivery) -> SafeString:
    url = reverse("admin:delivery_delivery_change", args=[delivery.id])
    return format_html('<a href="{}">{}</a>', url, delivery.get_channel_display())


def _time(moment: Any) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S.%f}"[:-3] if moment else ""


def _table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> SafeString:
    if not rows:
        return mark_safe("—")
    header = format_html_join("", "<th>{}</th>", ((title,) for title in head))
    body = format_html_join(
        "", "<tr>{}</tr>", ((format_html_join("", "<td>{}</td>", ((cell,) for cell in row)),) for row in rows)
    )
    return format_html("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>", header, body)
