"""The judge: the checks, in a process that a submission cannot reach, connected to the student's kernel."""
