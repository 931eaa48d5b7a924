"""Filters of DataComp that need files: its image-based and its text-based one."""
