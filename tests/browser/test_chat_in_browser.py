"""The chat demo as people see it: two windows of a headless Chromium on the real ``manage.py demo`` process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

import chromium
from chatdemo import ChatDemo

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


class Window(chromium.Window):
    """A browser window of one visitor, looking at a room."""

    def __init__(self, profile: Path) -> None:
        super().__init__(profile)
        self.look(1280, 800)

    def look(self, width: int, height: int, *, scheme: str = "light") -> None:
        """Take on a window size and a colour scheme."""
        command = self.driver.execute_cdp_cmd
        phone = width < 600
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        command("Emulation.setDeviceMetricsOverride", metrics)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        command("Emulation.setEmulatedMedia", {"features": features})

    def enter(self, demo: ChatDemo, room: str = "lobby") -> None:
        self.driver.get(f"{demo.origin}/rooms/{room}/")
        self.wait_for_state("open")
        self.wait(lambda: self.people)

    def wait_for_state(self, state: str) -> None:
        self.wait(lambda: self.script("return document.getElementById('state').dataset.state") == state)

    def texts(self, selector: str) -> list[str]:
        found: list[str] = self.script(
            "return [...document.querySelectorAll(arguments[0])].map((element) => element.textContent)",
            selector,
        )
        return found

    @property
    def name(self) -> str:
        return self.texts(".whoami")[0]

    @property
    def people(self) -> list[str]:
        return self.texts("#people li span:nth-child(2)")

    @property
    def said(self) -> list[str]:
        return self.texts(".said:not(.pending) .bubble")

    def write(self, text: str) -> None:
        self.driver.find_element(By.ID, "text").send_keys(text)

    def say(self, text: str) -> None:
        self.write(text)
        self.write(Keys.ENTER)

    def wait_for_people(self, *names: str) -> None:
        self.wait(lambda: sorted(self.people) == sorted(names))

    def wait_for_said(self, *texts: str) -> None:
        """Wait until these are the last things that were said."""
        self.wait(lambda: self.said[-len(texts) :] == [*texts])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatDemo]:
    chromium.need_browser()
    server = ChatDemo(tmp_path_factory.mktemp("chat"))
    try:
        server.start()
        yield server
        assert "Traceback" not in server.output
    finally:
        server.kill()


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Callable[[], Window]]:
    opened: list[Window] = []

    def open_window() -> Window:
        opened.append(Window(tmp_path / f"profile{len(opened)}"))
        return opened[-1]

    yield open_window
    try:
        assert [one.complaints() for one in opened] == [[] for _ in opened]
    finally:
        for one in opened:
            one.driver.quit()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where screenshots go: ``CHAT_SCREENSHOTS`` where it is set, to look at them."""
    folder = Path(os.environ.get("CHAT_SCREENSHOTS", tmp_path / "screenshots"))
    folder.mkdir(exist_ok=True)
    return folder


def test_two_windows_talk(demo: ChatDemo, window: Callable[[], Window], pictures: Path) -> None:
    one, other = window(), window()
    one.enter(demo)
    other.enter(demo)
    assert one.name != other.name

    # Presence, on both sides, and the notice on the side that was there before.
    one.wait_for_people(one.name, other.name)
    other.wait_for_people(one.name, other.name)
    one.wait(lambda: f"{other.name} joined" in one.texts(".notice"))

    # Typing is seen on the other side only, and ends with the message.
    one.write("Hello from the first window")
    other.wait(lambda: other.texts("#typing") == [f"{one.name} is typing…"])
    assert one.texts("#typing") == [""]
    one.write(Keys.ENTER)
    other.wait(lambda: other.said == ["Hello from the first window"])
    one.wait(lambda: one.said == ["Hello from the first window"])
    assert other.texts("#typing") == [""]
    other.say("And hello from the second")
    for each in (one, other):
        each.wait_for_said("And hello from the second")
        assert each.texts(".said strong") == [one.name, other.name]
        assert each.texts(".pending") == []

    # What people write is text, whatever it looks like.
    attack = "<img src=x onerror=\"document.title='broken into'\"><script>alert(1)</script>"
    one.say(attack)
    other.wait(lambda: other.said[-1] == attack)
    assert other.script("return document.querySelectorAll('#log img, #log script').length") == 0
    assert "broken into" not in other.driver.title

    # Several lines, sent with Enter and broken with Shift+Enter.
    one.write("first line" + Keys.SHIFT + Keys.ENTER + Keys.SHIFT + "second line")
    one.write(Keys.ENTER)
    other.wait(lambda: other.said[-1] == "first line\nsecond line")

    look_at(one, pictures, "room")

    # A second tab of the same visitor is the same person; the last one to close is the goodbye.
    leaver = other.name
    first_tab = other.driver.current_window_handle
    other.driver.switch_to.new_window("tab")
    other.enter(demo)
    other.wait_for_people(one.name, other.name)
    other.driver.close()
    other.driver.switch_to.window(first_tab)
    other.driver.get(demo.origin)
    one.wait(lambda: f"{leaver} left" in one.texts(".notice"))
    assert one.people == [one.name]
    assert one.texts(".notice").count(f"{leaver} joined") == 1
    other.driver.refresh()
    assert "1 person here" in other.texts(".card small")[0]
    look_at(other, pictures, "rooms")


