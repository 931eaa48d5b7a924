"""Object stores as output folders: S3, Google Cloud Storage, Azure, and what else fsspec knows."""
