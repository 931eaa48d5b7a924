"""One file a method: pure functions and the Scorer that names its columns and needs."""
