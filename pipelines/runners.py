"""Open a pipeline on a named runner and see it through."""

import logging
import re
import warnings
from collections.abc import Callable, Sequence

from clipsieve.errors import ClipsieveError, UsageError
from clipsieve.settings import LOCAL_RUNNER

__all__ = ["LOCAL", "beam", "require_runner", "run_pipeline"]

LOCAL = LOCAL_RUNNER
_REFUSED = ("DirectRunner", "SwitchingDirectRunner", "PrismRunner")
_STEP = re.compile(r"( \[while running '[^']*'\])+$")

# Beam tells every importer that Google's client libraries are missing.
logging.getLogger().addFilter(lambda record: "apitools not found" not in record.getMessage())
# It also logs the traceback of an exception that it then raises: once is enough.
logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineState, create_runner

    from clipsieve.pipelines.portable import check_portable


def run_pipeline(
    build: Callable[[beam.Pipeline], object], runner: str = LOCAL, beam_args: Sequence[str] = ()
) -> None:
    """Build a pipeline, check that it is portable, run it, and wait for its end.

    Args:
      build: puts the steps on the pipeline it is given.
      runner: a Beam runner's name, or its full path.
      beam_args: options of that runner, as on a command line.

    Raises:
      UsageError: for a runner that downloads and runs a binary unasked, or unknown options.
      ClipsieveError: if the pipeline ends in another state than DONE; one that a step raises, as it
        was raised.
    """
    require_runner(runner)
    options = PipelineOptions(list(beam_args), runner=runner)
    pipeline = beam.Pipeline(runner=runner, options=options)
    # Only now: a runner brings options of its own.
    known = options.get_all_options()
    unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    if unknown:
        raise UsageError(f"runner {runner} knows no option {', '.join(unknown)}; leave it out")
    build(pipeline)
    check_portable(pipeline)
    try:
        state = pipeline.run().wait_until_finish()
    except ClipsieveError as error:
        if error.args:  # Beam puts the step's name behind the message
            error.args = (_STEP.sub("", str(error.args[0])), *error.args[1:])
        raise
    if state not in (PipelineState.DONE, None):
        raise ClipsieveError(f"the pipeline ended {state} on {runner}; see that runner's log")


def require_runner(runner: str) -> None:
    """Refuse a runner that does not exist, or that downloads and runs a binary unasked.

    Raises:
      UsageError: says which to use.
    """
    if runner in _REFUSED:
        raise UsageError(
            f"runner {runner} downloads and starts a binary of its own; use {LOCAL} on one "
            "machine, or name a cluster's runner"
        )
    try:
        create_runner(runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise UsageError(
            f"runner {runner!r} is not known to Beam ({error}); use {LOCAL}, or give its full path"
        ) from error
