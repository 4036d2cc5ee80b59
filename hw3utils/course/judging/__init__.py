"""Judging in a process that the student's code cannot touch: the two ends of the line, and the judge."""
