"""How a finished race is shown: terminal table, HTML page and plain data."""
