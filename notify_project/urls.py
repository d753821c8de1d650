"""All addresses of the platform."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from notify_project.health import healthz, readyz
from notify_project.metrics_view import metrics_page

urlpatterns: list[URLPattern | URLResolver] = [
    path("v1/", include("apps.delivery.api.urls")),  # first what is asked for most
    path("healthz", healthz, name="healthz"),
    path("readyz", readyz, name="readyz"),
    path("metrics", metrics_page, name="metrics"),
    path("", include("apps.preferences.pages.urls")),
    path("v1/", include("apps.preferences.api.urls")),
    path("v1/", include("apps.providers.api.urls")),
    path("v1/schema", SpectacularAPIView.as_view(), name="schema"),
    path("docs", SpectacularSwaggerView.as_view(url_name="schema"), name="docs"),
    path("problems/<str:code>", RedirectView.as_view(url="/docs"), name="problem"),
    path("admin/", admin.site.urls),
    path("", RedirectView.as_view(pattern_name="docs")),
]
handler400 = "notify_project.problems.handle_bad_request"
handler403 = "notify_project.problems.handle_forbidden"
handler404 = "notify_project.problems.handle_not_found"
handler500 = "notify_project.problems.handle_server_error"
