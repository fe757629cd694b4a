"""AsgiHandler and ViewConsumer: Django's views as the consumer of http.request."""

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import Group as AuthGroup
from django.core import signals
from django.core.files.base import ContentFile
from django.db import connection
from django.http import FileResponse, HttpResponse, StreamingHttpResponse
from django.test import override_settings

from channels_core import Channel, ChannelLayer, Message
from channels_core.held import HeldSends, current_held
from channels_core.layers import Delivery
from channels_django import AsgiHandler, AsgiRequest, ViewConsumer
from testsite import http_views

MakeRequest = Callable[..., Message]
LATER = "made by a view that answers later"


@pytest.fixture(autouse=True)
def _views() -> Iterator[None]:
    http_views.closed.clear()
    with override_settings(ROOT_URLCONF="testsite.http_views"):
        yield
    AuthGroup.objects.all().delete()


def answer(message: Message) -> list[dict[str, Any]]:
    return list(AsgiHandler(message))


def test_the_handler_takes_a_message_and_yields_the_response(make_request: MakeRequest) -> None:
    (first,) = AsgiHandler(make_request())
    assert first == {
        "status": 200,
        "headers": [
            (b"x-any", b"Thing"),
            (b"content-type", b"text/html; charset=utf-8"),
            (b"set-cookie", b"a=1; Path=/"),
            (b"set-cookie", b"b=2; Path=/"),
        ],
        "content": b"hello",
        "more_content": False,
    }
    assert http_views.closed == ["closed"]


def test_the_handler_can_be_called_with_a_message(make_request: MakeRequest) -> None:
    handler = AsgiHandler()
    assert list(handler(make_request())) == answer(make_request())
    assert [message["content"] for message in handler(make_request(path="/async"))] == [b"async hello"]


def test_a_handler_without_a_message_says_how_to_use_it() -> None:
    with pytest.raises(TypeError) as caught:
        iter(AsgiHandler())
    assert str(caught.value) == (
        "AsgiHandler() was made without a message to answer: iterate over AsgiHandler(message) or"
        " AsgiHandler()(message)."
    )


def test_b40_a_query_string_that_is_not_utf8_is_a_plain_400(make_request: MakeRequest) -> None:
    (first,) = answer(make_request(query_string=b"x=\xff\xfe"))
    assert (first["status"], first["content"]) == (400, b"400 Bad Request")


class Impatient(AsgiRequest):
    body_receive_timeout = 0.05  # type: ignore[assignment]  # Django's own declares whole seconds


class ImpatientHandler(AsgiHandler):
    request_class = Impatient


def test_b41_a_body_that_comes_too_slowly_is_a_408(make_request: MakeRequest) -> None:
    (first,) = ImpatientHandler(make_request(method="POST", body_channel="http.body?1"))
    assert (first["status"], first["content"]) == (408, b"408 Request Timeout (upload too slow)")


def test_b42_nothing_is_sent_for_an_aborted_body(make_request: MakeRequest, layer: ChannelLayer) -> None:
    finished: list[object] = []

    def on_finished(sender: object, **_: Any) -> None:
        finished.append(sender)

    layer.send("http.body?1", {"closed": True})
    signals.request_finished.connect(on_finished)
    try:
        assert answer(make_request(method="POST", path="/echo", body_channel="http.body?1")) == []
    finally:
        signals.request_finished.disconnect(on_finished)
    assert finished == []


def test_a_body_too_long_is_refused_before_the_view(make_request: MakeRequest) -> None:
    (first,) = answer(make_request(method="POST", body=b"123", headers=[[b"content-length", b"2"]]))
    assert (first["status"], first["content"]) == (400, b"400 Bad Request")
    layers = {"default": {"BACKEND": "memory", "ROUTING": []}}
    with override_settings(CHANNELS={"MAX_BODY_SIZE": 2}, CHANNEL_LAYERS=layers):
        (first,) = answer(make_request(method="POST", body=b"123"))
    assert (first["status"], first["content"]) == (413, b"413 Content Too Large")


def test_a_body_in_chunks_is_not_read_twice(make_request: MakeRequest) -> None:
    message = make_request(method="POST", path="/echo", body_channel="http.body?1")
    message.attempt = 2
    (first,) = answer(message)
    assert (first["status"], first["content"]) == (
        503,
        b"503 Service Unavailable (the request body cannot be read again)",
    )


