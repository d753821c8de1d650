from typing import Any

from django.db import transaction
from rest_framework import generics, serializers

from benchmarks.plain_celery.models import Device, Notification
from benchmarks.plain_celery.tasks import send_push


class NotificationSerializer(serializers.ModelSerializer[Notification]):
    user_id = serializers.SlugRelatedField(
        source="device", slug_field="person__user_id", queryset=Device.objects.select_related("person")
    )

    class Meta:
        model = Notification
        fields = ("id", "user_id", "title", "body", "status", "created_at")
        read_only_fields = ("status",)


class CreateNotification(generics.CreateAPIView[Notification]):
    queryset = Notification.objects.all()
    serializer_class = NotificationSerializer

    def perform_create(self, serializer: Any) -> None:
        notification = serializer.save()
        transaction.on_commit(lambda: send_push.delay(notification.id))
