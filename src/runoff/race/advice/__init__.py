"""What to ship: the field's three questions, rules as data, and what this machine has measured of their answers."""
