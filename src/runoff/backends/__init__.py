"""Runtimes behind one protocol: a row in table.py and a file for each."""
