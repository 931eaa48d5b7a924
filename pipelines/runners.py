"""Open a pipeline on an engine and see it through."""

import logging
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from clipsieve.errors import ClipsieveError, UsageError
from clipsieve.pipelines.quiet import hide_missing_clients

if TYPE_CHECKING:
    from clipsieve.pipelines.engines.base import Backend

__all__ = ["beam", "create_runner", "run_pipeline"]

hide_missing_clients()
# Beam also logs the traceback of an exception that it then raises: once is enough.
logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.runners.runner import PipelineState, create_runner

    from clipsieve.pipelines.portable import check_portable


def run_pipeline(build: Callable[[beam.Pipeline], object], backend: "Backend") -> None:
    """Build a pipeline, check that it is portable, run it, and wait for its end.

    Args:
      build: puts the steps on the pipeline it is given.
      backend: where it runs.

    Raises:
      UsageError: for unknown options, or an engine that cannot be reached.
      WorkersLost: if workers died under it.
      ClipsieveError: if the pipeline ends in another state than DONE; one that a step raises, as it
        was raised.
    """
    from clipsieve.pipelines.engines.base import without_step

    runner = backend.runner
    options = PipelineOptions(backend.options(), runner=runner)
    pipeline = beam.Pipeline(runner=runner, options=options)
    # Only now: a runner brings options of its own.
    known = options.get_all_options()
    unknown = sorted(set(options.get_all_options(retain_unknown_options=True)) - set(known))
    if unknown:
        name = runner.rpartition(".")[2]
        raise UsageError(f"runner {name} knows no option {', '.join(unknown)}; leave it out")
    build(pipeline)
    check_portable(pipeline)
    try:
        state = backend.run(pipeline.run)
    except ClipsieveError as error:
        if error.args:  # Beam puts the step's name behind the message
            error.args = (without_step(str(error.args[0])), *error.args[1:])
        raise
    except Exception as error:
        explained = backend.explain(error)
        if explained is error:
            raise
        raise explained from error
    if state not in (PipelineState.DONE, None):
        raise ClipsieveError(f"the pipeline ended {state} on {runner}; see that runner's log")
