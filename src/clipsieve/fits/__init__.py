"""What scorers learn of a whole dataset before they score a row: made once, kept, used again."""
