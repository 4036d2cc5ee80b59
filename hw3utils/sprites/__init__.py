from .drawing import ATTRIBUTE_VALUES, CLASS_NAMES, count_grammar, draw_sprites, grammar_accepts
