"""The engines for databases whose drivers wait: SQLite, MariaDB and MySQL."""

__all__: list[str] = []
