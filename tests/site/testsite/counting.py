"""A Django middleware that counts how often it is loaded."""

from collections.abc import Callable
from typing import ClassVar

from django.http import HttpRequest, HttpResponse


class Counting:
    made: ClassVar[int] = 0

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        type(self).made += 1
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self._get_response(request)
