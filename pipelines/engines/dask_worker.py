"""What a Dask worker of our own does before all else; Dask imports it by name, see `preload`."""

import logging
import signal

# A terminal's Ctrl-C goes to every process of the command, and is the driver's to deal with.
signal.signal(signal.SIGINT, signal.SIG_IGN)
# Beam tells every importer that Google's client libraries are missing.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
