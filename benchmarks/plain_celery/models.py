from django.db import models


class Person(models.Model):
    user_id = models.CharField(max_length=128, unique=True)

    def __str__(self) -> str:
        return self.user_id


class Device(models.Model):
    person = models.ForeignKey(Person, on_delete=models.CASCADE, related_name="devices")
    token = models.CharField(max_length=512, unique=True)

    def __str__(self) -> str:
        return str(self.pk)


class Notification(models.Model):
    class Status(models.TextChoices):
        QUEUED = "queued"
        SENT = "sent"
        FAILED = "failed"

    device = models.ForeignKey(Device, on_delete=models.CASCADE, related_name="notifications")
    title = models.CharField(max_length=200)
    body = models.TextField()
    status = models.CharField(max_length=10, choices=Status.choices, default=Status.QUEUED, db_index=True)
    message_id = models.CharField(max_length=200, blank=True)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    sent_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.title
