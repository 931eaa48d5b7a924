"""Shard formats to row batches: Parquet, webdataset tars, folders; column mapping; uid rule."""
