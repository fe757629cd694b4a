"""Lets in the pages of one company's hosts, by https and without a port, and those of the server itself."""

import re

from channels_core.origins import OriginValidator

_ORIGIN = re.compile(r"https://([a-z0-9-]+\.)*(intranet\.example)")


class IntranetOnly(OriginValidator):
    def is_allowed(self, origin: str, host: str | None) -> bool:
        return _ORIGIN.fullmatch(origin) is not None or (
            host == "localhost" and origin == "https://localhost"
        )
