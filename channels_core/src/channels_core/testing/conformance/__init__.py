"""Conformance suites: subclass one, say how the plugin's object is made, and learn whether it keeps every law.

``LayerConformance``, ``RouterConformance``, ``SessionStoreConformance`` and ``OriginValidatorConformance``, each in a
module of its own that tells more. Needs the extra ``channels-core[testing]``.
"""

from channels_core.testing.conformance.layers import LayerConformance
from channels_core.testing.conformance.origin_validators import OriginValidatorConformance
from channels_core.testing.conformance.routers import RouterConformance
from channels_core.testing.conformance.session_stores import SessionStoreConformance

__all__ = [
    "LayerConformance",
    "OriginValidatorConformance",
    "RouterConformance",
    "SessionStoreConformance",
]
