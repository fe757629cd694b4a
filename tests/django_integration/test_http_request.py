"""AsgiRequest: from an http.request message to a Django request."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import BadRequest, RequestDataTooBig
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest
from django.test import override_settings

from channels_core import Channel, ChannelLayer, Message, RequestAborted, RequestTimeout
from channels_django import AsgiRequest

MakeRequest = Callable[..., Message]


def test_b49_it_is_a_django_request_with_reply_channel_and_message(make_request: MakeRequest) -> None:
    message = make_request(method="get", path="/a/ü/", query_string=b"x=1&x=2")
    request = AsgiRequest(message)
    assert isinstance(request, HttpRequest)
    assert request.message is message
    assert isinstance(request.reply_channel, Channel)
    assert request.reply_channel.name == "http.response.test!1"
    assert request.method == "GET"
    assert request.path == request.path_info == "/a/ü/"
    assert request.GET.getlist("x") == ["1", "2"]
    assert request.body == b""


@pytest.mark.parametrize("key", ["reply_channel", "method", "path"])
def test_anything_but_a_request_is_refused_by_the_missing_key(make_request: MakeRequest, key: str) -> None:
    message = make_request()
    del message.content[key]
    with pytest.raises(ValueError) as caught:
        AsgiRequest(message)
    assert str(caught.value) == (
        f"AsgiRequest needs an http.request message, and this one has no {key!r}; its keys are"
        f" {sorted(message.keys())}. An http.request message has 'reply_channel', 'method', 'path', each non-empty"
        " text."
    )


def test_a_key_of_another_type_is_named_with_its_value(make_request: MakeRequest) -> None:
    with pytest.raises(ValueError) as caught:
        AsgiRequest(make_request(method=b"GET"))
    assert str(caught.value) == (
        "AsgiRequest needs an http.request message, and this one has 'method': b'GET'; its keys are"
        " ['headers', 'http_version', 'method', 'path', 'reply_channel']. An http.request message has 'reply_channel',"
        " 'method', 'path', each non-empty text."
    )


def test_a_websocket_message_is_refused(layer: ChannelLayer) -> None:
    with pytest.raises(ValueError, match="has no 'method'"):
        AsgiRequest(Message({"reply_channel": "websocket.send.a!b", "path": "/"}, "websocket.connect", layer))


def test_b36_headers_are_handled_as_django_does(make_request: MakeRequest) -> None:
    request = AsgiRequest(
        make_request(
            headers=[
                [b"host", b"testserver"],
                [b"x-many", b"one"],
                [b"x-many", b"two"],
                [b"content-type", b"text/html"],
                [b"content-length", b"0"],
                [b"cookie", b"a=1"],
                [b"cookie", b"b=2"],
                [b"x_forwarded_for", b"forged"],
            ]
        )
    )
    assert request.headers["X-Many"] == "one,two"
    assert request.META["CONTENT_TYPE"] == "text/html"
    assert request.META["CONTENT_LENGTH"] == "0"
    assert request.COOKIES == {"a": "1", "b": "2"}
    assert "HTTP_X_FORWARDED_FOR" not in request.META


def test_headers_may_be_a_dict_of_text_as_test_clients_send_them(make_request: MakeRequest) -> None:
    request = AsgiRequest(make_request(headers={"Host": b"testserver", "X-Any": "thing"}))
    assert request.headers["X-Any"] == "thing"
    assert request.get_host() == "testserver"


def test_b37_root_path_is_the_script_name(make_request: MakeRequest) -> None:
    request = AsgiRequest(make_request(path="/site/page/", root_path="/site"))
    assert (request.META["SCRIPT_NAME"], request.path, request.path_info) == (
        "/site",
        "/site/page/",
        "/page/",
    )
    request = AsgiRequest(make_request(path="/page/", root_path="/site"))
    assert request.path_info == "/page/"


def test_b38_addresses(make_request: MakeRequest) -> None:
    request = AsgiRequest(make_request())
    assert (request.META["SERVER_NAME"], request.META["SERVER_PORT"]) == ("unknown", "0")
    assert "REMOTE_ADDR" not in request.META
    assert "REMOTE_PORT" not in request.META
    request = AsgiRequest(make_request(client=["10.0.0.9", 1234], server=["10.0.0.1", 80]))
    assert (request.META["REMOTE_ADDR"], request.META["REMOTE_PORT"]) == ("10.0.0.9", 1234)
    assert (request.META["SERVER_NAME"], request.META["SERVER_PORT"]) == ("10.0.0.1", "80")


def test_b39_the_scheme_says_whether_it_is_secure(make_request: MakeRequest) -> None:
    assert not AsgiRequest(make_request()).is_secure()
    assert AsgiRequest(make_request(scheme="https")).is_secure()


def test_a_body_in_the_message_is_read(make_request: MakeRequest) -> None:
    request = AsgiRequest(
        make_request(
            method="POST",
            body=b"name=Ada&x=1",
            headers=[[b"content-type", b"application/x-www-form-urlencoded"], [b"content-length", b"12"]],
        )
    )
    assert request.POST.dict() == {"name": "Ada", "x": "1"}


def test_b43_a_body_is_read_from_its_channel_until_the_last_chunk(
    make_request: MakeRequest, layer: ChannelLayer
) -> None:
    layer.send("http.body?1", {"content": b"two ", "more_content": True})
    layer.send("http.body?1", {"content": b"three", "more_content": False})
    layer.send("http.body?1", {"content": b"of another", "more_content": False})
    request = AsgiRequest(make_request(method="POST", body=b"one ", body_channel="http.body?1"))
    assert request.body == b"one two three"
    assert request.META["CONTENT_LENGTH"] == "13"
    assert layer.receive(["http.body?1"]) == (
        "http.body?1",
        {"content": b"of another", "more_content": False},
    )
    request.close()


def test_a_chunk_without_content_is_an_empty_one(make_request: MakeRequest, layer: ChannelLayer) -> None:
    layer.send("http.body?1", {"more_content": True})
    layer.send("http.body?1", {"content": b"end"})
    request = AsgiRequest(make_request(method="POST", body_channel="http.body?1"))
    assert request.body == b"end"
    request.close()


def test_a_credit_goes_back_for_each_chunk_that_wants_one(
    make_request: MakeRequest, layer: ChannelLayer
) -> None:
    reply = "http.response.test!abc"
    chunk = layer.prepare("http.body?1", {"content": b"x", "more_content": True}, {"c-credit": reply})
    layer.deliver(chunk)
    layer.send("http.body?1", {"content": b"y"})
    AsgiRequest(make_request(method="POST", body_channel="http.body?1")).close()
    (credit,) = layer.backend.receive_batch(["http.response.test!"], timeout=0)
    assert (credit.locals, credit.content, credit.headers["c-credited"]) == (("abc",), {}, "abc")


def test_files_of_any_size_are_uploaded_through_chunks(
    make_request: MakeRequest, layer: ChannelLayer
) -> None:
    data = bytes(range(256)) * 2000
    body = (
        b'--line\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n'
        + data
        + b"\r\n--line--\r\n"
    )
    for start in range(0, len(body), 100_000):
        chunk = body[start : start + 100_000]
        layer.send("http.body?1", {"content": chunk, "more_content": start + 100_000 < len(body)})
    # As chunked transfer coding brings it: nothing announces the length.
    request = AsgiRequest(
        make_request(
            method="POST",
            body_channel="http.body?1",
            headers=[[b"content-type", b"multipart/form-data; boundary=line"]],
        )
    )
    uploaded = request.FILES["file"]
    assert isinstance(uploaded, UploadedFile)
    assert uploaded.read() == data
    request.close()


@pytest.mark.parametrize("by_channel", [False, True])
def test_a_body_longer_than_announced_is_refused(
    make_request: MakeRequest, layer: ChannelLayer, *, by_channel: bool
) -> None:
    where: dict[str, Any] = {"body": b"12345"}
    if by_channel:
        layer.send("http.body?1", {"content": b"12345"})
        where = {"body_channel": "http.body?1"}
    with pytest.raises(BadRequest) as caught:
        AsgiRequest(make_request(method="POST", headers=[[b"content-length", b"4"]], **where))
    assert str(caught.value) == "The body is longer than its Content-Length, 4."


@pytest.mark.parametrize("value", ["+1", "-1", "1_0", "ten", "9" * 5000])
def test_a_content_length_that_is_no_number_is_refused(make_request: MakeRequest, value: str) -> None:
    with pytest.raises(BadRequest) as caught:
        AsgiRequest(make_request(method="POST", body=b"1", headers=[[b"content-length", value.encode()]]))
    assert str(caught.value) == f"Content-Length {value!r:.40} is no number."


def test_a_body_over_the_limit_is_refused(make_request: MakeRequest, layer: ChannelLayer) -> None:
    layers = {"default": {"BACKEND": "memory", "ROUTING": []}}
    with override_settings(CHANNELS={"MAX_BODY_SIZE": 4}, CHANNEL_LAYERS=layers):
        with pytest.raises(RequestDataTooBig) as caught:
            AsgiRequest(make_request(method="POST", body=b"12345"))
    assert str(caught.value) == "The body is larger than CHANNELS['MAX_BODY_SIZE'], 4."


def test_b42_a_closed_chunk_aborts(make_request: MakeRequest, layer: ChannelLayer) -> None:
    layer.send("http.body?1", {"content": b"1", "more_content": True})
    layer.send("http.body?1", {"closed": True})
    with pytest.raises(RequestAborted) as caught:
        AsgiRequest(make_request(method="POST", body_channel="http.body?1"))
    assert str(caught.value) == "The client went away before its request body was complete."


class Impatient(AsgiRequest):
    body_receive_timeout = 0.1  # type: ignore[assignment]  # Django's own declares whole seconds


def test_b41_a_body_has_so_much_time_in_all(make_request: MakeRequest, layer: ChannelLayer) -> None:
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.03):
            layer.send("http.body?1", {"content": b".", "more_content": True})

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        with pytest.raises(RequestTimeout) as caught:
            Impatient(make_request(method="POST", body_channel="http.body?1"))
    finally:
        stop.set()
        dripping.join()
    assert str(caught.value) == "The request body was not complete after 0.1 s."


def test_a_body_channel_needs_a_layer() -> None:
    message = Message(
        {"reply_channel": "a!b", "method": "POST", "path": "/", "body_channel": "http.body?1"}, None, None
    )
    with pytest.raises(ValueError) as caught:
        AsgiRequest(message)
    assert str(caught.value) == (
        "The message says that its body comes on 'http.body?1', but it has no channel_layer to read that from."
        " Make it with Message(content, channel_name, channel_layer)."
    )
