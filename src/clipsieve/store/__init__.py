"""The output folder: atomic writes, footers, ledger, manifest, lock, compaction."""
