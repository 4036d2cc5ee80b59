"""Notebooks of the homework: read, cut to what is needed, executed, repaired and shown as pages."""

import sys

# nbformat imports jsonschema, and this builds a parser of internationalised addresses: more than a second for what no
# notebook has. Without the module it does not.
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]
