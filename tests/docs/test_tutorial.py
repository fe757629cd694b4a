"""The tutorial works as written: its files make a project, step by step, in which two windows talk."""

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from chatdemo import demo_environment
from ports import free_port

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tutorial" / "chat.md"
STEPS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:]
PATIENCE = 40.0

pytestmark = pytest.mark.timeout(120)

_FILE = re.compile(r"^```python file=(?P<path>\S+)\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL)
_END = re.compile(
    r"^```python no-run\n# at the end of (?P<path>\S+)\n(?P<source>.*?)^```$", re.MULTILINE | re.DOTALL
)
_TEMPLATE = re.compile(r"^```html\n(?P<source>\{# (?P<path>\S+) #\}\n.*?)^```$", re.MULTILINE | re.DOTALL)


class Project:
    """The reader's folder after some of the steps."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "mysite"
        self.environment = demo_environment(folder)

    @classmethod
    def begin(cls, folder: Path) -> "Project":
        """Do the first step."""
        project = cls(folder)
        project._run(folder, sys.executable, "-m", "django", "startproject", "mysite")
        project.manage("startapp", "chat")
        project.do(1)
        project.manage("migrate")
        return project

    def copy(self, folder: Path) -> "Project":
        """The same in another folder."""
        shutil.copytree(self.folder, folder / "mysite")
        return type(self)(folder)

    def do(self, *numbers: int) -> None:
        """Write what the steps with these numbers say to write."""
        for number in numbers:
            step = STEPS[number - 1]
            assert step.startswith(f"{number}. ")
            for found in _END.finditer(step):
                with (self.folder / found["path"]).open("a") as file:
                    file.write("\n\n" + found["source"])
            for found in (*_FILE.finditer(step), *_TEMPLATE.finditer(step)):
                path = self.folder / found["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(found["source"])

    def manage(self, *arguments: str, **environment: str) -> str:
        return self._run(self.folder, sys.executable, "manage.py", *arguments, **environment)

    def _run(self, folder: Path, *command: str, **environment: str) -> str:
        run = subprocess.run(
            command,
            cwd=folder,
            env=self.environment | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert run.returncode == 0, run.stdout
        return run.stdout

    @contextmanager
    def running(self) -> Iterator["Site"]:
        """``runserver``, without the reloader, on a free port."""
        port = free_port()
        log = self.folder / "runserver.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", "runserver", "--noreload", str(port)],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        site = Site(port)
        try:
            deadline = time.monotonic() + PATIENCE
            while not site.answers():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.05)
            yield site
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        assert "Traceback" not in log.read_text()
        expected = f"Starting the channels development server at http://127.0.0.1:{port}/, with worker threads inside"
        assert expected in log.read_text()
        assert expected.replace(str(port), "8000") in STEPS[0]


class Site:
    def __init__(self, port: int) -> None:
        self.origin = f"http://127.0.0.1:{port}"

    def answers(self) -> bool:
        try:
            httpx.get(f"{self.origin}/admin/", timeout=10)
        except httpx.TransportError:
            return False
        return True

    @contextmanager
    def window(
        self, path: str = "/rooms/lobby/ws", *, origin: str = "", cookie: str = ""
    ) -> Iterator[ClientConnection]:
        with connect(
            self.origin.replace("http", "ws") + path,
            origin=Origin(origin or self.origin),
            additional_headers={"Cookie": cookie} if cookie else {},
        ) as connection:
            yield connection

    def refusal(self, path: str, *, origin: str = "") -> int:
        """The status that an attempt to open a socket is refused with."""
        with pytest.raises(InvalidStatus) as caught, self.window(path, origin=origin):
            pass
        return caught.value.response.status_code

    def sign_in(self) -> str:
        """Sign in as the reader does, in the admin; the session's cookie."""
        with httpx.Client(base_url=self.origin, follow_redirects=True) as browser:
            browser.get("/admin/login/")
            form = {
                "csrfmiddlewaretoken": browser.cookies["csrftoken"],
                "username": "ada",
                "password": "difference engine",
            }
            answer = browser.post("/admin/login/?next=/admin/", data=form, headers={"Referer": self.origin})
            assert "Log out" in answer.text
            return f"sessionid={browser.cookies['sessionid']}"


def heard(connection: ClientConnection) -> str:
    frame = connection.recv(timeout=15)
    assert isinstance(frame, str)
    return frame


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project.begin(tmp_path_factory.mktemp("tutorial"))


@pytest.fixture
def project(beginning: Project, tmp_path: Path) -> Project:
    """After step 1."""
    return beginning.copy(tmp_path)


def test_steps_1_and_2_show_pages_and_accept_any_socket(project: Project) -> None:
    with project.running() as site:
        assert "The install worked successfully!" in httpx.get(f"{site.origin}/").text
    project.do(2)
    with project.running() as site:
        page = httpx.get(f"{site.origin}/rooms/lobby/").text
        assert "<h1>lobby</h1>" in page
        assert "new WebSocket(" in page
        with site.window() as window, site.window("/anything") as other:
            window.send("hello")
            other.send(b"hello")
            assert window.ping().wait(15)


def test_step_3_answers(project: Project) -> None:
    project.do(2, 3)
    with project.running() as site, site.window() as window:
        assert heard(window) == "Welcome to lobby."
        window.send("hello")
        assert heard(window) == "You said: hello"


def test_step_4_talks_to_everybody(project: Project) -> None:
    project.do(2, 3, 4)
    with project.running() as site, site.window() as one, site.window() as other:
        assert [heard(one), heard(other)] == ["Welcome to lobby."] * 2
        one.send(b"binary, and passed over")
        one.send("hello")
        assert [heard(one), heard(other)] == ["hello", "hello"]


def test_step_5_closes_the_door(project: Project) -> None:
    project.do(2, 3, 4, 5)
    with project.running() as site:
        assert site.refusal("/anything") == 403
        assert site.refusal("/rooms/lobby/ws", origin="https://evil.example") == 403
        with site.window() as stays:
            assert heard(stays) == "Somebody has come."
            with site.window():
                assert heard(stays) == "Somebody has come."
            assert heard(stays) == "Somebody has left."


def test_the_whole_tutorial_ends_with_two_windows_that_talk(project: Project) -> None:
    project.do(2, 3, 4, 5, 6, 7, 8)
    [create] = re.findall(r"^\$ python manage\.py (createsuperuser .*)$", STEPS[5], re.MULTILINE)
    project.manage(*create.split(), "--noinput", DJANGO_SUPERUSER_PASSWORD="difference engine")
    assert project.manage("check") == "System check identified no issues (0 silenced).\n"

    with project.running() as site, site.window() as private:
        guest = heard(private).removesuffix(" has come.")
        assert re.fullmatch(r"Guest \d{3}", guest)

        cookie = site.sign_in()
        assert heard(private) == "ada has signed in."

        with site.window(cookie=cookie) as ada:
            assert [heard(ada), heard(private)] == ["ada has come."] * 2
            ada.send("hello")
            assert [heard(ada), heard(private)] == ["ada: hello"] * 2
            private.send("hello, ada")
            assert [heard(ada), heard(private)] == [f"{guest}: hello, ada"] * 2
        assert heard(private) == "ada has left."

        with site.window("/rooms/library/ws") as elsewhere:
            assert heard(elsewhere).endswith(" has come.")
            elsewhere.send("only here")
            assert heard(elsewhere).endswith(": only here")
            private.send("quiet, isn't it")
            assert heard(private) == f"{guest}: quiet, isn't it"


def test_the_tests_of_the_tutorial_pass(project: Project) -> None:
    project.do(2, 3, 4, 5, 6, 7, 8)
    output = project.manage("test")
    assert "Ran 2 tests in" in output
    assert output.rstrip().endswith("Destroying test database for alias 'default'...")
    assert "\nOK\n" in output


def test_every_code_block_belongs_to_a_file_or_is_for_the_terminal() -> None:
    fences = re.findall(r"^```(\S.*)$", PAGE.read_text(), re.MULTILINE)
    files = [fence for fence in fences if fence.startswith("python file=")]
    assert {fence for fence in fences if fence not in files} == {"console", "html", "python no-run"}
    assert fences.count("python no-run") == len(_END.findall(PAGE.read_text())) == 1
    assert fences.count("html") == len(_TEMPLATE.findall(PAGE.read_text())) == 1
    assert len(files) == len(_FILE.findall(PAGE.read_text()))
