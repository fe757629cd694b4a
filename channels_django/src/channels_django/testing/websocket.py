"""A client that speaks as a browser does: with a path, headers, cookies and a session."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from django.conf import settings
from django.http import HttpRequest

from channels_core.channel_layer import DEFAULT_CHANNEL_LAYER
from channels_django.testing.client import Client
from channels_session_django.channel_sessions import ChannelSession, session_for_reply_channel

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser

__all__ = ["HttpClient", "WSClient"]


class WSClient(Client):
    """A WebSocket client.

    ``ordered`` numbers its messages from 0, as ``enforce_ordering`` wants them. Its HTTP session, once used, is the
    channel session of its reply channel; the session cookie goes with the first message only, as a browser's goes
    with the handshake.
    """

    def __init__(self, alias: str = DEFAULT_CHANNEL_LAYER, *, ordered: bool = False) -> None:
        super().__init__(alias)
        self._is_ordered = ordered
        self._order = 0
        self._session: ChannelSession | None = None
        self._headers: dict[str, bytes] = {}
        self._cookies: SimpleCookie = SimpleCookie()
        self._sends_session = True

    @property
    def session(self) -> ChannelSession:
        """The session that ``login`` signs in to; change it, then ``save()`` it."""
        if self._session is None:
            self._session = session_for_reply_channel(self.reply_channel)
        return self._session

    def set_cookie(self, key: str, value: str) -> None:
        """Send a cookie with every message from now on."""
        self._cookies[key] = quote(value, safe="!#$%&'()*+-./:<=>?@[]^_`{|}~")

    def set_header(self, key: str, value: str) -> None:
        """Send a header with every message from now on. Raises ``ValueError`` for cookies: they have set_cookie."""
        if key.lower() == "cookie":
            raise ValueError("set_header() does not take 'cookie': use set_cookie(name, value).")
        self._headers[key.lower()] = value.encode("latin1")

    def get_cookies(self) -> dict[str, str]:
        """The cookies of the next message."""
        cookies = {key: morsel.value for key, morsel in self._cookies.items()}
        if self._sends_session and self._session is not None and self._session.session_key:
            cookies[settings.SESSION_COOKIE_NAME] = self._session.session_key
        return cookies

    @property
    def headers(self) -> dict[str, bytes]:
        """The headers of the next message."""
        headers = dict(self._headers)
        cookies = self.get_cookies()
        if cookies:
            headers["cookie"] = "; ".join(f"{key}={value}" for key, value in cookies.items()).encode("latin1")
        headers.setdefault("content-type", b"application/json")
        return headers

    def send(
        self,
        to: str,
        content: Mapping[str, Any] | None = None,
        text: Any = None,
        path: str = "/",
    ) -> None:
        """Send to the channel ``to``, with path, headers and, where not ``None``, ``text``: as it is, or as JSON.

        A query in ``path`` goes with ``websocket.connect`` only. Raises ``ValueError`` for an ``order`` of one's own in
        an ordered client.
        """
        message = dict(content or {})
        where, _, query = path.partition("?")
        message.setdefault("path", unquote(where))
        if query and to == "websocket.connect":
            message.setdefault("query_string", query.encode("latin1"))
        message.setdefault("headers", self.headers)
        if self._is_ordered:
            if "order" in message:
                raise ValueError(
                    "This client numbers its messages itself: leave 'order' out, or ordered=True."
                )
            message["order"] = self._order
            self._order += 1
        if text is not None:
            message["text"] = text if isinstance(text, str) else json.dumps(text)
        super().send(to, message)
        self._sends_session = False

    def receive(self, json: bool = True) -> Any:
        """The oldest message sent to this client, or ``None``: its text, decoded where ``json``, else its content."""
        content = super().receive()
        if not json or not content or not isinstance(content.get("text"), str):
            return content
        return _decode(content["text"])

    def consume(self, channel: str, fail_on_none: bool = True, check_accept: bool = True) -> Any:
        """:meth:`Client.consume`; for ``websocket.connect``, the first answer must be ``{"accept": True}``.

        Raises ``AssertionError`` where it is anything else, unless ``check_accept`` is false.
        """
        result = super().consume(channel, fail_on_none=fail_on_none)
        if channel == "websocket.connect" and check_accept:
            answer = self.receive(json=False)
            if answer != {"accept": True}:
                raise AssertionError(
                    f"The connection was not accepted: the first answer is {answer!r}, not {{'accept': True}}. Pass"
                    " check_accept=False where that is intended."
                )
        return result

    def send_and_consume(  # type: ignore[override]  # the order that tests written for Channels 1.x pass
        self,
        channel: str,
        content: Mapping[str, Any] | None = None,
        text: Any = None,
        path: str = "/",
        fail_on_none: bool = True,
        check_accept: bool = True,
    ) -> Any:
        """:meth:`send`, then :meth:`consume`."""
        self.send(channel, content, text, path)
        return self.consume(channel, fail_on_none=fail_on_none, check_accept=check_accept)

    def login(self, **credentials: Any) -> bool:
        """Sign in with ``credentials``; whether they are right."""
        from django.contrib.auth import authenticate

        user = authenticate(**credentials)
        if user is None or not user.is_active:
            return False
        self._login(user)
        return True

    def force_login(self, user: AbstractBaseUser, backend: str | None = None) -> None:
        """Sign ``user`` in without credentials."""
        self._login(user, backend or settings.AUTHENTICATION_BACKENDS[0])

    def _login(self, user: AbstractBaseUser, backend: str | None = None) -> None:
        from django.contrib.auth import login

        request = HttpRequest()
        request.session = self.session
        login(request, user, backend)  # type: ignore[arg-type]  # declared for the stock user only
        self.session.save()


HttpClient = WSClient
"""The same client under its other name."""


def _decode(text: str) -> Any:
    return json.loads(text)
