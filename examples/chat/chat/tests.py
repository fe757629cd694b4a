"""Tests of the chat without a server: consumers run in the test, on a memory layer of its own."""

from typing import Any

from django.contrib.auth.models import User
from django.test import SimpleTestCase

from channels_core import DenyConnection
from channels_django.testing import ChannelTestCase, WSClient
from chat import presence
from chat.frames import BadFrame, Say, Typing, read_frame
from chat.models import Post, Presence, Room
from chat.names import make_up_name


class FramesTests(SimpleTestCase):
    """What clients may send."""

    def test_say(self) -> None:
        content = {"text": '{"type": "say", "text": " Hello\\r\\nthere ", "ref": "r1"}'}
        self.assertEqual(read_frame(content), Say(text="Hello\nthere", ref="r1"))

    def test_typing_and_keys_that_we_do_not_know(self) -> None:
        self.assertEqual(read_frame({"text": '{"type": "typing", "mood": "good"}'}), Typing())

    def test_junk_is_refused(self) -> None:
        for junk in (
            "",
            "x",
            "1",
            "[]",
            "{}",
            '{"type": {}}',
            '{"type": "say"}',
            '{"type": "say", "text": "\\u0000"}',
        ):
            with self.subTest(junk), self.assertRaises(BadFrame):
                read_frame({"text": junk})
        with self.assertRaises(BadFrame):
            read_frame({"bytes": b"{}"})


class NamesTests(SimpleTestCase):
    """Made-up names."""

    def test_a_name_is_two_words_and_a_number(self) -> None:
        adjective, animal, number = make_up_name().split(" ")
        self.assertTrue(adjective.isalpha() and animal.isalpha() and len(number) == 3 and number.isdigit())


class Visitor(WSClient):
    """Somebody at a room's socket. Nothing runs by itself: a test says when a message is handled."""

    def __init__(self, slug: str = "lobby") -> None:
        super().__init__()
        self.path = f"/rooms/{slug}/ws"
        self.set_header("Origin", "http://localhost")

    def enter(self) -> dict[str, Any]:
        self.send_and_consume("websocket.connect", path=self.path)
        return {frame["type"]: frame for frame in self.frames()}

    def say(self, text: str, **more: str) -> None:
        frame = {"type": "say", "text": text, **more}
        self.send_and_consume("websocket.receive", text=frame, path=self.path)

    def leave(self) -> None:
        self.send_and_consume("websocket.disconnect", path=self.path)

    def frames(self) -> list[dict[str, Any]]:
        """What has arrived since the last time."""
        return list(iter(self.receive, None))


class RoomTests(ChannelTestCase):
    """The life of a socket, on the memory layer that each test gets for itself."""

    def test_a_guest_enters(self) -> None:
        guest = Visitor()
        frames = guest.enter()
        name = frames["welcome"]["user"]
        self.assertEqual(frames["welcome"], {"type": "welcome", "room": "lobby", "user": name, "guest": True})
        self.assertEqual(frames["history"]["messages"], [])
        self.assertEqual(frames["here"]["people"], [{"user": name, "guest": True}])
        self.assertEqual(frames["joined"]["user"], name)

    def test_a_guest_keeps_the_name_of_the_page(self) -> None:
        guest = Visitor()
        guest.session["guest_name"] = "Quiet Otter 417"
        guest.session.save()
        self.assertEqual(guest.enter()["welcome"]["user"], "Quiet Otter 417")

    def test_a_member_has_their_own_name(self) -> None:
        member = Visitor()
        member.force_login(User.objects.create_user("maria"))
        welcome = member.enter()["welcome"]
        self.assertEqual((welcome["user"], welcome["guest"]), ("maria", False))

    def test_everyone_hears_and_newcomers_read(self) -> None:
        one, other = Visitor(), Visitor()
        one.enter()
        other.enter()
        one.frames()
        one.say("Hello")
        heard = one.frames()
        self.assertEqual([frame["text"] for frame in heard], ["Hello"])
        self.assertEqual(other.frames(), heard)
        self.assertEqual(Visitor().enter()["history"]["messages"], heard)

    def test_the_same_ref_is_kept_once(self) -> None:
        talker = Visitor()
        talker.enter()
        talker.say("Hello?", ref="r1")
        talker.say("Hello?", ref="r1")
        first, second = talker.frames()
        self.assertEqual(first, second)
        self.assertEqual(Post.objects.count(), 1)

    def test_a_bad_frame_is_answered(self) -> None:
        talker = Visitor()
        talker.enter()
        talker.send_and_consume("websocket.receive", text="not JSON", path=talker.path)
        self.assertEqual(talker.frames(), [{"type": "error", "reason": "That frame is not JSON.", "ref": ""}])

    def test_leaving_is_told_and_leaves_nothing_behind(self) -> None:
        stays, leaves = Visitor(), Visitor()
        stays.enter()
        name = leaves.enter()["welcome"]["user"]
        leaves.leave()
        self.assertEqual([frame["type"] for frame in stays.frames()], ["joined", "left"])
        self.assertEqual(leaves.frames(), [])
        self.assertFalse(Presence.objects.filter(name=name).exists())

    def test_leftovers_of_a_killed_server_are_cleared(self) -> None:
        Presence.objects.create(
            room=Room.objects.get(slug="lobby"),
            reply_channel="websocket.send.gone!1",
            name="Ghost",
            guest=True,
        )
        self.assertEqual(presence.count(Room.objects.get(slug="lobby")), 0)
        frames = Visitor().enter()
        self.assertNotIn("Ghost", [person["user"] for person in frames["here"]["people"]])
        self.assertEqual(frames["left"]["user"], "Ghost")

    def test_an_unknown_room_is_refused(self) -> None:
        lost = Visitor("nowhere")
        with self.assertRaises(DenyConnection):
            lost.enter()
        lost.leave()
        self.assertEqual(lost.frames(), [])

    def test_another_site_is_refused(self) -> None:
        stranger = Visitor()
        stranger.set_header("Origin", "https://evil.example")
        with self.assertRaises(DenyConnection):
            stranger.enter()
        self.assertEqual(Presence.objects.count(), 0)
