"""The homework: handed out, run, checked and graded."""
