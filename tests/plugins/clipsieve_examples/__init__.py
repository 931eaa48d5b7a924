"""Three scorers as another package would add them, each one file."""
