"""Notebooks of the homework: read, cut to what is needed, executed, repaired and shown as pages."""
