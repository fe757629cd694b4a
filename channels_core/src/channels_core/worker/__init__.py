"""Workers: they take messages off a layer, find the consumer, and run it."""

from channels_core.worker.events import WorkerEvents
from channels_core.worker.supervisor import Supervisor
from channels_core.worker.worker import Worker, apply_channel_filters, run_until_signalled

__all__ = ["Supervisor", "Worker", "WorkerEvents", "apply_channel_filters", "run_until_signalled"]
