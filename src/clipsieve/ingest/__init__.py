"""Fetch the images of a list of URLs into shards, from public addresses only, and resumably."""
