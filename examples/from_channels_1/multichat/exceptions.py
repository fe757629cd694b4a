"""What goes wrong by a client's own doing."""

import functools
import json


class ClientError(Exception):
    """Told to the client under ``code``; nothing else happens."""

    def __init__(self, code):
        super().__init__(code)
        self.code = code

    def send_to(self, channel):
        channel.send({"text": json.dumps({"error": self.code})})


def catch_client_error(consumer):
    """Tell the client of a :class:`ClientError`."""

    @functools.wraps(consumer)
    def inner(message, *args, **kwargs):
        try:
            return consumer(message, *args, **kwargs)
        except ClientError as error:
            error.send_to(message.reply_channel)

    return inner
