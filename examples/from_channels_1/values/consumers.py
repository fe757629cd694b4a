"""The socket of a table: streams by name, of which there is one."""

from channels.generic.websockets import WebsocketDemultiplexer
from values.bindings import IntegerValueBinding


class Demultiplexer(WebsocketDemultiplexer):
    http_user = True
    consumers = {"intval": IntegerValueBinding.consumer}

    def connection_groups(self):
        return ["intval-updates"]
