"""Self-contained pages: formulas as MathML, nothing to load, no scripts."""

import re

import nbformat
import pytest
from bs4 import BeautifulSoup

from hw3utils.course.notebooks.execute import find_notebooks
from hw3utils.course.notebooks.html import POLICY, Page, self_contained
from hw3utils.course.notebooks.mathml import formula

new = nbformat.v4
FORMULAS = re.compile(r"(?s)\$\$(.+?)\$\$|(?<!\\)\$(.+?)\$")


def page_of(*cells, **metadata):
    return Page().from_notebook_node(new.new_notebook(cells=list(cells), metadata=metadata), {"metadata": {}})[0]


def visible_text(page):
    """The visible text of a page, without code."""
    soup = BeautifulSoup(page, features="html.parser")
    for tag in soup.select("style, title, code, pre"):
        tag.decompose()
    return soup.get_text()


@pytest.mark.parametrize("path", find_notebooks(), ids=lambda path: path.stem)
def test_all_formulas_of_the_notebooks_become_mathml(path):
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    found = [match for cell in cells for match in FORMULAS.finditer(cell.source)]
    assert len(found) > 10
    for match in found:
        drawn = formula(match[1] or match[2], display=match[1] is not None)
        assert "<math" in drawn, match[0]
        assert not re.search(r"[\\&$]", BeautifulSoup(drawn, features="html.parser").get_text()), match[0]
    page = page_of(*cells)
    assert page.count("<math") == len(found)
    assert not re.search(r"[\\$]|[a-z]_[{a-z]", visible_text(page))
    numbers = [number for cell in cells for number in re.findall(r"\\tag\{(\d+)\}", cell.source)]
    assert re.findall(r'hw3-number">\((\d+)\)<', page) == numbers


@pytest.mark.parametrize(
    ("tex", "part"),
    [
        (r"\mathbb E", "\U0001d53c"),
        (r"\mathbb R", "\u211d"),
        (r"\mathcal N(0, I)", "\U0001d4a9"),
        (r"\mathcal L", "\u2112"),
        (r"\mathbf x", "\U0001d431"),
        (r"\mathrm{KL}", "<mi>KL</mi>"),
        (r"\bar\alpha", '<mover accent="true"><mi>α</mi><mo stretchy="false">¯</mo></mover>'),
        (r"\overline{x^2}", 'class="hw3-overline"'),
        (r"\Delta", '<mi mathvariant="normal">Δ</mi>'),
        (r"T'", '<mrow><mi>T</mi><mo lspace="0" rspace="0">′</mo></mrow>'),
        (r"a \sim b", "<mo>∼</mo>"),
        (r"\log p", '<mi>log</mi><mspace width="0.167em" /><mi>p</mi>'),
        (r"\operatorname{Var}(x)", '>Var</mi><mo stretchy="false">(</mo>'),
        (r"\exp\!\Big(x\Big)", '<mspace width="-0.167em" />'),
        (r"\lVert x \rVert^2", '<msup><mrow><mo stretchy="true" fence="true" form="prefix">‖</mo>'),
        (r"\big(x\big)^{1/2}", "<msup><mrow><mo"),
        (r"\text{a < b & c}", "<mtext>a\xa0&lt;\xa0b\xa0&amp;\xa0c</mtext>"),
        (r"\lVert x", "<mo>‖</mo>"),
    ],
)
def test_corrections_of_the_converter(tex, part):
    assert part in formula(tex)


def test_displayed_formulas_have_limits_and_numbers():
    drawn = formula(r"\arg\min_\theta \Big[\sum_{t \ge 1} L_t\Big] \tag{3}", display=True)
    assert "arg" in drawn
    assert "<munder><mo>∑</mo>" in drawn
    assert "<munder><mi" in formula(r"\min_X c(X)", display=True)
    assert drawn.endswith('<span class="hw3-number">(3)</span></span>')
    aligned = formula(r"\begin{aligned} a &= b \\ &= c \end{aligned}", display=True)
    assert aligned.count("<mtr>") == 2
    assert aligned.count("text-align:right") == 2


@pytest.mark.parametrize("tex", ["", "{", r"\frac{1", r"x^2^3", r"\begin{nothing} x", r"\right)", "<script>", "%", "&"])
def test_invalid_tex_is_shown_as_text(tex):
    drawn = formula(tex)
    assert drawn.startswith(("<math>", "<code>"))
    assert "<script" not in drawn


