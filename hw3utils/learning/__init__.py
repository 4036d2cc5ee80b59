"""What learns, and its files: networks, objectives, training, weights, and the features that judge pictures."""
