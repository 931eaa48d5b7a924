"""The one stage that touches pixels: read, decode, encode and write shards, all at once."""
