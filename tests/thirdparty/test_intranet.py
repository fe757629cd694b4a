"""What the author of the intranet validator has for tests."""

import pytest

from channels_core.origins import OriginValidator
from channels_core.testing.conformance.origin_validators import OriginValidatorConformance
from intranet.origins import IntranetOnly


class TestIntranetOnly(OriginValidatorConformance):
    allowed = ("https://wiki.intranet.example", "https://intranet.example", "https://localhost")
    refused = ("http://wiki.intranet.example", "https://example.com", "https://wiki.intranet.example:8443")
    host = "localhost"

    @pytest.fixture
    def validator(self) -> OriginValidator:
        return IntranetOnly()
