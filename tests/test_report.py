"""Report pages: one file with everything inside, every text escaped, the same input giving the same bytes."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from pimchip.errors import InputError
from pimchip.report import Figure, Section, accuracy_bars, curve_family, histograms, lines, write_page
from pimchip.runtime import Accuracy


def figures() -> list[Figure]:
    rng = np.random.default_rng(1)
    curves = rng.normal(size=(5, 20))
    curves[0], curves[:, 3] = np.nan, np.nan
    right = Accuracy(70, 100)
    return [
        accuracy_bars([("one", right.value, right.interval), ("none", 0.0, (0.0, 0.1))], "bars"),
        curve_family(np.arange(20.0), curves, ("code", "INL, LSB"), "curves with a gap"),
        histograms({"gain": rng.normal(size=50), "none measured": np.full(5, np.nan)}, "histograms"),
        lines([1.0, 2.0], {"loss": [2.0, 1.0], "accuracy": [0.1, 0.9]}, ("epoch", ""), "lines"),
    ]


class _Tags(HTMLParser):
    """Every tag opened is closed, in order; notes attributes that name something to fetch."""

    VOID = {"meta", "link", "br", "img", "hr"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.fetched += [
            str(v) for n, v in attrs if n in ("src", "href", "xlink:href", "data") and not str(v).startswith("#")
        ]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_a_page_is_whole_and_fetches_and_runs_nothing(tmp_path: Path) -> None:
    section = Section("All", ["text"], ["", "value"], [["a", "1"]], figures())
    text = write_page(tmp_path / "deep" / "page.html", "Title", [section], "foot").read_text(encoding="utf-8")
    page = _Tags()
    page.feed(text)
    assert page.open == []
    assert page.fetched == []
    assert page.seen.isdisjoint({"script", "link", "img", "iframe", "object"})
    assert not re.search(r"url\((?!#)|@import|\son\w+=", text)
    assert text.count("<svg") == 4
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["page.html"]


def test_figures_are_well_formed_and_the_same_each_time() -> None:
    first, second = figures(), figures()
    assert [f.svg for f in first] == [f.svg for f in second]
    for figure in first:
        ElementTree.fromstring(figure.svg)


def test_texts_are_escaped(tmp_path: Path) -> None:
    bad = '<script>alert("x")</script>&'
    section = Section(bad, [bad], [bad, bad], [[bad, bad]], [Figure(figures()[3].svg, bad)])
    text = write_page(tmp_path / "page.html", bad, [section], bad).read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;&amp;") == 10


def test_a_page_that_cannot_be_written_is_named_and_the_old_one_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(InputError, match="page.html"):
        write_page(tmp_path / "file" / "page.html", "t", [], "f")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="folder"):
        write_page(tmp_path / "folder", "t", [], "f")
    assert (tmp_path / "file").read_text() == "kept"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
