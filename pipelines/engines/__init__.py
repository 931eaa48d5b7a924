"""What is particular to each kind of engine: its options, groups, errors and processes."""
