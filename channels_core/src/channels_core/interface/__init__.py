"""The interface application: ASGI 3 on one side, messages on a channel layer on the other.

It runs under any ASGI server, holds the sockets, and never imports the application whose consumers answer.
"""

from channels_core.interface.application import InterfaceApplication, make_interface

__all__ = ["InterfaceApplication", "make_interface"]
