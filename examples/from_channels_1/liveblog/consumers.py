"""Readers come and go."""

import json

from channels import Group
from liveblog.models import Liveblog


def connect_blog(message, slug):
    """Let a reader in; there is nothing to read where there is no such blog."""
    try:
        liveblog = Liveblog.objects.get(slug=slug)
    except Liveblog.DoesNotExist:
        message.reply_channel.send({"text": json.dumps({"error": "bad_slug"}), "close": True})
        return
    message.reply_channel.send({"accept": True})
    Group(liveblog.group_name).add(message.reply_channel)


def disconnect_blog(message, slug):
    """Nobody is there any more; a blog may have gone meanwhile, too."""
    for liveblog in Liveblog.objects.filter(slug=slug):
        Group(liveblog.group_name).discard(message.reply_channel)
