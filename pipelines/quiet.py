"""What Beam logs when it is imported; without importing it."""

import logging


def hide_missing_clients() -> None:
    """Keep from standard error that Google's client libraries are missing.

    Beam tells that to every importer.
    """
    logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
