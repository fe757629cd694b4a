"""The chat demo as its clients see it: ``manage.py demo`` in a process of its own, over real sockets."""

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from chatdemo import MANAGE, ChatDemo, demo_environment

GUEST = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+ \d{3}")
Frame = dict[str, Any]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatDemo]:
    server = ChatDemo(tmp_path_factory.mktemp("chat"))
    try:
        server.start()
        yield server
        assert server.stop() == 0, server.output
        assert "Traceback" not in server.output
        assert "Warning" not in server.output
    finally:
        server.kill()


@pytest.fixture
def own_demo(tmp_path: Path) -> Iterator[ChatDemo]:
    """A demo that the test may stop and kill."""
    server = ChatDemo(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


class Talker:
    """One open socket of a room."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.welcome = self.until("welcome")
        self.history: list[Frame] = self.until("history")["messages"]
        self.here = self.until("here")
        self.name: str = self.welcome["user"]

    @property
    def people(self) -> list[str]:
        """Who was here on arrival."""
        return [person["user"] for person in self.here["people"]]

    def next(self) -> Frame:
        frame: Frame = json.loads(self.connection.recv(timeout=15))
        return frame

    def until(self, kind: str, **values: Any) -> Frame:
        """The next frame of this kind with these values; others are passed over."""
        while True:
            frame = self.next()
            if frame["type"] == kind and values.items() <= frame.items():
                return frame

    def before(self, marker: str) -> list[Frame]:
        """Say ``marker`` and return all frames that came before it is heard."""
        self.say(marker)
        frames = []
        while (frame := self.next()).get("text") != marker:
            frames.append(frame)
        return frames

    def say(self, text: str, **more: str) -> None:
        self.send({"type": "say", "text": text, **more})

    def send(self, frame: object) -> None:
        self.connection.send(json.dumps(frame))


@contextmanager
def talker(demo: ChatDemo, room: str = "lobby", cookies: httpx.Cookies | None = None) -> Iterator[Talker]:
    headers = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())} if cookies else {}
    with connect(demo.socket_url(room), origin=Origin(demo.origin), additional_headers=headers) as connection:
        yield Talker(connection)


@contextmanager
def visitor(demo: ChatDemo) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=demo.origin, follow_redirects=True) as client:
        yield client


def form_token(page: httpx.Response) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert found is not None, page.text
    return found[1]


def test_the_address_is_printed(demo: ChatDemo) -> None:
    assert f"The chat is at  {demo.origin}/\n" in demo.output


def test_pages_and_static_files_are_served(demo: ChatDemo) -> None:
    with visitor(demo) as client:
        index = client.get("/")
        room = client.get("/rooms/lobby/")
        script = client.get("/static/chat/room.js")
        style = client.get("/static/chat/chat.css")
    assert "/rooms/lobby/" in index.text
    assert 'data-socket="/rooms/lobby/ws"' in room.text
    assert script.headers["content-type"].startswith("text/javascript")
    assert style.headers["content-type"].startswith("text/css")
    pages = (index, room)
    assert [re.findall(r"""(?:src|href)="https?://""", page.text) for page in pages] == [[], []]


def test_an_unknown_room_has_no_page(demo: ChatDemo) -> None:
    assert httpx.get(f"{demo.origin}/rooms/nowhere/").status_code == 404


def test_a_guest_needs_no_cookie(demo: ChatDemo) -> None:
    with talker(demo) as guest:
        assert GUEST.fullmatch(guest.name)
        assert guest.welcome == {"type": "welcome", "room": "lobby", "user": guest.name, "guest": True}
        assert {"user": guest.name, "guest": True} in guest.here["people"]


def test_a_guest_has_the_name_that_the_page_shows(demo: ChatDemo) -> None:
    with visitor(demo) as client:
        client.get("/rooms/lobby/")
        page = client.get("/rooms/lobby/")
        with talker(demo, cookies=client.cookies) as guest:
            assert f'<span class="whoami">{guest.name}</span>' in page.text