def test_dollars_in_code_and_prices_stay():
    text = "from $5 to $6, `$x$`, \\$7, and $y$:\n\n```\n$z$\n```\n"
    page = page_of(new.new_markdown_cell(text), new.new_code_cell("price = '$8$'"))
    assert page.count("<math") == 1
    assert "from $5 to $6" in page
    for kept in ("<code>$x$</code>", "$7", "$z$", "$8$"):
        assert kept in page


def test_formulas_in_html_become_mathml_but_not_in_code():
    summary = "What is $a &lt; b$, <code>$x$</code>, <b title='$z$'>$5 to $6</b>?"
    page = page_of(new.new_markdown_cell(f"<details><summary>{summary}</summary>\n\n$y$\n\n</details>"))
    assert page.count("<math") == 2
    assert "<mi>a</mi><mo>&lt;</mo><mi>b</mi>" in page
    for kept in ("<code>$x$</code>", 'title="$z$"', "$5 to $6"):
        assert kept in page


def test_folds_keep_their_content_and_html_its_pictures(tmp_path):
    inner = "<details><summary>c</summary>\n\nd\n\n</details>"
    folds = f"<details><summary>a</summary>\n\n*b*\n\n{inner}\n\n</details>\n\ne"
    page = BeautifulSoup(page_of(new.new_markdown_cell(folds)), features="html.parser")
    outer, inner = page.select("details")
    assert outer.get_text().split() == ["a", "b", "c", "d"]
    assert inner.get_text().split() == ["c", "d"]
    assert BeautifulSoup(page_of(new.new_markdown_cell("x <b>y</b> z")), features="html.parser").b.get_text() == "y"
    (tmp_path / "dot.png").write_bytes(b"picture")
    notebook = new.new_notebook(cells=[new.new_markdown_cell('<p>\n<img alt="dot" src="dot.png">\n</p>')])
    page, _ = Page().from_notebook_node(notebook, {"metadata": {"path": str(tmp_path)}})
    assert '<img alt="dot" src="data:image/png;base64,cGljdHVyZQ=="' in page


def test_outputs_without_scripts_are_shown():
    data = {"application/vnd.jupyter.widget-view+json": {"model_id": "m"}, "text/plain": "IntSlider"}
    widget = new.new_output("display_data", data)
    script = new.new_output("display_data", {"application/javascript": "fetch('https://example.org')"})
    latex = new.new_output("display_data", {"text/latex": r"$\displaystyle \alpha$", "text/plain": "alpha"})
    page = page_of(new.new_code_cell("x", outputs=[widget, script, latex]), widgets={})
    assert "IntSlider" in page
    assert "(not in this page: application/javascript)" in page
    assert "α" in page
    assert "fetch" not in page
    assert "<script" not in page


def test_a_page_loads_nothing_and_has_no_scripts():
    page = self_contained(
        "<html><head><link rel='preconnect' href='https://a.example'><script src='https://b.example/x.js'></script>"
        "<style>@font-face {src: url(fonts/x.woff)} p {color: red}</style></head><body>"
        "<meta http-equiv='refresh' content='0; url=https://c.example'><base href='https://d.example'>"
        "<iframe src='https://e.example'></iframe><object data='https://f.example'></object>"
        "<img src='https://g.example/x.png' alt='a cat'><img src='data:image/png;base64,AA'>"
        "<a href='https://h.example'>a link</a></body></html>"
    )
    soup = BeautifulSoup(page, features="html.parser")
    assert not soup.select("script, link, iframe, object, base")
    assert [tag["content"] for tag in soup.select("meta[http-equiv]")] == [POLICY]
    assert [image.get("src") for image in soup.select("img")] == [None, "data:image/png;base64,AA"]
    assert soup.img["alt"] == "a cat (not in this page: https://g.example/x.png)"
    assert soup.a["href"] == "https://h.example"
    assert "font-face" not in page
    assert "color: red" in page


def test_pictures_next_to_the_notebook_are_embedded(tmp_path):
    (tmp_path / "dot.png").write_bytes(b"picture")
    notebook = new.new_notebook(cells=[new.new_markdown_cell("![a dot](dot.png)")])
    page, _ = Page().from_notebook_node(notebook, {"metadata": {"path": str(tmp_path)}})
    assert 'src="data:image/png;base64,' in page
