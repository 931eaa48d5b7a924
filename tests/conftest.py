"""What all tests share: a cache of encoded prompts of their own, and one S3 server."""

from collections.abc import Iterator

import pytest

from tests.object_stores.server import S3Server, s3_server


@pytest.fixture(scope="session", autouse=True)
def prompt_cache(tmp_path_factory):
    """Keep encoded prompts out of the user's cache, and encode each set once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSIEVE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def server() -> Iterator[S3Server]:
    """An S3 server; processes that are started after it inherit how to reach it."""
    with s3_server() as running:
        yield running