def test_everyone_hears_what_is_said_also_the_sender(demo: ChatDemo) -> None:
    with talker(demo) as one, talker(demo) as other:
        one.say("Hello <b>there</b> ☕\nsecond line")
        heard = one.until("said")
        assert other.until("said") == heard
        assert heard["user"] == one.name
        assert heard["text"] == "Hello <b>there</b> ☕\nsecond line"
        assert isinstance(heard["id"], int)
        assert datetime.fromisoformat(heard["at"]).tzinfo is not None
        other.say("Hello back")
        answer = one.until("said", text="Hello back")
        assert answer["id"] > heard["id"]
        assert answer["user"] == other.name


def test_typing_is_told(demo: ChatDemo) -> None:
    with talker(demo) as one, talker(demo) as other:
        one.send({"type": "typing"})
        assert other.until("typing") == {"type": "typing", "user": one.name}
        assert one.until("typing") == {"type": "typing", "user": one.name}


def test_rooms_are_apart(demo: ChatDemo) -> None:
    with talker(demo, "coffee") as one, talker(demo, "help") as other:
        one.say("Only for the coffee corner")
        one.until("said")
        assert [frame for frame in other.before("for the help desk") if frame["type"] == "said"] == []
        assert one.name not in other.people


def test_history_is_there_for_those_who_come_later(demo: ChatDemo) -> None:
    with talker(demo, "night-owls") as one:
        said = []
        for number in range(55):
            one.say(f"number {number}")
            said.append(one.until("said"))
    with talker(demo, "night-owls") as later:
        assert later.history == said[-50:]


def test_coming_and_going_is_told(demo: ChatDemo) -> None:
    with talker(demo) as stays:
        with talker(demo) as comes:
            joined = stays.until("joined", user=comes.name)
            assert joined["guest"] is True
            assert stays.name in comes.people
        assert stays.until("left", user=comes.name)["version"] > joined["version"]


def test_a_lost_connection_is_a_goodbye_too(demo: ChatDemo) -> None:
    with talker(demo) as stays, talker(demo) as lost:
        stays.until("joined", user=lost.name)
        lost.connection.socket.close()
        stays.until("left", user=lost.name)


def test_several_tabs_are_one_person(demo: ChatDemo) -> None:
    with visitor(demo) as client, talker(demo) as watcher:
        client.get("/rooms/lobby/")
        with talker(demo, cookies=client.cookies) as first:
            watcher.until("joined", user=first.name)
            with talker(demo, cookies=client.cookies) as second:
                assert second.name == first.name
                assert second.people.count(first.name) == 1
                told = watcher.before("two tabs are open")
                assert [frame for frame in told if frame["user"] == first.name] == []
            with talker(demo) as sees:
                assert first.name in sees.people
            told = watcher.before("one tab is left")
            assert [frame for frame in told if frame["user"] == first.name] == []
        watcher.until("left", user=first.name)


def test_the_list_of_rooms_counts_people(demo: ChatDemo) -> None:
    with talker(demo, "coffee"):
        assert "1 person here" in httpx.get(f"{demo.origin}/").text


