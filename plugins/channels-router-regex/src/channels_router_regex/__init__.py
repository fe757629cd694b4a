"""Routes messages to consumers by channel name and regular expressions over message content."""

__all__: list[str] = []
