"""Signals around consumers and workers."""

from channels_django.signals import consumer_finished, consumer_started, worker_process_ready, worker_ready

__all__ = ["consumer_finished", "consumer_started", "worker_process_ready", "worker_ready"]