def test_b44_a_long_response_is_cut_and_only_the_first_has_a_head(make_request: MakeRequest) -> None:
    messages = answer(make_request(path="/big"))
    assert [sorted(message) for message in messages] == [
        ["content", "headers", "more_content", "status"],
        ["content", "more_content"],
        ["content", "more_content"],
    ]
    assert [len(message["content"]) for message in messages] == [262_144, 262_144, 262_143]
    assert [message["more_content"] for message in messages] == [True, True, False]


def test_chunk_bytes_says_which_is_the_last() -> None:
    class Small(AsgiHandler):
        chunk_size = 3

    assert list(Small.chunk_bytes(b"1234567")) == [(b"123", False), (b"456", False), (b"7", True)]
    assert list(Small.chunk_bytes(b"123456")) == [(b"123", False), (b"456", True)]
    assert list(Small.chunk_bytes(b"")) == [(b"", True)]


@pytest.mark.parametrize("path", ["/stream", "/astream"])
def test_b45_a_stream_is_a_message_for_each_part(make_request: MakeRequest, path: str) -> None:
    messages = answer(make_request(path=path))
    assert [(message["content"], message["more_content"]) for message in messages] == [
        (b"one", True),
        (b"two", True),
        (b"", False),
    ]
    assert ["status" in message for message in messages] == [True, False, False]


def test_b45_an_empty_stream_is_one_message(make_request: MakeRequest) -> None:
    (first,) = answer(make_request(path="/empty-stream"))
    assert (first["status"], first["content"], first["more_content"]) == (200, b"", False)


def test_files_are_read_in_whole_chunks() -> None:
    response = FileResponse(ContentFile(b"x" * 600_000), content_type="text/plain")
    sizes = [len(message["content"]) for message in AsgiHandler.encode_response(response)]
    assert sizes == [262_144, 262_144, 75_712, 0]
    response.close()


def test_encode_response_needs_no_handler() -> None:
    response = HttpResponse("ü", status=418, headers={"X-Mixed-Case": "1"})
    assert list(AsgiHandler.encode_response(response)) == [
        {
            "status": 418,
            "headers": [(b"x-mixed-case", b"1"), (b"content-type", b"text/html; charset=utf-8")],
            "content": "ü".encode(),
            "more_content": False,
        }
    ]


def test_a_streaming_part_larger_than_a_chunk_is_cut() -> None:
    class Small(AsgiHandler):
        chunk_size = 2

    contents = [
        message["content"] for message in Small.encode_response(StreamingHttpResponse([b"12345", b"6"]))
    ]
    assert contents == [b"12", b"34", b"5", b"6", b""]


