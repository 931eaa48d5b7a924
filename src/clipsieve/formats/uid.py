"""The identity of rows whose source has no uid column: a hash of what the row shows and says.

    row_uid      = sha256(image bytes ‖ caption in UTF-8)      if there are image bytes
                 = sha256(url in UTF-8 ‖ caption in UTF-8)     if there are none
    image_digest = sha256(image bytes)

‖ is concatenation with nothing between; NULL counts as no bytes, as does a zero-length image.
Lone surrogates, which UTF-8 cannot hold, are hashed as "?".  Rows that are equal in all three
have equal uids: exact duplicates share one, and rows with no image, caption or url share that
of the empty string.
"""

import hashlib
from typing import Any


def image_digest(image: bytes) -> bytes:
    """Return the 32 bytes of the sha256 of the encoded image, as stored in the source."""
    return hashlib.sha256(image).digest()


def row_uid(image: bytes | None, caption: str | None, url: str | None) -> str:
    """Return the uid of one row: 64 lower-case hex digits, by the rule above.

    >>> row_uid(b"pixels", "a cat", None) == hashlib.sha256(b"pixelsa cat").hexdigest()
    True
    >>> row_uid(None, "a cat", "http://x/1") == row_uid(b"", "a cat", "http://x/1")
    True
    """
    return RowHasher().digest_and_uid(image, caption, url)[1]


class RowHasher:
    """Hashes rows that are in memory together; an image that many rows share is read once."""

    def __init__(self) -> None:
        """Know no image."""
        # By identity: the image is kept beside its hash, so no other object can get its address.
        self._states: dict[int, tuple[bytes, Any]] = {}

    def digest_and_uid(
        self, image: bytes | None, caption: str | None, url: str | None
    ) -> tuple[bytes | None, str]:
        """Return `image_digest` (None without image bytes) and `row_uid`."""
        if image:
            known = self._states.get(id(image))
            if known is None:
                known = self._states[id(image)] = (image, hashlib.sha256(image))
            digest: bytes | None = known[1].digest()
            state = known[1].copy()
        else:
            digest = None if image is None else image_digest(image)
            state = hashlib.sha256(_utf8(url))
        state.update(_utf8(caption))
        return digest, state.hexdigest()


def _utf8(text: str | None) -> bytes:
    return b"" if text is None else text.encode("utf-8", "replace")
