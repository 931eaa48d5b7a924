"""What a URL says by its text alone: protocol, and credentials that it must not carry."""

import re

from clipsieve.errors import UsageError
from clipsieve.formats.names import ESCAPED

#: `user:password@` before the host.
_USER = re.compile(r"^[^:/?#]+://[^/?#]*:[^/?#]*@")
#: Keys of a query that sign a request, of S3, Google Cloud Storage and Azure.
_SIGNED = re.compile(r"[?&](X-Amz-Signature|X-Goog-Signature|Signature|sig)=", re.IGNORECASE)


def protocol_of(uri: str) -> str:
    """Return the protocol of a URL, "file" for paths.

    >>> protocol_of("s3://bucket/a.tar"), protocol_of("shards/a.tar"), protocol_of("C://a")
    ('s3', 'file', 'file')
    """
    protocol, separator, _ = uri.partition("://")
    remote = separator and len(protocol) > 1 and f"{protocol}://" not in ("local://", ESCAPED)
    return protocol if remote else "file"


def is_url(root: str) -> bool:
    """Whether a name is a URL of an object store or server, not a path of this machine.

    >>> is_url("s3://bucket/out"), is_url("out"), is_url("file:///data/out")
    (True, False, False)
    """
    return protocol_of(root) != "file"


def check_url(url: str) -> None:
    """Refuse a URL that carries credentials: addresses are written to footers and logs.

    Raises:
      UsageError: names the place, without the credentials.
    """
    if _USER.search(url) or _SIGNED.search(url):
        protocol, _, rest = url.partition("://")
        host = rest.partition("/")[0].rpartition("@")[2].partition("?")[0]
        raise UsageError(
            f"a URL of {protocol}://{host} carries a password or a signature, which would be "
            "written to files and logs; leave it out, and give credentials by the store's own "
            "means (environment, its configuration file, or the machine's role)"
        )
