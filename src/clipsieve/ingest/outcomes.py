"""What becomes of a URL: the bytes of an image, or why there are none."""

import re
from dataclasses import dataclass

SUCCESS, FAILED_TO_DOWNLOAD, FAILED_TO_RESIZE = "success", "failed_to_download", "failed_to_resize"
#: Longer reasons are cut: a server words a part of them.
MAX_REASON = 300

#: How reasons begin that will not pass, so that `--retry-failed` leaves their rows alone.
_FINAL_REASONS = re.compile(
    r"HTTP 404|HTTP 410|the URL |address |port |X-Robots-Tag|disallowed by robots\.txt"
)


class FetchError(Exception):
    """A URL gives no image.

    Attributes:
      reason: in words, for the row.
      may_pass: whether another attempt may end otherwise, now.
      wait: seconds that the server asks to wait before the next request.
      status: of the row.
    """

    def __init__(
        self,
        reason: str,
        *,
        may_pass: bool = False,
        wait: float | None = None,
        status: str = FAILED_TO_DOWNLOAD,
    ) -> None:
        """Keep the reason on one line, of bounded length."""
        self.reason = one_line(reason)
        super().__init__(self.reason)
        self.may_pass, self.wait, self.status = may_pass, wait, status


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a row gets beside the columns of its list.

    Attributes:
      status: img2dataset's word.
      error: the reason of a failure.
      data: bytes of the image as they came, after transport encodings.
      width: from the image's header; None if it does not say.
      height: likewise.
      exif: as img2dataset words it, in JSON.
      sha256: of `data`, in hexadecimal digits.
    """

    status: str
    error: str | None = None
    data: bytes | None = None
    width: int | None = None
    height: int | None = None
    exif: str | None = None
    sha256: str | None = None

    @property
    def may_pass(self) -> bool:
        """Whether `--retry-failed` fetches the row again."""
        return is_worth_a_retry(self.status, self.error)


def is_worth_a_retry(status: str | None, error: str | None) -> bool:
    """Whether a row failed for a reason that may pass.

    >>> is_worth_a_retry("failed_to_download", "HTTP 503 Service Unavailable")
    True
    >>> is_worth_a_retry("failed_to_download", "HTTP 404 Not Found")
    False
    """
    return status == FAILED_TO_DOWNLOAD and not _FINAL_REASONS.match(error or "")


def one_line(text: str) -> str:
    r"""Return a text of a server's without line breaks, and not too long.

    >>> one_line("a\r\nb\x00c")
    'a b c'
    """
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    clean = " ".join(clean.split())
    return clean if len(clean) <= MAX_REASON else clean[: MAX_REASON - 3] + "..."