BAD_FRAMES = {
    "not JSON": ("Hello", "That frame is not JSON."),
    "nothing": ("", "That frame is not JSON."),
    "nested deeply": ("[" * 100_000, "That frame is not JSON."),
    "a huge number": ('{"type": "say", "text": ' + "9" * 5_000 + "}", "That frame is not JSON."),
    "raw control character": ('{"type": "say", "text": "\x07"}', "That frame is not JSON."),
    "a list": ("[]", 'A frame is a JSON object such as {"type": "say", "text": "Hello"}.'),
    "null": ("null", 'A frame is a JSON object such as {"type": "say", "text": "Hello"}.'),
    "no type": ("{}", 'The "type" of a frame is "say" or "typing".'),
    "unknown type": ('{"type": "shout"}', 'The "type" of a frame is "say" or "typing".'),
    "type is a list": ('{"type": ["say"]}', 'The "type" of a frame is "say" or "typing".'),
    "a frame of ours": ('{"type": "said", "text": "x"}', 'The "type" of a frame is "say" or "typing".'),
    "no text": ('{"type": "say"}', '"say" needs a "text", and it is a string.'),
    "text is a number": ('{"type": "say", "text": 5}', '"say" needs a "text", and it is a string.'),
    "empty text": ('{"type": "say", "text": ""}', "There is nothing to read in that message."),
    "blank text": (
        '{"type": "say", "text": " \\n\\u200b\\u3000"}',
        "There is nothing to read in that message.",
    ),
    "100 kB of text": (
        json.dumps({"type": "say", "text": "x" * 100_000}),
        "That is 100,000 characters long; a message has at most 2,000.",
    ),
    "NUL": (
        r'{"type": "say", "text": "a\u0000b"}',
        "A message holds no control characters but line breaks and tabs, and whole characters only.",
    ),
    "escape sequence": (
        r'{"type": "say", "text": "\u001b[31mred"}',
        "A message holds no control characters but line breaks and tabs, and whole characters only.",
    ),
    "C1 control": (
        r'{"type": "say", "text": "a\u0085b"}',
        "A message holds no control characters but line breaks and tabs, and whole characters only.",
    ),
    "half a surrogate pair": (
        r'{"type": "say", "text": "\ud800"}',
        "A message holds no control characters but line breaks and tabs, and whole characters only.",
    ),
    "ref is a number": (
        '{"type": "say", "text": "x", "ref": 5}',
        '"ref" is a string of at most 64 characters, without control characters.',
    ),
    "ref is long": (
        json.dumps({"type": "say", "text": "x", "ref": "r" * 65}),
        '"ref" is a string of at most 64 characters, without control characters.',
    ),
    "binary": (b'{"type": "typing"}', "This room takes text frames, and that was a binary one."),
}


@pytest.mark.parametrize(("frame", "reason"), BAD_FRAMES.values(), ids=BAD_FRAMES)
def test_bad_frames_are_answered_and_nothing_breaks(demo: ChatDemo, frame: str | bytes, reason: str) -> None:
    with talker(demo) as client:
        client.connection.send(frame)
        assert client.until("error") == {"type": "error", "reason": reason, "ref": ""}
        client.say("still here")
        client.until("said", text="still here")


def test_an_error_carries_the_mark_of_what_was_refused(demo: ChatDemo) -> None:
    with talker(demo) as client:
        client.say("x" * 2_001, ref="mark-1")
        assert client.until("error")["ref"] == "mark-1"
        client.say("x" * 2_000, ref="mark-2")
        assert client.until("said")["ref"] == "mark-2"


def test_a_frame_over_the_limit_closes_that_socket_alone(demo: ChatDemo) -> None:
    with talker(demo) as other, talker(demo) as greedy:
        with pytest.raises(ConnectionClosed) as closed:
            greedy.before("x" * (2 * 1024 * 1024))
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        other.until("left", user=greedy.name)
        other.say("nothing broke")
        other.until("said", text="nothing broke")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "http://127.0.0.1.evil.example", "null", "file://", None],
)
def test_other_origins_are_refused(demo: ChatDemo, origin: str | None) -> None:
    with pytest.raises(InvalidStatus) as refused, ExitStack() as stack:
        stack.enter_context(connect(demo.socket_url(), origin=None if origin is None else Origin(origin)))
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "path",
    ["/rooms/nowhere/ws", "/rooms/Lobby/ws", "/rooms/%00/ws", "/rooms//ws", "/", "/rooms/lobby/", "/ws"],
)
def test_only_sockets_of_rooms_are_let_in(demo: ChatDemo, path: str) -> None:
    with pytest.raises(InvalidStatus) as refused, ExitStack() as stack:
        stack.enter_context(connect(f"ws://127.0.0.1:{demo.port}{path}", origin=Origin(demo.origin)))
    assert refused.value.response.status_code == 403


