"""The report: everything in it, nothing from the network, nothing of the user's taken for HTML."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import made_runs
import pytest

from luthier.core import files
from luthier.core.run_folder import RunFolder
from luthier.explain.report import write_report

SHAPES: dict[str, Callable[[Path], RunFolder]] = {
    "twelve": made_runs.twelve,
    "seventy_seven": made_runs.seventy_seven,
    "two": made_runs.two,
    "multi_label": made_runs.multi_label,
    "empty": made_runs.write,
}
SECTIONS = {"result", "diagnosis", "curves", "scores", "classes", "calibration", "slices", "mistakes", "data", "again"}
SCREENS = (320, 390, 768, 1200)
NEVER_CLOSED = {"meta", "br", "wbr", "input", "link"}
EVIL = "<script>alert('x')</script> & \"quoted\" \u0000\u001b ]]> 你好"


class Page(HTMLParser):
    """Checks that tags are closed in order; collects ids, links, tags and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.addresses: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            self.ids += [value or ""] if name == "id" else []
            self.links += [value or ""] if name == "href" else []
            self.addresses += [value or ""] if name in ("src", "href", "action", "data", "srcset") else []
            assert not name.startswith("on"), f"{tag} has {name}"
        if tag not in NEVER_CLOSED:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def report(run: RunFolder) -> str:
    return write_report(run).read_text(encoding="utf-8")


