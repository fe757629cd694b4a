"""Pages."""

import liveblog.views
import multichat.views
import values.views
from django.contrib import admin
from django.contrib.auth.views import LoginView
from django.urls import path
from django.views.generic import RedirectView

urlpatterns = [
    path("", RedirectView.as_view(url="/chat/")),
    path("login/", LoginView.as_view(template_name="multichat/login.html")),
    path("admin/", admin.site.urls),
    path("liveblog/<slug:slug>/", liveblog.views.blog),
    path("chat/", multichat.views.rooms),
    path("values/", values.views.table),
]
