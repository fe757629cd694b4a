"""Channel layer in the database that a Django project already has: no broker, sends that commit with your rows."""

from channels_layer_database.layer import DatabaseLayer

__all__ = ["DatabaseLayer"]
