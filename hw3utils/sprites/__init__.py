"""Sprites: 16x16 RGB game pictures, drawn by the embedded grammar or read from files."""

from hw3utils.sprites.drawing import (
    ATTRIBUTE_VALUES,
    CLASS_NAMES,
    count_grammar,
    draw_sprites,
    grammar_accepts,
    outline_share,
    sprite_set,
)
from hw3utils.sprites.loading import (
    SpriteData,
    cache_folder,
    describe,
    images_to_tensor,
    load_sprites,
    preview,
    preview_figure,
    tensor_to_images,
)

__all__ = [
    "ATTRIBUTE_VALUES",
    "CLASS_NAMES",
    "SpriteData",
    "cache_folder",
    "count_grammar",
    "describe",
    "draw_sprites",
    "grammar_accepts",
    "images_to_tensor",
    "load_sprites",
    "outline_share",
    "preview",
    "preview_figure",
    "sprite_set",
    "tensor_to_images",
]
