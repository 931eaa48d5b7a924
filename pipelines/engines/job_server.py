"""Engines behind a Beam job service: the portable runner, Flink and Spark.

Beam starts a service by itself where none is named, with a jar that it downloads.  clipsieve
refuses that, and containers that Beam would choose: they hold no clipsieve.
"""

import logging
import os
from argparse import ArgumentParser
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from clipsieve.errors import EngineError, UsageError
from clipsieve.pipelines.engines.base import Backend
from clipsieve.runner_names import FLINK_RUNNER, PORTABLE_RUNNER, SPARK_RUNNER

#: Options that name the jar of an engine's job server.
JARS = {FLINK_RUNNER: "flink_job_server_jar", SPARK_RUNNER: "spark_job_server_jar"}
CONNECT_SECONDS = 20.0
_POOL = "--environment_type=EXTERNAL --environment_config=HOST:50000 (a worker pool beside each)"


class JobServerBackend(Backend):
    """The portable runner, Flink or Spark."""

    def __init__(self, runner: str, beam_args: Sequence[str] = ()) -> None:
        """Look at the options.

        Raises:
          UsageError: if Beam would download a job server, or start containers without clipsieve.
        """
        super().__init__(runner, beam_args)
        named = _named(beam_args, ("job_endpoint", "environment_type", *JARS.values()))
        self._endpoint = named["job_endpoint"]
        if self._endpoint is None:
            self._require_jar(named)
        if named["environment_type"] is None:
            raise UsageError(
                f"runner {runner} without --environment_type starts containers of Beam's, which "
                f"hold no clipsieve; say {_POOL} behind --"
            )

    def _require_jar(self, named: dict[str, str | None]) -> None:
        if self.runner == PORTABLE_RUNNER:
            raise UsageError(
                "runner PortableRunner needs a job service; name it with "
                "--job_endpoint=HOST:PORT behind --"
            )
        option = JARS[self.runner]
        jar = named[option]
        if jar is None:
            raise UsageError(
                f"runner {self.runner} without a job server downloads one from Maven; name a jar "
                f"with --{option}=PATH behind --, or a job service that runs with "
                "--job_endpoint=HOST:PORT"
            )
        if not os.path.isfile(jar):
            raise UsageError(
                f"--{option}={jar} is no file on this machine, and Beam would download it; fetch "
                "it first, or name a job service that runs with --job_endpoint=HOST:PORT"
            )

    def options(self) -> list[str]:
        """Return the options, once the service answers; Beam waits a minute, and then for ever.

        Raises:
          UsageError: if it does not.
        """
        if self._endpoint not in (None, "embed"):
            import grpc

            channel = grpc.insecure_channel(self._endpoint)
            try:
                grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
            except grpc.FutureTimeoutError as error:
                raise UsageError(
                    f"the job service {self._endpoint} does not answer within "
                    f"{CONNECT_SECONDS:.0f} s; see whether it runs there, and --job_endpoint"
                ) from error
            finally:
                channel.close()
        return super().options()

    def run(self, start: Callable[[], Any]) -> Any:
        """Start a pipeline and wait for its end; what it logs comes back as its exception."""
        with _quiet():
            return start().wait_until_finish()

    def explain(self, error: Exception) -> Exception:
        """Tell a service that does not answer from a pipeline that failed."""
        import grpc

        if isinstance(error, grpc.RpcError | grpc.FutureTimeoutError):
            detail = getattr(error, "details", lambda: None)() or type(error).__name__
            return EngineError(
                f"the job service {self._endpoint or 'of ' + self.runner} does not answer "
                f"({detail}); see whether it runs, then repeat the command: what is done is kept"
            )
        if isinstance(error, FileNotFoundError) and error.filename == "java":
            return UsageError(f"runner {self.runner} needs java on this machine; install it")
        return super().explain(error)


def _named(words: Sequence[str], names: Sequence[str]) -> dict[str, str | None]:
    """Return the values of some options, None where one is not given."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        parser.add_argument(f"--{name}")
    known, _ = parser.parse_known_args(list(words))
    return vars(known)


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block keep from standard error what Beam logs of a failing pipeline."""

    def is_of_others(record: logging.LogRecord) -> bool:
        return not record.pathname.endswith("portable_runner.py")

    logger, root = logging.getLogger("apache_beam"), logging.getLogger()
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    root.addFilter(is_of_others)  # the service's messages are logged by the root logger
    try:
        yield
    finally:
        root.removeFilter(is_of_others)
        logger.setLevel(before)
