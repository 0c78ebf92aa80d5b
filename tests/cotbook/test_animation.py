"""Moving points on a page: straight lines, a halt, no script, no network."""

import re

import numpy as np
import pytest

from cotbook.figures.animation import HEIGHT, MARGIN, WIDTH, Animation, Motion

WINDOW = ((0.0, 1.0), (-1.0, 1.0))


def animation(start, end, colours=None):
    colours = colours or ["#000000"] * len(start)
    panel = Motion("d < 1", start, end, colours, 'points that go "up"')
    return Animation([panel], WINDOW, ("s", "ω"))


def test_points_go_from_start_to_end_in_the_coordinates_of_the_axes():
    page = animation([[0.0, -1.0], [0.5, 0.0]], [[0.0, 1.0], [1.0, 0.0]])._repr_html_()
    dots = re.findall(
        r'class="moving" cx="([\d.]+)" cy="([\d.]+)".*?--x:([-\d.]+)px;--y:([-\d.]+)px', page
    )
    tall, wide = HEIGHT - 2 * MARGIN, WIDTH - 2 * MARGIN
    expected = [
        (MARGIN, HEIGHT - MARGIN, 0, -tall),
        (WIDTH / 2, HEIGHT / 2, wide / 2, 0),
    ]
    np.testing.assert_allclose(np.array(dots, dtype=float), expected, atol=0.06)


def test_it_needs_nothing_but_itself_and_can_be_halted():
    points = np.random.default_rng(0).uniform(size=(500, 2))
    page = animation(points, points[::-1])._repr_html_()
    assert len(page.encode()) < 1_000_000
    for absent in ("<script", "http", "url(", "src="):
        assert absent not in page
    assert "prefers-reduced-motion: reduce" in page
    box = re.search(r'<input type="checkbox" id="([\w-]+)"> <label for="([\w-]+)">', page)
    assert box[1] == box[2]
    assert 'role="img" aria-label="points that go &quot;up&quot;"' in page and "d &lt; 1" in page


def test_two_animations_on_a_page_have_their_own_switches():
    names = {
        re.search(r'id="([\w-]+)"', animation([[0, 0]], [[0, end]])._repr_html_())[1]
        for end in (0.5, 1.0)
    }
    assert len(names) == 2


def test_its_text_is_the_description():
    assert repr(animation([[0, 0]], [[1, 1]])) == 'd < 1: points that go "up"'


def test_shapes_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"\(1, 2\) and \(2, 2\)"):
        animation([[0, 0]], [[1, 1], [0, 0]])
    with pytest.raises(ValueError, match="expected 1 colours, received 2"):
        animation([[0, 0]], [[1, 1]], ["#000000", "#ffffff"])
