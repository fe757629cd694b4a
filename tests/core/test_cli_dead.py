"""`channels dead`: what it prints, chooses and refuses."""

import json

import pytest

from channels_core import ChannelLayer, ChannelLayers
from channels_core.cli import Host, main
from channels_core.layers import Settlement, Verdict
from channels_layer_memory import MemoryBackend


class Shared(MemoryBackend):
    local_only = False


class Bench:
    """A layer whose clock stands still, and the command on it."""

    def __init__(self, kind: type[MemoryBackend] = Shared) -> None:
        self.now = 1000.0
        self.backend = kind(clock=lambda: self.now, delivery={"*": "at-least-once"})
        self.layer = ChannelLayer(self.backend)
        self._layers = ChannelLayers()
        self._layers.set("default", self.layer)

    def give_up(self, channel: str, content: dict[str, object], reason: str = "It failed.") -> str:
        before = {letter.id for letter in self.backend.dead_letters()}
        self.layer.send(channel, content)
        [delivery] = self.backend.receive_batch([channel])
        self.backend.settle([Settlement(delivery, Verdict.DEAD, reason=reason)])
        self.now += 100.0
        [letter] = {letter.id for letter in self.backend.dead_letters(limit=5000)} - before
        return letter

    def run(self, *arguments: str) -> int:
        return main(["dead", *arguments], host=Host(layers=self._layers, command=[]))

    @property
    def ids(self) -> list[str]:
        return [letter.id for letter in self.backend.dead_letters(limit=5000)]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_empty_list_says_so(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("list") == 0
    assert bench.run("list", "--json") == 0
    assert capsys.readouterr() == ("No dead letters.\n[]\n", "")


def test_the_list_is_oldest_first_and_can_be_narrowed(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second, third = bench.give_up("a", {}), bench.give_up("b", {}), bench.give_up("a", {})

    def listed(*options: str) -> list[str]:
        assert bench.run("list", "--json", *options) == 0
        return [line["id"] for line in json.loads(capsys.readouterr().out)]

    assert listed() == [first, second, third]
    assert listed("--channel", "a") == [first, third]
    assert listed("--limit", "2") == [first, second]


def test_names_in_the_list_keep_their_secrets(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    secret = bench.layer.new_channel("answer?")
    bench.give_up(secret, {})
    bench.run("list")
    bench.run("list", "--json")
    output = capsys.readouterr().out
    assert secret not in output
    assert output.count(f"{secret[:11]}...") == 2


def test_show_gives_one_whole_also_to_programs(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    reply_channel = bench.layer.new_channel("websocket.send!")
    content: dict[str, object] = {
        "reply_channel": reply_channel,
        "data": b"\xff",
        "rows": [{"x": b"1"}],
        "t": "\x1b[2J",
    }
    letter = bench.give_up("jobs", content, reason="no \x1b good")
    assert bench.run("show", letter) == 0
    text = capsys.readouterr().out
    assert "reason   no \\x1b good\n" in text
    assert "'data': b'\\xff'" in text
    assert "\x1b" not in text
    assert bench.run("show", "--json", letter) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["content"]["data"] == {"base64": "/w=="}
    assert shown["content"]["rows"] == [{"x": {"base64": "MQ=="}}]
    assert list(shown["headers"]) == ["c-at"]
    assert (shown["channel"], shown["attempt"], shown["age"]) == ("jobs", 1, 100.0)
    assert reply_channel not in text + str(shown)


def test_show_finds_one_far_behind(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(501):
        bench.layer.send("jobs", {"n": n})
        [delivery] = bench.backend.receive_batch(["jobs"])
        bench.backend.settle([Settlement(delivery, Verdict.DEAD, reason="It failed.")])
    assert bench.run("show", "--json", bench.ids[-1]) == 0
    assert json.loads(capsys.readouterr().out)["content"] == {"n": 500}


def test_what_is_not_there_cannot_be_shown(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.run("show", "nobody") == 1
    assert capsys.readouterr() == (
        "",
        "channels: Layer 'default' has no dead letter 'nobody': it was replayed or dropped, or never was. See"
        " 'channels dead list'.\n",
    )


def test_replay_by_ids_puts_new_messages_on_their_channels(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = bench.give_up("jobs", {"n": 1}), bench.give_up("jobs", {"n": 2})
    assert bench.run("replay", first) == 0
    assert capsys.readouterr() == ("1 dead letter put back.\n", "")
    assert bench.ids == [second]
    [delivery] = bench.backend.receive_batch(["jobs"])
    assert (delivery.content, delivery.attempt) == ({"n": 1}, 1)


def test_ids_that_are_not_there_are_counted_and_the_status_says_so(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    letter = bench.give_up("jobs", {})
    assert bench.run("drop", letter, letter, "nobody") == 1
    assert capsys.readouterr() == ("1 dead letter dropped.\n", "1 of 2 are not there.\n")
    assert bench.ids == []


def test_all_is_all_that_were_there_of_the_channel(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for n in range(3):
        bench.give_up("jobs", {"n": n})
    other = bench.give_up("mail", {})
    assert bench.run("replay", "--all", "--channel", "jobs", "--limit", "2") == 0
    assert bench.run("drop", "--all", "--channel", "jobs") == 0
    assert capsys.readouterr().out == "2 dead letters put back.\n1 dead letter dropped.\n"
    assert bench.ids == [other]


def test_all_goes_page_by_page(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(501):
        bench.layer.send("jobs", {})
        [delivery] = bench.backend.receive_batch(["jobs"])
        bench.backend.settle([Settlement(delivery, Verdict.DEAD, reason="It failed.")])
    bench.now += 1000.0
    assert bench.run("drop", "--all") == 0
    assert capsys.readouterr().out == "501 dead letters dropped.\n"


def test_what_dies_again_meanwhile_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    class Deadly(Shared):
        def replay_dead(self, ids: object) -> int:
            count = super().replay_dead(ids)  # type: ignore[arg-type]  # handed on as it came
            for delivery in self.receive_batch(["jobs"], limit=count):
                self.settle([Settlement(delivery, Verdict.DEAD, reason="Again.")])
            return count

    bench = Bench(Deadly)
    bench.give_up("jobs", {})
    assert bench.run("replay", "--all") == 0
    assert capsys.readouterr().out == "1 dead letter put back.\n"
    assert len(bench.ids) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            [],
            "channels: Name the dead letters by the ids that 'channels dead list' shows, or say --all; not both, and"
            " not neither.\n",
        ),
        (
            ["x", "--all"],
            "channels: Name the dead letters by the ids that 'channels dead list' shows, or say --all; not both, and"
            " not neither.\n",
        ),
        (
            ["x", "--channel", "jobs"],
            "channels: --channel and --limit choose among all: say --all with them, and no ids.\n",
        ),
        (
            ["--all", "--channel", "no blanks"],
            "channels: --channel 'no blanks' is not a channel's name. Write one that 'channels dead list' shows.\n",
        ),
    ],
)
def test_an_unclear_choice_is_refused(
    arguments: list[str], text: str, bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    for action in ("replay", "drop"):
        assert bench.run(action, *arguments) == 1
        assert capsys.readouterr() == ("", text)


def test_a_layer_in_memory_is_another_one_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(MemoryBackend)
    assert bench.run("list") == 0
    assert bench.run("drop", "--all") == 0
    assert capsys.readouterr().err == 2 * (
        "Layer 'default' keeps its messages in the memory of one process, and these are those of this one.\n"
    )
