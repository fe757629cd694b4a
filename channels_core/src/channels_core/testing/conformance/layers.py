"""The laws of layer backends as tests. A backend's author writes how a backend is made, and runs them::

    from channels_core.testing.conformance import LayerConformance
    from pigeons.layer import PigeonBackend


    class TestPigeons(LayerConformance):
        def make_backend(self, **options):
            return PigeonBackend(**options)

Where all backends of a test talk to one engine outside the process, a fixture of the author's makes or empties it::

    class TestPigeons(LayerConformance):
        @pytest.fixture(autouse=True)
        def loft(self, tmp_path):
            self.path = tmp_path / "loft"

        def make_backend(self, **options):
            return PigeonBackend(path=self.path, **options)

Every law runs through the synchronous and the asynchronous view. A test may be overridden only to say that the
backend breaks its law, and why: by a strict ``pytest.mark.xfail`` with a reason.
"""

from __future__ import annotations

from typing import Any

from channels_core.testing.conformance.layer_laws.concurrency import ConcurrencyLaws
from channels_core.testing.conformance.layer_laws.engines import EngineLaws
from channels_core.testing.conformance.layer_laws.figures import FigureLaws
from channels_core.testing.conformance.layer_laws.groups import GroupLaws
from channels_core.testing.conformance.layer_laws.messages import MessageLaws
from channels_core.testing.conformance.layer_laws.model import ModelLaws
from channels_core.testing.conformance.layer_laws.processes import ProcessLaws
from channels_core.testing.conformance.layer_laws.receiving import ReceivingLaws
from channels_core.testing.conformance.layer_laws.settling import SettlingLaws
from channels_core.testing.conformance.layer_laws.transactions import TransactionLaws

__all__ = ["LayerConformance"]


class LayerConformance(
    MessageLaws,
    GroupLaws,
    ProcessLaws,
    ReceivingLaws,
    SettlingLaws,
    FigureLaws,
    ConcurrencyLaws,
    EngineLaws,
    TransactionLaws,
    ModelLaws,
):
    """Every law of :class:`~channels_core.layers.LayerBackend`. Subclass it as ``Test...`` and define
    ``make_backend(self, **options)``.

    Set ``takes_clock = True`` where options may include ``clock``, a callable that returns seconds: no test then sleeps
    for what happens with time. Else ``tick`` says how many seconds are enough for the engine to tell times apart.

    For a transactional backend define ``transaction(self)`` too, a context manager that opens a transaction on its
    database, and set ``has_one_writer = True`` where that keeps everybody else from writing.

    Raises ``TypeError`` when a subclass overrides a test without an ``xfail`` that gives its reason.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, test in vars(cls).items():
            if name.startswith("test_") and hasattr(LayerConformance, name) and not _is_argued(test):
                raise TypeError(
                    f"{cls.__qualname__}.{name} overrides a law of layers. A law may only be broken openly: decorate it"
                    f" with pytest.mark.xfail(strict=True, reason='why this backend cannot keep it') and call"
                    f" super().{name}(...) in it; or give the test of your own another name."
                )


def _is_argued(test: object) -> bool:
    marks = getattr(test, "pytestmark", [])
    return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)
