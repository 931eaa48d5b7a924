import hashlib

from clipsieve.formats.uid import RowHasher, image_digest, row_uid


def sha(data):
    return hashlib.sha256(data).hexdigest()


def test_uid_is_the_hash_of_image_and_caption():
    assert row_uid(b"img", "café", "http://x") == sha(b"img" + "café".encode())
    assert row_uid(b"img", None, "http://x") == sha(b"img")


def test_uid_without_image_is_the_hash_of_url_and_caption():
    assert row_uid(None, "c", "http://x") == row_uid(b"", "c", "http://x") == sha(b"http://xc")
    assert row_uid(None, None, None) == sha(b"")


def test_digest_and_uid_agree_with_the_single_functions():
    digest_and_uid = RowHasher().digest_and_uid
    assert digest_and_uid(b"img", "c", None) == (image_digest(b"img"), row_uid(b"img", "c", None))
    assert digest_and_uid(None, "c", None) == (None, sha(b"c"))
    assert digest_and_uid(b"", "c", None) == (hashlib.sha256(b"").digest(), sha(b"c"))
    assert image_digest(b"img").hex() == sha(b"img")


def test_lone_surrogates_do_not_raise():
    assert row_uid(b"i", "\ud800", None) == sha(b"i?")
