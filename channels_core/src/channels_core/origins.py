"""The origin validator contract: which web pages may open a WebSocket here.

Browsers let any page open a WebSocket to any host and send that host's cookies along; the ``Origin`` header is the
only thing that tells the pages apart (cross-site WebSocket hijacking, CWE-1385).
"""

from __future__ import annotations

import abc

__all__ = ["OriginValidator"]


class OriginValidator(abc.ABC):
    """Decides about one ``Origin`` header. Used by the interface server and by consumer decorators alike.

    A plugin registers a factory without arguments. A validator is asked from many threads and event loops, must not
    wait, and never raises for anything a client can send.
    """

    @abc.abstractmethod
    def is_allowed(self, origin: str, host: str | None) -> bool:
        """Whether a page of ``origin`` may connect.

        ``origin`` is the header as the client sent it, possibly empty, ``null`` or no URL at all; ``host`` is the
        request's own ``Host`` header, or ``None``. What cannot be understood is refused.
        """
