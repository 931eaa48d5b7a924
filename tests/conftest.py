"""What all tests share: a cache of encoded prompts of their own."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def prompt_cache(tmp_path_factory):
    """Keep encoded prompts out of the user's cache, and encode each set once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIPSIEVE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
