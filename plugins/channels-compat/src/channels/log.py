"""A logger for command-line programs."""

from __future__ import annotations

import logging

__all__ = ["setup_logger"]


def setup_logger(name: str, verbosity: int = 1) -> logging.Logger:
    """The logger ``name``, writing to standard error: warnings for ``verbosity`` 0, also information for 1, all above.

    Calling it again changes the level and adds no second handler.
    """
    logger = logging.getLogger(name)
    logger.setLevel({0: logging.WARNING, 1: logging.INFO}.get(verbosity, logging.DEBUG))
    logger.propagate = False
    if not any(isinstance(handler, logging.StreamHandler) for handler in logger.handlers):
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s - %(levelname)s - %(module)s - %(message)s"))
        logger.addHandler(handler)
    return logger
