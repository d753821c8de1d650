"""Addresses of pages for people who got a message."""

from django.urls import path

from apps.preferences import unsubscribe
from apps.preferences.pages import views

# Any path: what a mail program or a careless copy made of a link gets a page too, not a bare 404.
urlpatterns = [
    path(unsubscribe.PATH, views.unsubscribe_page, {"token": ""}, name="unsubscribe-nothing"),
    path(f"{unsubscribe.PATH}<path:token>", views.unsubscribe_page, name="unsubscribe"),
]