def look_at(shown: Window, pictures: Path, name: str) -> None:
    """Take pictures in the sizes of a desk and a phone and check that the page fits both."""
    for width, height, scheme in (
        (1280, 800, "light"),
        (1280, 800, "dark"),
        (390, 844, "light"),
        (390, 844, "dark"),
    ):
        shown.look(width, height, scheme=scheme)
        picture = pictures / f"{name}-{width}-{scheme}.png"
        assert shown.driver.save_screenshot(str(picture))
        assert picture.stat().st_size > 5_000, "the page is empty"
        sizes = shown.script(
            "return [document.documentElement.scrollWidth, innerWidth,"
            " document.querySelector('#composer')?.getBoundingClientRect().bottom ?? 0, innerHeight]"
        )
        assert sizes[0] <= sizes[1] == width, f"the page is wider than the window: {sizes}"
        assert sizes[2] <= sizes[3] == height, f"the composer is below the window: {sizes}"
    shown.look(1280, 800)


def test_a_reload_is_no_goodbye(demo: ChatDemo, window: Callable[[], Window]) -> None:
    one, other = window(), window()
    one.enter(demo, "coffee")
    other.enter(demo, "coffee")
    name = other.name
    one.wait(lambda: f"{name} joined" in one.texts(".notice"))
    other.enter(demo, "coffee")
    other.say("back again")
    one.wait(lambda: one.said == ["back again"])
    assert other.name == name
    # A notice that somebody left waits 2.5 s for them to come back; one that is not there later never comes.
    one.script("window.asked = performance.now()")
    one.wait(lambda: one.script("return performance.now() - window.asked > 3_000"))
    assert [notice for notice in one.texts(".notice") if name in notice] == [f"{name} joined"]
    assert sorted(one.people) == sorted([one.name, name])


def test_windows_come_back_after_a_restart(
    demo: ChatDemo, window: Callable[[], Window], pictures: Path
) -> None:
    one, other = window(), window()
    one.enter(demo, "help")
    other.enter(demo, "help")
    one.say("before the restart")
    other.wait(lambda: other.said == ["before the restart"])

    assert demo.stop() == 0, demo.output
    one.wait_for_state("closed")
    assert one.texts("#state")[0].startswith("Reconnecting in ")
    one.say("said while nobody could hear")
    one.wait(lambda: one.texts(".pending .bubble") == ["said while nobody could hear"])
    one.driver.save_screenshot(str(pictures / "reconnecting.png"))

    demo.start()
    for each in (one, other):
        each.wait_for_state("open")
        each.wait_for_said("before the restart", "said while nobody could hear")
        ids = each.script("return [...document.querySelectorAll('[data-id]')].map((said) => said.dataset.id)")
        assert len(set(ids)) == len(ids) == 2
        each.wait_for_people(one.name, other.name)
    assert one.texts(".pending") == []


def test_signing_up_gives_a_name(demo: ChatDemo, window: Callable[[], Window]) -> None:
    shown = window()
    shown.enter(demo)
    shown.driver.find_element(By.LINK_TEXT, "Sign up").click()
    for field, value in (
        ("username", "ada"),
        ("password1", "quite-a-secret-7"),
        ("password2", "quite-a-secret-7"),
    ):
        shown.driver.find_element(By.NAME, field).send_keys(value)
    shown.driver.find_element(By.CSS_SELECTOR, "main form button").click()
    shown.wait_for_state("open")
    shown.wait(lambda: shown.people == ["ada"])
    shown.say("Now I have a name")
    shown.wait(lambda: shown.said[-1:] == ["Now I have a name"])
    assert shown.texts(".said strong")[-1] == "ada"
    shown.driver.find_element(By.CSS_SELECTOR, "header form button").click()
    shown.wait(lambda: "Sign in" in shown.driver.page_source)


def test_an_unknown_room_says_so(demo: ChatDemo, window: Callable[[], Window]) -> None:
    shown = window()
    shown.driver.get(f"{demo.origin}/rooms/nowhere/")
    assert shown.texts("h1") == ["There is no such room"]
    assert [entry["message"].partition("Failed")[2] for entry in shown.console()] == [
        " to load resource: the server responded with a status of 404 (Not Found)"
    ]
