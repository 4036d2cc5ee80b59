"""hw3utils: diffusion and score-based generative models in small pieces, each checked against a closed form."""

__version__ = "0.1.0"
