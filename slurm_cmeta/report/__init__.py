"""What the logs say of decisions: `line.py` reads a line, `logs.py` files, `totals.py` adds up."""