def test_saying_it_again_with_the_same_ref_is_saying_it_once(demo: ChatDemo) -> None:
    with visitor(demo) as client:
        client.get("/rooms/lobby/")
        with talker(demo, cookies=client.cookies) as before:
            before.say("Did you get this?", ref="once")
            first = before.until("said", ref="once")
        with talker(demo, cookies=client.cookies) as after:
            after.say("Did you get this?", ref="once")
            assert after.until("said", ref="once") == first
        with talker(demo) as later:
            assert [said for said in later.history if said["ref"] == "once"] == [first]


def test_an_account_gives_a_name_that_stays(demo: ChatDemo) -> None:
    with visitor(demo) as client:
        page = client.get("/sign-up/", params={"next": "/rooms/lobby/"})
        form = {
            "csrfmiddlewaretoken": form_token(page),
            "username": "maria",
            "password1": "quite-a-secret-7",
            "password2": "quite-a-secret-7",
            "next": "/rooms/lobby/",
        }
        assert client.post("/sign-up/", data=form).url.path == "/rooms/lobby/"
        with talker(demo, cookies=client.cookies) as member:
            assert (member.name, member.welcome["guest"]) == ("maria", False)
            member.say("I have a name")
            assert member.until("said")["guest"] is False

        signed_out = client.post("/sign-out/", data={"csrfmiddlewaretoken": form_token(client.get("/"))})
        assert "Sign in" in signed_out.text
        client.get("/rooms/lobby/")
        with talker(demo, cookies=client.cookies) as guest:
            assert GUEST.fullmatch(guest.name)

        page = client.get("/sign-in/")
        form = {
            "csrfmiddlewaretoken": form_token(page),
            "username": "maria",
            "password": "quite-a-secret-7",
        }
        assert "maria" in client.post("/sign-in/", data=form).text
        with talker(demo, cookies=client.cookies) as member:
            assert member.name == "maria"

        page = client.get("/")
        form = {"csrfmiddlewaretoken": form_token(page), "title": "Marias Küche!", "topic": "Recipes"}
        assert client.post("/", data=form).url.path == "/rooms/marias-kuche/"
        with talker(demo, "marias-kuche") as guest:
            assert guest.welcome["room"] == "marias-kuche"
        form["csrfmiddlewaretoken"] = form_token(client.get("/"))
        assert "There is a room with this address already." in client.post("/", data=form).text
        form |= {"csrfmiddlewaretoken": form_token(client.get("/")), "title": "☕☕"}
        assert "Use some letters from a to z or digits" in client.post("/", data=form).text


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "javascript:alert(1)"])
def test_sign_up_leads_to_no_other_site(demo: ChatDemo, target: str) -> None:
    with visitor(demo) as client:
        form = {
            "csrfmiddlewaretoken": form_token(client.get("/sign-up/")),
            "username": f"guest{abs(hash(target))}",
            "password1": "quite-a-secret-7",
            "password2": "quite-a-secret-7",
            "next": target,
        }
        answer = client.post("/sign-up/", data=form, follow_redirects=False)
    assert (answer.status_code, answer.headers.get("location")) == (302, "/")


@pytest.mark.parametrize("path", ["/", "/sign-up/", "/sign-in/", "/sign-out/"])
def test_forms_are_guarded_against_forgery(demo: ChatDemo, path: str) -> None:
    assert httpx.post(f"{demo.origin}{path}", data={"title": "x"}).status_code == 403


