"""Grading: a session over submissions, each run in a kernel of its own and judged in another process."""
