"""Pictures in a student's text, such as a photo of a derivation: embedded in the notebook, small enough for a page."""

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

# Characters of base64; larger pictures are scaled down.
_MAX_SIZE = 400_000
_SIDE = 1600
_MAX_PIXELS = 200_000_000
_KINDS = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp"}
_PICTURE = re.compile(
    r"!\[(?P<alt>[^\]]*)\]\(\s*<?(?P<address>[^)>\s]*)>?[^)]*\)"
    r"|<img\b[^>]*?\bsrc\s*=\s*[\"']?(?P<source>[^\"'>\s]*)[^>]*>",
    re.I,
)
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]*")
_INLINE = re.compile(r"data:(image/[\w.+-]+);base64,(.+)", re.S)


def embed(cell: NotebookNode, beside: Collection[Path]) -> list[str]:
    """Make every picture of a Markdown cell an attachment; a missing one becomes a note in the text.

    Args:
        cell: the cell; its source and its attachments are changed.
        beside: files that were submitted with the notebook.

    Returns:
        The names of the missing pictures.
    """
    attached, missing = dict(cell.get("attachments", {})), []
    kept: dict[str, dict[str, str]] = {}
    files = {path.name: path for path in beside}

    def replace(found: re.Match[str]) -> str:
        address = found["address"] if found["source"] is None else found["source"]
        if re.match(r"(?i)https?:", address):
            return found[0]
        picture = _scaled(_look_up(address, attached, files))
        if picture is None:
            missing.append(address[:80] or "one without a name")
            return f"(a picture that cannot be shown: {missing[-1]})"
        name = f"picture-{len(kept) + 1}"
        kept[name] = picture
        shown = f"![{found['alt'] or 'picture'}](attachment:{name})"
        # A blank line ends a block of HTML, in which Markdown is not read.
        return shown if found["source"] is None else f"\n\n{shown}\n\n"

    cell.source = _PICTURE.sub(replace, cell.source)
    cell.pop("attachments", None)
    if kept:
        cell.attachments = kept
    return missing


def embed_all(notebook: NotebookNode, edition: NotebookNode, beside: Collection[Path]) -> list[str]:
    """Embed the pictures of all texts that a student wrote; a sentence for each missing one."""
    texts = {cell.source for cell in edition.cells}
    return [
        f"{grade_id(cell) or 'a text'} shows a picture that was not handed in with it: {name}."
        for cell in notebook.cells
        if cell.cell_type == "markdown" and cell.source not in texts
        for name in embed(cell, beside)
    ]


def without_attachments(text: str) -> str:
    """A text with a note in place of each attached picture."""
    lost = "(a picture was left out of this page)"
    return _PICTURE.sub(lambda found: lost if "attachment:" in found[0] or not found["address"] else found[0], text)


def _look_up(address: str, attached: Mapping[str, Any], files: Mapping[str, Path]) -> Mapping[str, Any]:
    """The data at a picture's address by MIME type: an attachment, a data URL, or a submitted file."""
    if found := _INLINE.match(address):
        return {found[1]: found[2]}
    if address.startswith("attachment:"):
        name = address.removeprefix("attachment:")
        return attached.get(name) or attached.get(unquote(name)) or {}
    file = files.get(unquote(address).removeprefix("./"))
    if file is None or file.suffix.lower() not in _KINDS:
        return {}
    return {_KINDS[file.suffix.lower()]: base64.b64encode(file.read_bytes()).decode()}


def _scaled(kinds: Mapping[str, Any]) -> dict[str, str] | None:
    """The first usable picture, scaled down if it is large; None if there is none."""
    for kind, text in kinds.items():
        if not re.fullmatch(r"image/[\w.+-]+", kind) or not isinstance(text, str) or not _BASE64.fullmatch(text):
            continue
        if len(text) <= _MAX_SIZE:
            return {kind: text}
        try:
            with Image.open(io.BytesIO(base64.b64decode(text))) as photo:
                if photo.width * photo.height > _MAX_PIXELS:
                    continue
                photo.draft("RGB", (_SIDE, _SIDE))
                small = ImageOps.exif_transpose(photo).convert("RGB")
            small.thumbnail((_SIDE, _SIDE))
            made = io.BytesIO()
            small.save(made, "JPEG", quality=80)
        except Exception:  # PIL raises anything on invalid pictures
            continue
        return {"image/jpeg": base64.b64encode(made.getvalue()).decode()}
    return None
