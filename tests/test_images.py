"""Pictures in a student's text are embedded or named; none stops a page."""

import base64
import io

import numpy as np
import pytest
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from hw3utils.course.grading.run import keep_small
from hw3utils.course.notebooks.html import Page
from hw3utils.course.notebooks.images import embed


def png(side=4, *, noise=False):
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8) if noise else None
    image = Image.fromarray(pixels) if noise else Image.new("RGB", (side, side), (200, 10, 10))
    made = io.BytesIO()
    image.save(made, "PNG")
    return base64.b64encode(made.getvalue()).decode()


SMALL = png()
HELD = {"my photo.png": {"image/png": SMALL}}


@pytest.mark.parametrize(
    ("source", "attachments"),
    [
        ("Thus ![p](attachment:my%20photo.png) holds.", HELD),
        (f"Thus ![p](data:image/png;base64,{SMALL}) holds.", {}),
        (f"Thus <img src='data:image/png;base64,{SMALL}' width=300> holds.", {}),
        ("Thus ![p](photo.png) holds.", {}),
        ("Thus ![p](<./photo.png> 'a title') holds.", {}),
    ],
    ids=["attachment", "inline", "HTML", "file", "file with a title"],
)
def test_pictures_become_attachments(source, attachments, tmp_path):
    (tmp_path / "photo.png").write_bytes(base64.b64decode(SMALL))
    cell = new_markdown_cell(source, attachments=attachments)
    assert embed(cell, [tmp_path / "photo.png"]) == []
    assert cell.attachments == {"picture-1": {"image/png": SMALL}}
    for exporter in (HTMLExporter(), Page()):
        page, _ = exporter.from_notebook_node(new_notebook(cells=[cell]))
        assert f"data:image/png;base64,{SMALL}" in page
        assert "Thus" in page
        assert "holds." in page


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("a ![p](attachment:gone.png) b", "attachment:gone.png"),
        ("a ![]() b", "one without a name"),
        ('a <img src=""> b', "one without a name"),
        ("a ![p](images/photo.png) b", "images/photo.png"),
        ("a ![p](/etc/passwd) b", "/etc/passwd"),
        ("a ![p](.) b", "."),
        ("a ![p](attachment:bad.png) b", "attachment:bad.png"),
    ],
)
def test_missing_pictures_are_named(source, name):
    cell = new_markdown_cell(source, attachments={"bad.png": {}})
    assert embed(cell, []) == [name]
    assert cell.source == f"a (a picture that cannot be shown: {name}) b"
    for exporter in (HTMLExporter(), Page()):
        exporter.from_notebook_node(new_notebook(cells=[cell]))


def test_web_addresses_stay():
    cell = new_markdown_cell("see ![p](https://example.org/x.png)")
    assert embed(cell, []) == []
    assert cell.source == "see ![p](https://example.org/x.png)"


def test_large_photos_are_scaled_and_rotated():
    large = png(1000, noise=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    made = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(made, "JPEG", exif=exif, quality=100)
    padded = base64.b64encode(made.getvalue() + bytes(600_000)).decode()
    kinds = {"a": {"image/png": large}, "b": {"image/jpeg": padded}}
    cell = new_markdown_cell("![](attachment:a) ![](attachment:b)", attachments=kinds)
    assert embed(cell, []) == []
    assert len(cell.attachments["picture-1"]["image/jpeg"]) < len(large) / 3
    shown = Image.open(io.BytesIO(base64.b64decode(cell.attachments["picture-2"]["image/jpeg"])))
    assert shown.size == (1200, 1600)


def test_answers_have_priority_over_figures():
    figure = new_output("display_data", data={"image/png": "A" * 800_000})
    photo = {"p": {"image/png": "A" * 380_000}}
    cells = [new_code_cell("plot()", outputs=[figure] * 3), new_markdown_cell("![p](attachment:p)", attachments=photo)]
    cells += [new_markdown_cell("![p](attachment:p)", attachments=photo) for _ in range(7)]
    notebook = new_notebook(cells=cells)
    keep_small(notebook)
    assert "attachments" in notebook.cells[1]
    assert notebook.cells[-1].source == "(a picture was left out of this page)"
    for exporter in (HTMLExporter(), Page()):
        page, _ = exporter.from_notebook_node(notebook)
        assert len(page) < 5_000_000


def test_markdown_outputs_without_their_pictures_are_shown():
    output = new_output("display_data", data={"text/markdown": "x ![p](attachment:gone) ![]() y"})
    notebook = new_notebook(cells=[new_code_cell("show()", outputs=[output])])
    keep_small(notebook)
    for exporter in (HTMLExporter(), Page()):
        exporter.from_notebook_node(notebook)
