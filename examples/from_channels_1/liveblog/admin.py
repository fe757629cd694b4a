"""Where posts are written."""

from django.contrib import admin

from liveblog.models import Liveblog, Post

admin.site.register([Liveblog, Post])
