"""Django's SQLite backend behind a gate: writers wait in line, not in SQLite's sleeping retries."""
