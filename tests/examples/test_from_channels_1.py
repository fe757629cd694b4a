"""The applications written for Channels 1.x, over real sockets: their own server, their own database."""

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from ports import free_port
from redis_servers import RedisServer
from testsite.projects import Running

ROOT = Path(__file__).resolve().parents[2] / "examples" / "from_channels_1"
PATIENCE = 15.0

DATA = """
from django.contrib.auth.models import User
from liveblog.models import Liveblog
from multichat.models import Room
from values.models import IntegerValue
User.objects.create_superuser("root", password="root")
User.objects.create_user("ada", password="ada")
User.objects.create_user("grace", password="grace")
Liveblog.objects.create(title="Launch", slug="launch")
Room.objects.create(title="Lobby")
Room.objects.create(title="Backstage", staff_only=True)
IntegerValue.objects.create(name="answer", value=41)
"""

pytestmark = pytest.mark.timeout(120)


class Examples:
    """The three applications behind one address."""

    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"
        self.port = port
        self._visitors: list[Visitor] = []

    def visitor(self, name: str | None = None) -> "Visitor":
        self._visitors.append(Visitor(self, name))
        return self._visitors[-1]

    def close(self) -> None:
        for visitor in self._visitors:
            visitor.pages.close()


class Visitor:
    """A browser: pages with cookies, and sockets that take them along."""

    def __init__(self, examples: Examples, name: str | None) -> None:
        self._examples = examples
        self.pages = httpx.Client(
            base_url=examples.origin, follow_redirects=True, trust_env=False, timeout=PATIENCE
        )
        if name is not None:
            self.post("/login/", username=name, password=name)

    def post(self, path: str, **form: Any) -> httpx.Response:
        page = self.pages.get(path)
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token is not None, page.text
        answer = self.pages.post(path, data={"csrfmiddlewaretoken": token[1], **form})
        assert answer.status_code == 200
        return answer

    def socket(self, path: str) -> "Socket":
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.pages.cookies.jar)
        url = f"ws://127.0.0.1:{self._examples.port}{path}"
        headers = {"cookie": cookies, "origin": self._examples.origin}
        return Socket(url, headers)


class Socket:
    connection: ClientConnection

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self._connecting = connect(url, additional_headers=headers, proxy=None)

    def send(self, **content: Any) -> None:
        self.connection.send(json.dumps(content))

    def next(self) -> Any:
        return json.loads(self.connection.recv(PATIENCE))

    def __enter__(self) -> "Socket":
        self.connection = self._connecting.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._connecting.__exit__(None, None, None)


