"""Pictures in a student's text, a photo of a derivation for one: taken into the notebook, small enough for a page."""

import base64
import io
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from nbformat import NotebookNode
from PIL import Image, ImageOps

from hw3utils.course.notebooks.cells import grade_id

# In base64: a larger picture is made smaller.
_LARGEST = 400_000
_SIDE = 1600
_MOST_PIXELS = 200_000_000
_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}
_PICTURE = re.compile(
    r"!\[(?P<alt>[^\]]*)\]\(\s*<?(?P<address>[^)>\s]*)>?[^)]*\)"
    r"|<img\b[^>]*?\bsrc\s*=\s*[\"']?(?P<source>[^\"'>\s]*)[^>]*>",
    re.I,
)
_INLINE = re.compile(r"data:(image/[\w.+-]+);base64,(.+)", re.S)


def take_in(cell: NotebookNode, beside: Collection[Path]) -> list[str]:
    """Make every picture of a Markdown cell an attachment of it; say in the text which cannot be shown.

    Args:
        cell: the cell; its source and its attachments are changed.
        beside: files that were handed in with the notebook.

    Returns:
        The names of the pictures that are not there.
    """
    held, kept, missing = dict(cell.get("attachments", {})), {}, []
    files = {path.name: path for path in beside}

    def one(found: re.Match[str]) -> str:
        address = found["address"] if found["source"] is None else found["source"]
        if re.match(r"(?i)https?:", address):
            return found[0]
        picture = _shrunk(_look_up(address, held, files))
        if picture is None:
            missing.append(address[:80] or "one without a name")
            return f"(a picture that cannot be shown: {missing[-1]})"
        name = f"picture-{len(kept) + 1}"
        kept[name] = picture
        shown = f"![{found['alt'] or 'picture'}](attachment:{name})"
        # A blank line ends a block of HTML, in which Markdown is not read.
        return shown if found["source"] is None else f"\n\n{shown}\n\n"

    cell.source = _PICTURE.sub(one, cell.source)
    cell.pop("attachments", None)
    if kept:
        cell.attachments = kept
    return missing


def take_in_all(notebook: NotebookNode, edition: NotebookNode, beside: Collection[Path]) -> list[str]:
    """Take in the pictures of all that a student wrote; a line for each that is not there."""
    texts = {cell.source for cell in edition.cells}
    return [
        f"{grade_id(cell) or 'a text'} shows a picture that was not handed in with it: {name}."
        for cell in notebook.cells
        if cell.cell_type == "markdown" and cell.source not in texts
        for name in take_in(cell, beside)
    ]


def without_attachments(text: str) -> str:
    """A text whose pictures are lost, with words where they stood."""
    lost = "(a picture was left out of this page)"
    return _PICTURE.sub(lambda found: lost if "attachment:" in found[0] or not found["address"] else found[0], text)


def _look_up(address: str, held: Mapping[str, Any], files: Mapping[str, Path]) -> Mapping[str, Any]:
    """What a picture's address stands for, by kinds: an attachment, the text itself, or a file that was handed in."""
    if found := _INLINE.match(address):
        return {found[1]: found[2]}
    if address.startswith("attachment:"):
        name = address.removeprefix("attachment:")
        return held.get(name) or held.get(unquote(name)) or {}
    file = files.get(unquote(address).removeprefix("./"))
    if file is None or file.suffix.lower() not in _KINDS:
        return {}
    return {_KINDS[file.suffix.lower()]: base64.b64encode(file.read_bytes()).decode()}


def _shrunk(kinds: Mapping[str, Any]) -> dict[str, str] | None:
    """A picture that a page can hold, from what there is of it; None where there is none."""
    for kind, text in kinds.items():
        if not kind.startswith("image/") or not isinstance(text, str):
            continue
        if len(text) <= _LARGEST:
            return {kind: text}
        try:
            with Image.open(io.BytesIO(base64.b64decode(text))) as photo:
                if photo.width * photo.height > _MOST_PIXELS:
                    continue
                photo.draft("RGB", (_SIDE, _SIDE))
                small = ImageOps.exif_transpose(photo).convert("RGB")
            small.thumbnail((_SIDE, _SIDE))
            made = io.BytesIO()
            small.save(made, "JPEG", quality=80)
        except Exception:  # whatever a picture that is none makes the library raise
            continue
        return {"image/jpeg": base64.b64encode(made.getvalue()).decode()}
    return None
