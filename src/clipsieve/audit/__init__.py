"""Who is behind suspicious rows: groups of one caption or one picture, ranked by evidence."""
