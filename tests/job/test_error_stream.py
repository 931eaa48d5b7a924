"""A job goes on when nobody reads its notes any more."""

import subprocess
import sys

import pytest

CODE = """
import sys
from clipsieve.job.error_stream import forward
from clipsieve.job.reporter import Reporter
reporter = Reporter(sys.argv[1])
sys.stdin.read()
for _ in range(3):
    reporter.report("note", "x" * 100)
    forward(b"of a worker\\n")
print("done")
sys.exit(3)
"""


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_reader_that_goes_away_stops_nothing(form):
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, form],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    process.stderr.close()
    process.stdin.close()
    assert process.stdout.read() == b"done\n"
    process.stdout.close()
    assert process.wait() == 3
