"""What keeps foreign pages out."""

__all__: list[str] = []
