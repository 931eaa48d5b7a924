"""Sample data and the bundled tiny model."""
