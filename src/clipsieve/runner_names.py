"""Short names of engines, and the Beam runners that they mean."""

#: Beam's in-process runner, by name: its DirectRunner downloads and starts a binary.
LOCAL_RUNNER = "FnApiRunner"
#: Not among the names that Beam knows.
DASK_RUNNER = "apache_beam.runners.dask.dask_runner.DaskRunner"
PORTABLE_RUNNER = "PortableRunner"
FLINK_RUNNER = "FlinkRunner"
SPARK_RUNNER = "SparkRunner"
DATAFLOW_RUNNER = "DataflowRunner"

_RUNNERS = {
    "fnapi": LOCAL_RUNNER,
    "dask": DASK_RUNNER,
    "portable": PORTABLE_RUNNER,
    "flink": FLINK_RUNNER,
    "spark": SPARK_RUNNER,
    "dataflow": DATAFLOW_RUNNER,
}
#: For help texts.
SHORT_NAMES = tuple(name for name in _RUNNERS if name != "fnapi")


def beam_runner(name: str) -> str:
    """Return the runner that a short name, Beam's name or Beam's full path means.

    Any other name is returned as it is.

    >>> beam_runner("flink"), beam_runner("FlinkRunner"), beam_runner("own.module.FlinkRunner")
    ('FlinkRunner', 'FlinkRunner', 'own.module.FlinkRunner')
    >>> beam_runner("DaskRunner") == beam_runner("dask") == DASK_RUNNER
    True
    """
    package, _, last = name.rpartition(".")
    if package and not package.startswith("apache_beam."):
        return name
    return _RUNNERS.get(last.lower().removesuffix("runner"), name)
