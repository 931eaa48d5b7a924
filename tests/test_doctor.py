"""The report on this machine, and its exit code."""

import pytest

from clipsieve import cli
from clipsieve.doctor import BAD, examine


def test_report_names_device_model_and_versions():
    found = {finding.subject: finding for finding in examine("cpu", "tiny")}
    assert {"device", "model", "model cache", "disk", "torch", "open clip", "pyarrow"} <= set(found)
    assert "tiny in " in found["model"].found
    assert all(finding.grade != BAD for finding in found.values())


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--device", "cpu"], 0, "device         cpu, "),
        (["--device", "tpu"], 2, "device 'tpu' is not known"),
        (["--device", "cpu", "--model", "none"], 2, "model 'none' is not known"),
    ],
)
def test_exit_code_says_whether_anything_is_wrong(capsys, words, code, text):
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor", *words])
    assert end.value.code == code
    out = capsys.readouterr().out
    assert text in out
    assert ("error " in out) == bool(code)
