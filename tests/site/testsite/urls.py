"""The test site's URLs; tests that need views bring their own with `override_settings(ROOT_URLCONF=...)`."""

from django.urls import URLPattern, URLResolver

urlpatterns: list[URLPattern | URLResolver] = []
