"""Figures that follow a slider: one frame at a time with a script, a few together without one."""

from __future__ import annotations

import html
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from cotbook.figures.slider import LARGEST, Frame, Panel, Slider
from cotbook.figures.svg import BOTTOM, RIGHT, TOP, Axis, Curve, Marker, Moving, number

S = np.linspace(0.0, 1.0, 5)


def slider(curves=None, frames=3, scales=("linear", "linear"), **given):
    curves = curves or [
        Moving("V < 1", S, [i * S for i in range(frames)], dots=True),
        Curve("reference", S, S**2),
        Marker("now", np.arange(frames) / 2, np.arange(frames) / 2),
    ]
    panel = Panel("Weights & layers", ("s", "V"), curves, 'rises "fast"', scales)
    names = [Frame(f"depth {2**i}", f"gap < {i}") for i in range(frames)]
    return Slider("depth", names, [panel, panel], **given)


def test_a_frame_is_a_group_of_its_moving_curves_in_the_coordinates_of_shared_axes():
    picture = re.search(r'<svg viewBox="0 0 330.*?</svg>', slider().page)[0]
    root = ElementTree.fromstring(picture)
    groups = [g for g in root.iter("g") if "frame" in g.get("class")]
    assert [g.get("data-frame") for g in groups] == ["0", "1", "2"]
    ends = [g.find("path").get("d").split()[-2:] for g in groups]
    left = 14 + 6.6 * len("0.5")
    across = left + (RIGHT - left) * (1.04 / 1.08)
    heights = BOTTOM - (BOTTOM - TOP) * (np.array([0, 1, 2]) + 0.08) / 2.16
    np.testing.assert_allclose(np.array(ends, float), [(across, y) for y in heights], atol=0.06)
    dots = [float(g.find("circle").get("cy")) for g in groups]
    np.testing.assert_allclose(np.diff(dots), np.diff(heights) / 2, atol=0.11)
    assert len([p for p in root.findall("path") if p.get("class") == "line"]) == 1


def test_axes_have_ticks_labels_and_a_legend_in_colours_and_dashes():
    page = slider().page
    for text in (">0.5</text>", ">s</text>", ">V</text>", "reference</li>", "V &lt; 1</li>"):
        assert text in page
    looks = set(re.findall(r'stroke="(#\w+)"( stroke-dasharray="[\d. ]+")?', page))
    assert len(looks) == 2
    assert [number(v) for v in (0.25, -3.0, 1e-7, 2.5e12)] == ["0.25", "−3", "10⁻⁷", "2.5·10¹²"]


def test_long_tick_labels_stay_inside_the_picture():
    tiny = np.array([-2.5e-4, -1.0e-4])
    page = slider([Curve("tiny", [0.0, 1.0], tiny)]).page
    for x, text in re.findall(r'<text x="([\d.]+)" [^>]* text-anchor="end">(−[^<]*)</text>', page):
        assert float(x) > 6.5 * len(text)
    assert ">−0.00025</text>" in page


def test_a_curve_without_a_label_is_not_in_the_legend_and_may_choose_its_look():
    page = slider([Curve("", S, S, colour="black", dashes="1 2"), Curve("b", S, S)]).page
    assert page.count("<li>") == 2
    assert 'stroke="#000000" stroke-dasharray="1 2"' in page


def test_a_logarithmic_axis_has_ticks_at_decades_or_within_one():
    ticks = Axis(np.array([1e-6, 1.0]), "log").ticks()
    assert {"10⁻⁶", "0.01"} <= {text for _, text in ticks}
    steps = np.diff([unit for unit, _ in ticks])
    np.testing.assert_allclose(steps, steps[0])
    assert {"2", "5"} <= {text for _, text in Axis(np.array([1.0, 9.0]), "log").ticks()}


def test_the_control_says_what_it_sets_and_where_it_is():
    page = slider(start=1).page
    control = re.search(r"<label>depth <input [^>]*>", page)[0]
    for wanted in ('type="range"', 'min="0" max="2"', 'value="1"', 'aria-valuetext="depth 2"'):
        assert wanted in control
    assert 'role="img" aria-label="rises &quot;fast&quot;"' in page
    frames = json.loads(html.unescape(re.search('data-frames="(.*?)"', page)[1]))
    assert frames[2] == ["depth 4", "gap < 2"]


def test_it_needs_nothing_but_itself_and_escapes_its_text():
    page = slider().page
    for absent in ("http", "url(", "src=", "href=", "V < 1", "gap < ", "Weights & l", " id="):
        assert absent not in page
    assert page.count("<script") == page.count("</script>") == 1


def test_a_still_picture_keeps_the_first_a_middle_and_the_last_frame():
    page = slider(frames=6).page
    kept = re.findall(r'class="frame kept" opacity="([\d.]+)" data-frame="(\d)"', page)
    assert kept[:3] == [("0.3", "0"), ("0.6", "2"), ("1.0", "5")]
    assert "From faint to full: depth 1: gap &lt; 0; depth 4: gap &lt; 2; depth 32" in page
    assert slider(frames=1).kept == {0: 1.0}


def test_it_has_a_text_and_a_picture_for_media_without_script():
    shown = slider()
    assert 'rises "fast"' in repr(shown) and "depth 4: gap < 2" in repr(shown)
    assert shown._repr_png_().startswith(b"\x89PNG")
    assert shown._repr_html_() == shown.page


