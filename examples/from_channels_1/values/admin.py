"""Another place where numbers change."""

from django.contrib import admin

from values.models import IntegerValue

admin.site.register(IntegerValue)
