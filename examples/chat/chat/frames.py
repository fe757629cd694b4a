"""What a client may send, read from the message of one WebSocket frame.

Whatever arrives becomes one of the records below, or a `BadFrame` that says what is wrong with it. Nothing here
touches the database, so junk is refused cheaply.
"""

import json
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_TEXT = 2_000
MAX_REF = 64


class BadFrame(ValueError):
    """A frame that the room does not understand; `str()` of it is a sentence for the client.

    `ref` is the client's mark of what was refused, "" where it gave none that can be read.
    """

    def __init__(self, reason: str, *, ref: str = "") -> None:
        """Keep the reason and the mark."""
        super().__init__(reason)
        self.ref = ref


@dataclass(frozen=True, kw_only=True)
class Say:
    """The client says something. `ref` is the client's own mark for it, "" where it gave none."""

    text: str
    ref: str = ""


@dataclass(frozen=True, kw_only=True)
class Typing:
    """The client is typing."""


def read_frame(content: Mapping[str, Any]) -> Say | Typing:
    """Return what the content of a `websocket.receive` message means.

    Raises:
        BadFrame: It is not a text frame holding a JSON object of a known type with valid values.
    """
    if not isinstance(content.get("text"), str):
        raise BadFrame("This room takes text frames, and that was a binary one.")
    try:
        frame = json.loads(content["text"])
    except (ValueError, RecursionError):  # the second is JSON nested thousands deep
        raise BadFrame("That frame is not JSON.") from None
    if not isinstance(frame, dict):
        raise BadFrame('A frame is a JSON object such as {"type": "say", "text": "Hello"}.')
    match frame.get("type"):
        case "say":
            ref = _ref(frame)
            return Say(text=_text(frame, ref), ref=ref)
        case "typing":
            return Typing()
        case _:
            raise BadFrame('The "type" of a frame is "say" or "typing".')


def _text(frame: dict[str, Any], ref: str) -> str:
    text = frame.get("text")
    if not isinstance(text, str):
        raise BadFrame('"say" needs a "text", and it is a string.', ref=ref)
    text = text.replace("\r\n", "\n")
    if len(text) > MAX_TEXT:
        raise BadFrame(f"That is {len(text):,} characters long; a message has at most {MAX_TEXT:,}.", ref=ref)
    if _has_controls(text.replace("\n", "").replace("\t", "")):
        raise BadFrame(
            "A message holds no control characters but line breaks and tabs, and whole characters only.",
            ref=ref,
        )
    if not any(character.isprintable() and not character.isspace() for character in text):
        raise BadFrame("There is nothing to read in that message.", ref=ref)
    return text.strip()


def _ref(frame: dict[str, Any]) -> str:
    ref = frame.get("ref", "")
    if not isinstance(ref, str) or len(ref) > MAX_REF or _has_controls(ref):
        raise BadFrame(f'"ref" is a string of at most {MAX_REF} characters, without control characters.')
    return ref


def _has_controls(text: str) -> bool:
    """Say whether there are control characters or halves of a surrogate pair, which no encoding can carry."""
    return any(unicodedata.category(character) in {"Cc", "Cs"} for character in text)