def test_many_points_print_compactly_and_a_figure_that_is_too_large_is_refused():
    x = np.linspace(0.0, 1.0, 20_001)
    many = slider([Moving("wave", x, [np.sin(9 * x)] * 3)])
    assert len(many.page) < 6 * 20_001 * 4
    rows = np.random.default_rng(0).normal(size=(30, 4000))
    with pytest.raises(ValueError, match=f"expected at most {LARGEST} bytes, received"):
        slider([Moving("noise", np.arange(4000), rows)], frames=30)


@pytest.mark.parametrize(
    "curves, message",
    [
        ([Curve("a", S, S[1:])], r"'a': expected x and y .* received \(5,\) and \(4,\)"),
        ([Curve("a", [], [])], r"received \(0,\) and \(0,\)"),
        ([Moving("a", S, [S, S])], "'a': expected one entry for each of 3 frames, received 2"),
        ([Moving("a", [S, S], [S, S, S])], "each of 3 frames, received 2"),
        ([Marker("a", [1.0], [1.0])], "each of 3 frames, received 1"),
        ([Curve("a", S, S * np.nan)], "expected finite values on a linear axis"),
        ([Curve("a", S, S)] * 7, "expected 1 to 6 curves, received 7"),
    ],
)
def test_curves_that_do_not_fit_are_named(curves, message):
    with pytest.raises(ValueError, match=message):
        slider(curves)


def test_tensors_are_arrays():
    layers = torch.linspace(0, 1, 5)
    given = [Moving("V", layers, torch.stack([layers, layers**2])), Curve("limit", layers, layers)]
    assert slider(given, frames=2).page


def test_other_values_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="positive, finite values on a log axis"):
        slider(scales=("log", "linear"))
    with pytest.raises(ValueError, match="'linear' or 'log', received"):
        slider(scales=("linear", "cubic"))
    with pytest.raises(ValueError, match="start from 0 to 2, received 3"):
        slider(start=3)
    with pytest.raises(ValueError, match="at least one frame and one panel"):
        Slider("depth", [], [])


@pytest.fixture
def look(browser, tmp_path):
    """look(figures, ...) opens them as one file of a reader's disk, without a network."""
    contexts = []

    def look(*figures, script=True, **given):
        path = tmp_path / "page.html"
        body = "".join(figure.page for figure in figures)
        path.write_text(f'<!doctype html><meta charset="utf-8">{body}', encoding="utf-8")
        contexts.append(browser.new_context(offline=True, java_script_enabled=script, **given))
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: pytest.fail(str(error)))
        page.goto(path.as_uri())
        return page

    yield look
    for context in contexts:
        context.close()


def shown(page, figure=0):
    """Frames that the first panel of a figure shows."""
    groups = page.locator(".cotflow-slider").nth(figure).locator(".panel >> nth=0 >> .frame")
    visible = [group for group in groups.all() if group.is_visible()]
    return [int(group.get_attribute("data-frame")) for group in visible]


def test_keys_move_the_picture_of_their_own_figure(look):
    page = look(slider(frames=4, start=1), slider(frames=4))
    assert (shown(page, 0), shown(page, 1)) == ([1], [0])
    control = page.locator("input").first
    control.focus()
    for key, frame in (("ArrowRight", 2), ("End", 3), ("ArrowLeft", 2), ("Home", 0)):
        page.keyboard.press(key)
        assert shown(page, 0) == [frame]
        assert control.get_attribute("aria-valuetext") == f"depth {2**frame}"
        assert page.locator("output").first.inner_text() == f"gap < {frame}"
    assert shown(page, 1) == [0]
    assert control.evaluate("node => getComputedStyle(node).outlineStyle") == "solid"


def test_it_plays_to_the_end_and_only_when_asked(look):
    page = look(slider())
    page.clock.install(time="2000-01-01")
    page.clock.pause_at("2000-01-02")
    page.clock.run_for(10_000)
    assert shown(page) == [0]
    page.get_by_role("button", name="play").click()
    assert page.get_by_role("button", name="halt").is_visible()
    page.clock.run_for(10_000)
    assert page.get_by_role("button", name="play").is_visible()
    assert shown(page) == [2]
    calm = look(slider(), reduced_motion="reduce")
    assert not calm.get_by_role("button").is_visible()
    assert calm.get_by_role("slider").is_visible()


def test_without_script_and_on_paper_a_few_frames_are_shown_together(look):
    still = look(slider(frames=6), script=False)
    paper = look(slider(frames=6))
    paper.emulate_media(media="print")
    for page in (still, paper):
        assert shown(page) == [0, 2, 5]
        assert not page.get_by_role("slider").is_visible()
        assert page.get_by_text("From faint to full: depth 1: gap < 0;").is_visible()


def test_a_phone_has_the_panels_below_each_other_and_the_control_in_view(look):
    page = look(slider(), viewport={"width": 390, "height": 500})
    boxes = [panel.bounding_box() for panel in page.locator(".panel").all()]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    for control in (page.get_by_role("slider"), page.get_by_role("button")):
        box = control.bounding_box()
        assert box["height"] >= 44 and box["y"] + box["height"] <= 500
