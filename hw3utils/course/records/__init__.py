"""What is kept of a grading: nbgrader's course, final marks, similar solutions."""