def in_words(html: str) -> str:
    """Return the text of a page with its spaces made plain."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html.replace("<wbr>", "")).replace("\u00a0", " "))


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_gives_one_whole_page_without_network(shape: str, tmp_path: Path) -> None:
    html = report(SHAPES[shape](tmp_path / "run"))
    page = Page(html)
    assert not page.tags & {"script", "link", "img", "iframe", "object", "embed", "form"}
    assert all(address.startswith("#") for address in page.addresses)
    assert "@import" not in html and "url(" not in html
    assert len(page.ids) == len(set(page.ids))
    assert {link[1:] for link in page.links} <= set(page.ids)
    assert '<html lang="en">' in html
    assert len(html.encode()) < 400_000


@pytest.mark.parametrize("shape", SHAPES)
def test_every_picture_is_valid_and_named(shape: str, tmp_path: Path) -> None:
    run = SHAPES[shape](tmp_path / "run")
    pictures = re.findall(r"<svg xmlns.*?</svg>", report(run), flags=re.DOTALL)
    pictures += [run.confusion.read_text(encoding="utf-8")] if run.confusion.exists() else []
    assert bool(pictures) == (shape != "empty")
    for drawn in pictures:
        root = ElementTree.fromstring(drawn)
        assert root.get("aria-label") and root.get("role") == "img"
        assert "nan" not in drawn.lower().replace("financ", "").split("<text")[0]


def test_it_says_what_it_should(tmp_path: Path) -> None:
    html = report(made_runs.twelve(tmp_path / "run"))
    said = in_words(html)
    assert SECTIONS <= set(Page(html).ids)
    for words in (
        "all-MiniLM-L6-v2 on train.csv, test.csv",
        "The answer is right on 91.5 % of 480 test rows.",
        "between 89.0 % and 94.0 % (95 % interval)",
        "Without tuning (nearest class centroid on the untuned embeddings): 71.2 %",
        "is a real gain, not chance (p &lt; 0.001)",
        "The curves look healthy",
        "The 20 worst mistakes",
        "overfitting cannot be seen here",
        "1 empty text, 1 missing label",
        "Characters added 212",
        "luthier train recipe.yaml training.epochs=3",
        f"luthier predict {tmp_path / 'run'} &#34;a text of yours&#34;",
        "en 240 83.0 %",
        "1 min 4 s",
        "1.1 GiB",
    ):
        assert words in said, words


def test_classes_stand_worst_first(tmp_path: Path) -> None:
    html = report(made_runs.twelve(tmp_path / "run"))
    table = html[html.index('<table class="classes">') :]
    shares = [float(number) for number in re.findall(r"<b>([\d.]+)\u00a0%</b>", table[: table.index("</table>")])]
    assert len(shares) == 12 and shares == sorted(shares)


def test_many_classes_are_cut_to_the_most_confused_and_it_says_so(tmp_path: Path) -> None:
    said = in_words(report(made_runs.seventy_seven(tmp_path / "run")))
    assert "The 18 most confused of 77 classes" in said
    assert "The other 61 classes" in said
    assert "kept: step 5000" in said


def test_a_difference_that_may_be_chance_is_said_to_be(tmp_path: Path) -> None:
    found = made_runs.evaluation(made_runs.INTENTS)
    found["test"]["comparison"] |= {"difference": 0.01, "low": -0.02, "high": 0.04, "p_value": 0.4}
    said = in_words(report(made_runs.write(tmp_path / "run", metrics=made_runs.metrics(), evaluation=found)))
    assert "may be chance (p = 0.400)" in said


def test_the_diagnosis_names_the_key_and_the_next_command_has_it(tmp_path: Path) -> None:
    said = in_words(report(made_runs.write(tmp_path / "run", steps=made_runs.ticks(end=6.0), metrics=made_runs.metrics())))
    assert "Change optim.learning_rate=6.7e-05 (a third of now)" in said
    assert f"luthier train {tmp_path}/run/recipe.yaml optim.learning_rate=6.7e-05 --output {tmp_path}/run-2" in said


def test_a_mistake_shows_both_texts_of_a_pair(tmp_path: Path) -> None:
    found = made_runs.evaluation(["no", "yes"])
    found["test"]["mistakes"][0] |= {"text": "a man sleeps", "text_pair": "a man is awake"}
    said = in_words(report(made_runs.write(tmp_path / "run", steps=made_runs.ticks(), metrics=made_runs.metrics(), evaluation=found)))
    assert re.search(r"a man sleeps\s*a man is awake", said)


def test_time_after_a_resume_is_not_called_the_whole(tmp_path: Path) -> None:
    said = in_words(report(made_runs.write(tmp_path / "run", steps=made_runs.ticks(), metrics=made_runs.metrics() | {"seconds": 9.0})))
    assert "Whole command" in said and "Since the resume" not in said
    resumed = made_runs.metrics() | {"resumed_from_step": 40, "seconds": 9.0}
    said = in_words(report(made_runs.write(tmp_path / "resumed", steps=made_runs.ticks(), metrics=resumed)))
    assert "Since the resume" in said and "Whole command" not in said


def test_what_the_user_wrote_is_never_html(tmp_path: Path) -> None:
    labels = [EVIL, "plain", "third"]
    found = made_runs.evaluation(labels)
    found["test"]["mistakes"][0] |= {"text": EVIL, "text_pair": EVIL, "truth": EVIL, "predicted": EVIL}
    found["test"]["slices"][EVIL] = found["test"]["slices"].pop("en")
    found["test"]["baseline"]["name"] = EVIL
    account = made_runs.data(labels)
    account["notes"].append(EVIL)
    account["sources"][EVIL] = account["sources"].pop("train") | {"source": EVIL, "bad": {EVIL: 3}}
    evil = made_runs.recipe(model={"path": EVIL})
    contents = {"metrics": made_runs.metrics(), "evaluation": found, "data": account}
    run = made_runs.write(tmp_path / "run", recipe=evil, steps=made_runs.ticks(), **contents)
    html = report(run)
    assert "<script" not in html and "&lt;script&gt;" in html
    assert "script" not in Page(html).tags
    for drawn in re.findall(r"<svg xmlns.*?</svg>", html, flags=re.DOTALL):
        ElementTree.fromstring(drawn)
    ElementTree.parse(run.confusion)


def test_a_run_without_scores_says_so(tmp_path: Path) -> None:
    held_out = made_runs.metrics() | {"scores": {}}
    said = in_words(report(made_runs.write(tmp_path / "run", steps=made_runs.ticks(), metrics=held_out)))
    assert "Nothing was held out, so there is no score." in said
    assert "This run is not finished" in in_words(report(made_runs.write(tmp_path / "other")))


@pytest.mark.parametrize("missing", ["events", "metrics", "evaluation", "data", "recipe", "environment"])
def test_any_file_may_be_missing(missing: str, tmp_path: Path) -> None:
    run = made_runs.twelve(tmp_path / "run")
    getattr(run, missing).unlink()
    Page(report(run))


def test_scores_that_are_null_are_dashes(tmp_path: Path) -> None:
    found = made_runs.metrics()
    found["scores"]["test"]["auroc"] = {"value": None, "low": None, "high": None}
    assert "AUROC – not defined here" in in_words(report(made_runs.write(tmp_path / "run", metrics=found)))


def test_long_texts_are_cut_and_it_says_by_how_much(tmp_path: Path) -> None:
    found = made_runs.evaluation(made_runs.INTENTS)
    found["test"]["mistakes"][0]["text"] = "a" * 5_000_000
    html = report(made_runs.write(tmp_path / "run", metrics=made_runs.metrics(), evaluation=found))
    assert "(4,999,600 more characters)" in html and len(html) < 200_000


def test_the_picture_alone_brings_its_colours(tmp_path: Path) -> None:
    run = made_runs.twelve(tmp_path / "run")
    write_report(run)
    drawn = run.confusion.read_text(encoding="utf-8")
    assert "var(" not in drawn and 'fill="#ffffff"' in drawn and "cancel order" in drawn


@pytest.mark.browser
def test_nothing_is_wider_than_the_screen(tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on this machine: the report was not looked at in a browser")
    run = made_runs.seventy_seven(tmp_path / "run")
    write_report(run)
    frames = "".join(f'<iframe src="report.html" style="width: {width}px; height: 900px"></iframe>' for width in SCREENS)
    measure = """onload = () => { document.title = [...document.querySelectorAll("iframe")].map(frame => {
      const page = frame.contentDocument.documentElement; return page.scrollWidth + "/" + page.clientWidth }).join(" ") }"""
    files.write_text(run.path / "probe.html", f"<!doctype html>{frames}<script>{measure}</script>")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files"]
    command = [browser, *flags, "--dump-dom", f"file://{run.path / 'probe.html'}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "HOME": str(tmp_path)}).stdout
    widths = re.findall(r"(\d+)/(\d+)", re.findall(r"<title>(.*)</title>", shown)[0])
    assert len(widths) == len(SCREENS)
    assert all(int(needed) <= int(there) for needed, there in widths), widths