def run(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def layer(kind: str) -> Iterator[dict[str, Any]]:
    """The entry of a layer, whose engine runs."""
    if kind != "redis":
        yield {"BACKEND": kind}
        return
    with RedisServer() as server:
        yield {
            "BACKEND": "asgi_redis.RedisChannelLayer",
            "CONFIG": {"hosts": [server.url], "prefix": "asgi:"},
        }


@pytest.fixture(scope="module", params=["memory", "redis", "database"])
def port(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with layer(request.param) as entry:
        yield from serve(tmp_path_factory, entry)


def serve(tmp_path_factory: pytest.TempPathFactory, entry: dict[str, Any]) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("from-channels-1")
    keep = {
        name: value for name, value in os.environ.items() if not name.startswith(("DJANGO_", "CHANNELS_"))
    }
    environment = keep | {
        "EXAMPLES_LAYER": json.dumps(entry),
        "EXAMPLES_DATABASE": str(folder / "db.sqlite3"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "default",
    }
    run(environment, "migrate", "--verbosity", "0")
    run(environment, "shell", "--verbosity", "0", "--command", DATA)
    chosen = free_port()
    command = [sys.executable, "manage.py", "runserver", "--noreload", f"127.0.0.1:{chosen}"]
    with Running(command, ROOT, environment) as server:
        server.wait_for("Quit the server")
        yield chosen
        assert "Traceback" not in server.output


@pytest.fixture
def examples(port: int) -> Iterator[Examples]:
    made = Examples(port)
    yield made
    made.close()


def test_readers_of_a_liveblog_see_posts_as_they_are_saved(examples: Examples) -> None:
    author, reader = examples.visitor("root"), examples.visitor()
    with reader.socket("/liveblog/launch/stream/") as stream:
        author.post("/admin/liveblog/post/add/", liveblog="1", body="Ten, nine, eight")
        post = stream.next()
        assert post["body"] == "Ten, nine, eight"
        author.post(f"/admin/liveblog/post/{post['id']}/change/", liveblog="1", body="Lift-off!")
        assert stream.next() == {**post, "body": "Lift-off!"}
    assert "Lift-off!" in reader.pages.get("/liveblog/launch/").text
    with reader.socket("/liveblog/landing/stream/") as stream:
        assert stream.next() == {"error": "bad_slug"}


def test_rooms_of_the_chat(examples: Examples) -> None:
    ada, grace, root = (examples.visitor(name) for name in ("ada", "grace", "root"))
    with pytest.raises(InvalidStatus, match="403"), examples.visitor().socket("/chat/stream/"):
        pass
    assert "Backstage" in root.pages.get("/chat/").text
    assert "Backstage" not in ada.pages.get("/chat/").text
    with ada.socket("/chat/stream/") as hers, grace.socket("/chat/stream/") as others:
        hers.send(command="join", room=1)
        assert hers.next() == {"room": 1, "username": "ada", "joined": True}
        assert hers.next() == {"join": 1, "title": "Lobby"}
        others.send(command="join", room="1")
        for socket in (hers, others):
            assert socket.next() == {"room": 1, "username": "grace", "joined": True}
        assert others.next() == {"join": 1, "title": "Lobby"}
        for number in range(5):
            others.send(command="send", room=1, message=f"hello {number}")
            said = {"room": 1, "username": "grace", "message": f"hello {number}"}
            assert (hers.next(), others.next()) == (said, said)

        for command, error in (
            ({"command": "join", "room": 2}, "ROOM_ACCESS_DENIED"),
            ({"command": "send", "room": 2, "message": "?"}, "ROOM_ACCESS_DENIED"),
            ({"command": "join", "room": 99}, "ROOM_INVALID"),
            ({"command": "rename", "room": 1, "title": "Hers"}, "NOT_STAFF"),
            ({"command": 5}, "COMMAND_UNKNOWN"),
        ):
            hers.send(**command)
            assert hers.next() == {"error": error}
        hers.connection.send("this is no JSON")
        assert hers.next() == {"error": "NOT_A_COMMAND"}

        with root.socket("/chat/stream/") as staff:
            staff.send(command="join", room=2)
            assert staff.next()["joined"]
            assert staff.next() == {"join": 2, "title": "Backstage"}
            staff.send(command="rename", room=1, title="Salon")
            assert hers.next() == {"room": 1, "username": "root", "title": "Salon"}

        others.next()
        others.send(command="leave", room=1)
        assert others.next() == {"leave": 1}
        assert hers.next() == {"room": 1, "username": "grace", "left": True}
        others.send(command="send", room=1, message="?")
        assert others.next() == {"error": "ROOM_NOT_JOINED"}
        others.send(command="join", room=1)
        assert hers.next()["joined"]
    with root.socket("/chat/stream/") as staff:  # who closes the page has left
        staff.send(command="join", room=1)
        assert staff.next()["joined"]


def test_a_table_in_two_browsers_and_the_admin(examples: Examples) -> None:
    ada, grace, root = (examples.visitor(name) for name in ("ada", "grace", "root"))
    with ada.socket("/values/stream/") as hers, grace.socket("/values/stream/") as others:
        hers.send(stream="intval", payload={"action": "update", "pk": 1, "data": {"value": 42}})
        updated = {
            "stream": "intval",
            "payload": {
                "action": "update",
                "pk": 1,
                "data": {"name": "answer", "value": 42},
                "model": "values.integervalue",
            },
        }
        assert (hers.next(), others.next()) == (updated, updated)
        assert 'value="42"' in grace.pages.get("/values/").text

        root.post("/admin/values/integervalue/add/", name="visitors", value="2")
        created = hers.next()["payload"]
        assert others.next()["payload"] == created
        assert (created["action"], created["data"]) == ("create", {"name": "visitors", "value": 2})

        hers.send(
            stream="intval", payload={"action": "delete", "pk": created["pk"]}
        )  # for staff, so nothing happens
        hers.send(stream="intval", payload={"action": "create", "data": {"name": "third", "value": 3}})
        for socket in (hers, others):
            assert socket.next()["payload"]["data"] == {"name": "third", "value": 3}
        root.post(f"/admin/values/integervalue/{created['pk']}/delete/", post="yes")
        for socket in (hers, others):
            told = socket.next()["payload"]
            assert (told["action"], told["pk"]) == ("delete", created["pk"])


def test_nothing_but_channels_is_imported() -> None:
    imported = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
            elif isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
    assert {name for name in imported if name.startswith("channels")} == {"channels"}
    assert imported - sys.stdlib_module_names == {
        "channels",
        "django",
        "liveblog",
        "multichat",
        "values",
    }
