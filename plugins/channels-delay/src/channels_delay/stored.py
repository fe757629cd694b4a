"""How a message's content is kept in a text column: as JSON, in which bytes are written out.

Text that other tools can read and that old rows already hold. JSON has no bytes, so ``b"..."`` becomes
``{"__bytes__": "<base64>"}``, and a dict that looks like that by chance becomes ``{"__dict__": {...}}``.
"""

from __future__ import annotations

import base64
import json
from typing import Any, Final

__all__ = ["from_text", "to_text"]

_BYTES: Final = "__bytes__"
_DICT: Final = "__dict__"


def to_text(content: dict[str, Any]) -> str:
    """``content``, which holds what a message may hold, as JSON in ASCII."""
    return json.dumps(_written(content), separators=(",", ":"), allow_nan=False)


def from_text(text: str) -> dict[str, Any]:
    """What :func:`to_text` wrote, or any other JSON object. Raises ``ValueError`` for other text."""
    content = _read(json.loads(text))
    if not isinstance(content, dict):
        raise ValueError(f"a message is a JSON object, not {text:.80}")
    return content


def _written(value: Any) -> Any:
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    if isinstance(value, dict):
        written = {key: _written(inner) for key, inner in value.items()}
        return {_DICT: written} if value.keys() in ({_BYTES}, {_DICT}) else written
    if isinstance(value, list):
        return [_written(inner) for inner in value]
    return value


def _read(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_BYTES} and isinstance(value[_BYTES], str):
            return base64.b64decode(value[_BYTES], validate=True)
        if value.keys() == {_DICT} and isinstance(value[_DICT], dict):
            value = value[_DICT]
        return {key: _read(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_read(inner) for inner in value]
    return value
