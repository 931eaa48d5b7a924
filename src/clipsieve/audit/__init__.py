"""Groups of suspicious rows that share a caption, a word, a picture or a host."""
