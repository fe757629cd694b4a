"""The socket's three channels, and the commands' one, told apart by what the command is."""

from channels import route
from multichat.consumers import (
    chat_join,
    chat_leave,
    chat_rename,
    chat_send,
    chat_unknown,
    ws_connect,
    ws_disconnect,
    ws_receive,
)

websocket_routing = [
    route("websocket.connect", ws_connect),
    route("websocket.receive", ws_receive),
    route("websocket.disconnect", ws_disconnect),
]
custom_routing = [
    route("chat.receive", chat_join, command="^join$"),
    route("chat.receive", chat_leave, command="^leave$"),
    route("chat.receive", chat_send, command="^send$"),
    route("chat.receive", chat_rename, command="^rename$"),
    route("chat.receive", chat_unknown),
]