@pytest.mark.parametrize("path", ["/later", "/alater"])
def test_b46_response_later_sends_nothing(
    make_request: MakeRequest, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    finished: list[object] = []

    def on_finished(sender: object, **_: Any) -> None:
        finished.append(sender)

    signals.request_finished.connect(on_finished)
    try:
        with override_settings(
            MIDDLEWARE=[
                "django.middleware.security.SecurityMiddleware",
                "django.middleware.common.CommonMiddleware",
            ]
        ):
            assert answer(make_request(path=path)) == []
    finally:
        signals.request_finished.disconnect(on_finished)
    assert finished == []
    assert caplog.records == []


def test_b46_what_such_a_view_stored_and_sent_stays(make_request: MakeRequest, layer: ChannelLayer) -> None:
    connection.settings_dict["ATOMIC_REQUESTS"] = True
    try:
        assert answer(make_request(path="/later")) == []
    finally:
        connection.settings_dict["ATOMIC_REQUESTS"] = False
    assert AuthGroup.objects.filter(name=LATER).exists()
    assert layer.receive(["told"]) == ("told", {"reply_channel": "http.response.test!1"})


def test_b46_the_view_or_anyone_answers_through_the_reply_channel(
    make_request: MakeRequest, layer: ChannelLayer
) -> None:
    ViewConsumer()(make_request(path="/later"))
    assert layer.receive(["http.response.test!"]) == (None, None)
    _, told = layer.receive(["told"])
    assert told is not None
    for message in AsgiHandler.encode_response(HttpResponse("at last")):
        Channel(told["reply_channel"]).send(message)
    _, late = layer.receive(["http.response.test!"])
    assert late is not None
    assert late["content"] == b"at last"


def test_an_exception_is_djangos_500(make_request: MakeRequest, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(DEBUG=True, ROOT_URLCONF="testsite.http_views"):
        (first,) = answer(make_request(path="/boom", headers=[[b"accept", b"text/plain"]]))
    assert first["status"] == 500
    assert b"RuntimeError" in first["content"]
    assert "Internal Server Error: /boom" in caplog.text


def test_a_broken_error_page_is_a_plain_500(
    make_request: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    (first,) = answer(make_request(path="/boom"))
    assert (first["status"], first["content"]) == (500, b"500 Internal Server Error")
    assert "Internal Server Error, and the page that says so failed: /boom" in caplog.text
    assert "RuntimeError: the error page is broken too" in caplog.text


def test_exceptions_can_be_propagated_as_django_says(
    make_request: MakeRequest, caplog: pytest.LogCaptureFixture
) -> None:
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True), pytest.raises(RuntimeError, match="boom"):
        answer(make_request(path="/boom"))


def test_request_started_comes_with_the_message_and_finished_after_the_last(
    make_request: MakeRequest,
) -> None:
    seen: list[str] = []

    def on_started(sender: object, message: Message, **_: Any) -> None:
        seen.append(f"started {message['path']}")

    def on_finished(**_: Any) -> None:
        seen.append("finished")

    signals.request_started.connect(on_started)
    signals.request_finished.connect(on_finished)
    try:
        for message in AsgiHandler(make_request(path="/stream")):
            seen.append(message["content"].decode())
    finally:
        signals.request_started.disconnect(on_started)
        signals.request_finished.disconnect(on_finished)
    assert seen == ["started /stream", "one", "two", "", "finished"]


def test_the_middleware_is_loaded_once_and_anew_after_override_settings(make_request: MakeRequest) -> None:
    with override_settings(MIDDLEWARE=["testsite.counting.Counting"]):
        from testsite.counting import Counting

        before = Counting.made
        answer(make_request())
        answer(make_request())
        list(AsgiHandler()(make_request()))
        assert Counting.made == before + 1
    answer(make_request())
    with override_settings(MIDDLEWARE=["testsite.counting.Counting"]):
        answer(make_request())
        assert Counting.made == before + 2


# The consumer.


def replies(layer: ChannelLayer) -> list[dict[str, Any]]:
    found = []
    while (received := layer.receive(["http.response.test!"]))[1] is not None:
        found.append(received[1])
    return found


def test_the_view_consumer_sends_to_the_reply_channel(make_request: MakeRequest, layer: ChannelLayer) -> None:
    ViewConsumer()(make_request())
    (reply,) = replies(layer)
    assert (reply["status"], reply["content"]) == (200, b"hello")


def test_b47_what_a_view_sends_follows_its_response(make_request: MakeRequest, layer: ChannelLayer) -> None:
    held = HeldSends()
    token = current_held.set(held)
    try:
        ViewConsumer()(make_request(path="/tells"))
    finally:
        current_held.reset(token)
    assert [reply["content"] for reply in replies(layer)] == [b"told"]
    assert layer.receive(["told"]) == (None, None)
    assert [send.channel for _, send in held.foreign] == ["told"]


def test_the_body_of_a_head_request_is_for_the_front_end_to_drop(
    make_request: MakeRequest, layer: ChannelLayer
) -> None:
    ViewConsumer()(make_request(method="HEAD"))
    (reply,) = replies(layer)
    assert reply["content"] == b"hello"


def test_b48_a_full_channel_is_waited_for(make_request: MakeRequest) -> None:
    layers = {
        "default": {
            "BACKEND": "memory",
            "ROUTING": [],
            "CONFIG": {"channel_capacity": {"http.response.*": 1}},
        }
    }
    with override_settings(CHANNEL_LAYERS=layers):
        from channels_core import channel_layers

        layer = channel_layers["default"]
        layer.send("http.response.test!0", {"status": 200})
        message = make_request()
        message = Message(message.content, "http.request", layer)
        consuming = threading.Thread(target=ViewConsumer(), args=(message,))
        consuming.start()
        assert layer.receive(["http.response.test!"], True, timeout=5) == (
            "http.response.test!0",
            {"status": 200},
        )
        name, reply = layer.receive(["http.response.test!"], True, timeout=5)
        consuming.join(5)
    assert name == "http.response.test!1"
    assert reply is not None
    assert reply["content"] == b"hello"


def take(layer: ChannelLayer, *, timeout: float = 5) -> Delivery:
    (delivery,) = layer.backend.receive_batch(["http.response.test!"], timeout=timeout)
    return delivery


def many_parts(count: int) -> type[ViewConsumer]:
    class Parts(AsgiHandler):
        def __call__(self, message: Message) -> Iterator[dict[str, Any]]:
            try:
                for number in range(count):
                    made.append(number)
                    yield {"content": b"%d" % number, "more_content": number + 1 < count}
            finally:
                made.append("closed")

    made: list[Any] = []

    class Consumer(ViewConsumer):
        handler_class = Parts
        parts = made

    return Consumer


def paced(message: Message) -> Message:
    """A request whose client is ready for one window: a chunk, or as many small parts as count for one."""
    message.headers["c-window"] = 1
    return message


def test_a_long_response_is_no_faster_than_its_client(make_request: MakeRequest, layer: ChannelLayer) -> None:
    consumer = many_parts(40)()
    consuming = threading.Thread(target=consumer, args=(paced(make_request()),))
    consuming.start()
    parts = []
    for size in (16, 16, 8):
        parts += [take(layer) for _ in range(size)]
        credit = parts[-1].headers.get("c-credit")
        assert (credit is None) == (len(parts) == 40)
        assert layer.backend.receive_batch(["http.response.test!"], timeout=0.1) == []
        if isinstance(credit, str):
            layer.deliver(layer.prepare(credit, {}, {"c-credited": credit}))
    consuming.join(5)
    assert [part.content["content"] for part in parts] == [b"%d" % number for number in range(40)]
    assert ["c-credit" in part.headers for part in parts].count(True) == 2


def test_a_response_ends_when_its_client_has_left(make_request: MakeRequest, layer: ChannelLayer) -> None:
    consumer = many_parts(100)()
    consuming = threading.Thread(target=consumer, args=(paced(make_request()),))
    consuming.start()
    parts = [take(layer) for _ in range(16)]
    credit = str(parts[-1].headers["c-credit"])
    layer.deliver(layer.prepare(credit, {"closed": True}, {"c-credited": credit}))
    consuming.join(5)
    assert not consuming.is_alive()
    assert consumer.parts[-1] == "closed"  # type: ignore[attr-defined]  # made above
    assert len(consumer.parts) == 18  # type: ignore[attr-defined]  # made above


def test_a_response_to_a_server_that_is_gone_ends(make_request: MakeRequest, layer: ChannelLayer) -> None:
    process = layer.backend.open_process("interface")
    layer.backend.close_process(process)
    consumer = many_parts(100)()
    consumer(make_request(reply_channel=f"http.response.{process}!1"))
    assert consumer.parts == [0, "closed"]  # type: ignore[attr-defined]  # made above


def test_a_response_that_fails_in_the_middle_is_broken_off(
    make_request: MakeRequest, layer: ChannelLayer
) -> None:
    with pytest.raises(RuntimeError, match="the stream broke"):
        ViewConsumer()(make_request(path="/broken-stream"))
    first, second = replies(layer)
    assert (first["content"], first["more_content"]) == (b"one", True)
    assert second == {"closed": True}


def test_a_response_that_fails_before_it_begins_is_a_500(
    make_request: MakeRequest, layer: ChannelLayer
) -> None:
    with pytest.raises(RuntimeError, match="the stream never began"):
        ViewConsumer()(make_request(path="/broken-at-once"))
    (reply,) = replies(layer)
    assert (reply["status"], reply["content"]) == (500, b"500 Internal Server Error")


def test_parts_larger_than_the_layer_carries_are_cut(make_request: MakeRequest) -> None:
    layers = {"default": {"BACKEND": "memory", "ROUTING": [], "CONFIG": {"max_message_size": 300_000}}}
    with override_settings(CHANNEL_LAYERS=layers):
        from channels_core import channel_layers

        layer = channel_layers["default"]

        class Large(AsgiHandler):
            chunk_size = 1_000_000

        class LargeConsumer(ViewConsumer):
            handler_class = Large

        LargeConsumer()(Message(make_request(path="/big").content, "http.request", layer))
        parts = replies(layer)
    assert b"".join(part["content"] for part in parts) == b"x" * (3 * 256 * 1024 - 1)
    assert [part["more_content"] for part in parts] == [True, True, True, False]
    assert [part.get("status") for part in parts] == [200, None, None, None]


def test_a_consumer_without_a_reply_channel_says_so(layer: ChannelLayer) -> None:
    with pytest.raises(ValueError, match="this one has no 'reply_channel'"):
        ViewConsumer()(Message({"method": "GET", "path": "/"}, "http.request", layer))


def test_logging_is_djangos(make_request: MakeRequest, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "django.request"):
        (first,) = answer(make_request(path="/nowhere"))
    assert first["status"] == 404
    assert caplog.messages == ["Not Found: /nowhere"]
