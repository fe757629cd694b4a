"""The page with the table."""

from django.contrib.auth.decorators import login_required
from django.shortcuts import render

from values.models import IntegerValue


@login_required
def table(request):
    return render(request, "values/table.html", {"values": IntegerValue.objects.order_by("pk")})