def test_many_talk_at_once(demo: ChatDemo) -> None:
    count, each = 8, 15
    with ExitStack() as stack:
        clients = [stack.enter_context(talker(demo, "help")) for _ in range(count)]
        heard: list[list[Frame]] = [[] for _ in clients]

        def talk(number: int) -> None:
            for turn in range(each):
                clients[number].say(f"{number}/{turn}")
            while len(heard[number]) < count * each:
                heard[number].append(clients[number].until("said"))

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(45)
    everything = {f"{number}/{turn}" for number in range(count) for turn in range(each)}
    for frames in heard:
        assert {frame["text"] for frame in frames} == everything
        assert len({frame["id"] for frame in frames}) == count * each
        for number in range(count):  # what one person says arrives in the order of saying
            assert [frame["text"] for frame in frames if frame["text"].startswith(f"{number}/")] == [
                f"{number}/{turn}" for turn in range(each)
            ]


def test_many_come_and_go_and_the_list_is_right(demo: ChatDemo) -> None:
    names: list[str] = []

    def come_and_go() -> None:
        for _ in range(4):
            with talker(demo, "night-owls") as client:
                names.append(client.name)

    with talker(demo, "night-owls") as watcher:
        threads = [threading.Thread(target=come_and_go) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(45)
        assert len(set(names)) == 20
        latest: dict[str, Frame] = {}
        while [latest[name]["type"] for name in names if name in latest].count("left") < 20:
            news = watcher.next()
            if news["version"] > latest.get(news["user"], {"version": 0})["version"]:
                latest[news["user"]] = news
        with talker(demo, "night-owls") as last:
            assert sorted(last.people) == sorted([watcher.name, last.name])


def test_history_survives_a_restart_and_sockets_are_told(own_demo: ChatDemo) -> None:
    with talker(own_demo) as client:
        client.say("before the restart")
        said = client.until("said")
        assert own_demo.stop() == 0, own_demo.output
        with pytest.raises(ConnectionClosed) as closed:
            client.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
    own_demo.start()
    with talker(own_demo) as client:
        assert client.history == [said]
        assert client.people == [client.name]
    assert own_demo.stop(signal.SIGTERM) == 0, own_demo.output
    assert "Traceback" not in own_demo.output


def test_nobody_lingers_when_the_server_was_killed(own_demo: ChatDemo) -> None:
    with talker(own_demo), talker(own_demo):
        own_demo.kill()
    own_demo.start()
    assert "people here" not in httpx.get(f"{own_demo.origin}/").text
    with talker(own_demo) as client:
        assert client.people == [client.name]
        with talker(own_demo) as other:
            client.until("joined", user=other.name)


def run_demo(tmp_path: Path, port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(MANAGE), "demo", "--port", str(port)],
        env=demo_environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )


def test_a_port_in_use_is_said_plainly(demo: ChatDemo, tmp_path: Path) -> None:
    result = run_demo(tmp_path, demo.port)
    assert result.returncode == 1
    assert result.stderr == (
        f"CommandError: The demo cannot listen on 127.0.0.1:{demo.port}, the port is in use by another program."
        " Choose another one, for example --port 8765.\n"
    )


def test_a_port_that_cannot_be_is_said_plainly(tmp_path: Path) -> None:
    result = run_demo(tmp_path, 65536)
    assert result.returncode == 1
    assert result.stderr == (
        "CommandError: Port 65536 does not exist: choose one from 1 to 65535, for example --port 8765.\n"
    )


def test_the_demos_own_tests_pass(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-W", "error", str(MANAGE), "test", "chat"],
        env=demo_environment(tmp_path) | {"PYTHONWARNINGS": "error"},
        cwd=MANAGE.parent,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    ran = re.search(r"^Ran (\d+) tests? in", result.stderr, re.MULTILINE)
    assert ran is not None, result.stderr
    assert int(ran[1]) >= 8


def test_the_models_have_their_migrations(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, str(MANAGE), "makemigrations", "--check", "--dry-run"],
        env=demo_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (result.returncode, result.stdout) == (0, "No changes detected\n")
