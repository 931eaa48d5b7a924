from uuid import uuid4

import pytest

from tests.object_stores.server import BUCKET

pytest.importorskip("moto")
pytest.importorskip("s3fs")


@pytest.fixture
def url(server):
    """A new folder on the server."""
    return f"s3://{BUCKET}/{uuid4().hex}/out"
