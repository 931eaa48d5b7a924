"""Shard formats behind one seam: Parquet, webdataset tars and folders, read as row batches."""
