"""What a student runs: the checks of a notebook, and packing the notebooks to hand in."""
