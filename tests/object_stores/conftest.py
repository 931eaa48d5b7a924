from uuid import uuid4

import pytest

from tests.object_stores.server import BUCKET, s3_server

pytest.importorskip("moto")
pytest.importorskip("s3fs")


@pytest.fixture(scope="session")
def server():
    with s3_server() as running:
        yield running


@pytest.fixture
def url(server):
    """A new folder on the server."""
    return f"s3://{BUCKET}/{uuid4().hex}/out"
