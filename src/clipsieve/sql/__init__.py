"""DuckDB over an output folder: connect() and the views."""
