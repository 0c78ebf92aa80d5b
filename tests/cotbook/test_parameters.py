"""A chapter's parameters: what is accepted, what is refused, and the sentence that says why."""

import math
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cotbook import parameters as P

CELL = """\
depths: Depths = [8, 32,
                  128]  # numbers of layers L
seed: Seed = 0  # first seed
step: Rate = 0.5
activation: Activation = "gelu"  # σ
device: Device = "cpu"
"""


def notebook(**values):
    """A namespace as the kernel leaves it, one (annotation, value) pair a name."""
    return {
        "__annotations__": {name: annotation for name, (annotation, _) in values.items()},
        **{name: value for name, (_, value) in values.items()},
    }


@pytest.mark.parametrize(
    ("annotation", "value", "sentence"),
    [
        (P.Depth, 0, "x: expected a whole number ≥ 1, received 0"),
        (P.Depth, True, "x: expected a whole number ≥ 1, received True"),
        (P.Depth, "3", "x: expected a whole number ≥ 1, received '3'"),
        (P.Depth, 3.0, "x: expected a whole number ≥ 1, received 3.0"),
        (P.Seed, -1, "x: expected a whole number ≥ 0, received -1"),
        (P.Rate, 0.0, "x: expected a finite number > 0, received 0.0"),
        (P.Rate, True, "x: expected a finite number > 0, received True"),
        (P.Time, math.inf, "x: expected a finite number > 0, received inf"),
        (P.Time, math.nan, "x: expected a finite number > 0, received nan"),
        (P.Depths, [8, -4], "x: expected whole numbers ≥ 1, received -4"),
        (P.Depths, [], "x: expected a non-empty list of whole numbers ≥ 1, received []"),
        (P.Depths, 8, "x: expected a non-empty list of whole numbers ≥ 1, received 8"),
        (P.Dtype, "float16", "x: expected one of float32, float64, received 'float16'"),
        (P.Dataset, "svhn", "x: expected one of digits, mnist, cifar10, received 'svhn'"),
        (P.Variant, "other", "x: expected one of text, released, received 'other'"),
        (P.Precision, "half", "x: expected one of full, mixed, received 'half'"),
        (P.Device, "tpu", "x: expected 'cpu', 'cuda' or 'cuda:N', received 'tpu'"),
        (list[P.Depth], [], "x: expected a non-empty list of whole numbers ≥ 1, received []"),
        (int, 2.5, "x: expected a whole number, received 2.5"),
        (bool, 1, "x: expected true or false, received 1"),
        (str, 1, "x: expected a text, received 1"),
    ],
)
def test_a_value_outside_its_type_is_named_with_what_was_expected(annotation, value, sentence):
    with pytest.raises(P.ParameterError) as error:
        P.check(notebook(x=(annotation, value)))
    assert str(error.value) == sentence


DIFFERENT = "a list of at least two {}, all different"
WHOLE, FINITE = "whole numbers ≥ 1", "finite numbers > 0"


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        ("Several[Depth]", [3], DIFFERENT.format(WHOLE)),
        ("Several[Depth]", 3, DIFFERENT.format(WHOLE)),
        ("Several[Depth]", [8, 4, 8], DIFFERENT.format(WHOLE)),
        ("Several[Rate]", [1, 1.0], DIFFERENT.format(FINITE)),
        ("Several[Dtype]", ["float32"], DIFFERENT.format("values among float32, float64")),
        ("Several[list[Depth]]", [[1], [1]], DIFFERENT.format(f"non-empty lists of {WHOLE}")),
        ("Increasing[Width]", [1, 4, 4], f"a list of at least two {WHOLE}, increasing"),
        ("Increasing[Time]", [], f"a list of at least two {FINITE}, increasing"),
        ("Decreasing[Rate]", [0.1, 0.2], f"a list of at least two {FINITE}, decreasing"),
        ("Doubling[Depth]", [2, 4], f"a list of at least three {WHOLE}, each twice the last"),
        ("Doubling[Depth]", [2, 4, 9], f"a list of at least three {WHOLE}, each twice the last"),
    ],
)
def test_a_list_out_of_its_order_is_refused_before_a_chapter_runs(annotation, value, expected):
    declared = P.read_cell(f"x: {annotation} = [1]")
    sentence = f"x: expected {expected}, received {value}"
    with pytest.raises(P.ParameterError) as error:
        P.validate(declared, {"x": value})
    assert str(error.value) == sentence
    with pytest.raises(P.ParameterError) as error:
        P.check(notebook(x=(declared[0].type, value)))
    assert str(error.value) == sentence, "a notebook's own check says the same"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        ("Several[Seed]", [2, 0, 1]),
        ("Increasing[Time]", [0.1, 1]),
        ("Decreasing[Rate]", [2, 1e-8]),
        ("Doubling[Depth]", [3, 6, 12, 24]),
    ],
)
def test_a_list_in_its_order_is_accepted(annotation, value):
    assert P.validate(P.read_cell(f"x: {annotation} = {value}"), {}) == {"x": value}


def test_a_refused_list_is_shown_with_the_entry_at_fault():
    seeds = [0, 1, 2, 3, 4, 5, 6, 7, 0]
    with pytest.raises(P.ParameterError, match=r"received \[0, 1, 2, 3, 4, 5, 6, 7, 0\]"):
        P.check(notebook(seeds=("Several[Seed]", seeds)) | {"Seed": P.Seed, "Several": P.Several})


def test_check_returns_the_values_of_annotated_parameters_only():
    namespace = notebook(
        depths=(P.Depths, [8, 32]), step=(P.Rate, 1), seed=("Seed", 3), name=(str, "a")
    )
    namespace["__annotations__"] |= {"x": torch.Tensor, "y": "no type at all", "z": "Unknown"}
    namespace |= {"Seed": P.Seed, "x": torch.zeros(2), "y": -1, "z": -1, "plain": -1}
    found = P.check(namespace)
    assert found == {"depths": [8, 32], "step": 1.0, "seed": 3, "name": "a"}


def test_check_follows_the_current_value_and_string_annotations():
    namespace = notebook(seed=("Seed", 3)) | {"Seed": P.Seed}
    namespace["seed"] = -3
    with pytest.raises(P.ParameterError, match="seed: expected a whole number ≥ 0, received -3"):
        P.check(namespace)


def test_annotations_of_a_notebook_on_python_314_are_read_from_its_cells():
    values = {"Seed": P.Seed, "Rate": P.Rate, "seed": 3, "step": 0.5, "depth": -1}
    last = {"__annotate__": lambda form: {"step": P.Rate}}
    cells = {
        "In": ["", "import math", "seed: Seed = 0\nstep: Rate = 0.5", "seed = 3", "not python"]
    }
    assert P.check(values | last | cells) == {"seed": 3, "step": 0.5}
    assert P.check(values | last) == {"step": 0.5}, "a script is compiled as a whole"
    with pytest.raises(P.ParameterError, match="seed: expected a whole number ≥ 0, received -3"):
        P.check(values | last | cells | {"seed": -3})


def test_an_annotation_without_a_value_is_refused():
    with pytest.raises(P.ParameterError, match="seed: expected a value"):
        P.check({"__annotations__": {"seed": P.Seed}})


def test_each_problem_has_its_own_line():
    with pytest.raises(P.ParameterError) as error:
        P.check(notebook(a=(P.Depth, 0), b=(P.Seed, 1), c=(P.Rate, "x")))
    assert [line[:2] for line in str(error.value).splitlines()] == ["a:", "c:"]


@pytest.mark.parametrize(
    ("count", "name", "accepted"),
    [
        (0, "cpu", True),
        (0, "cuda", False),
        (1, "cuda", True),
        (1, "cuda:0", True),
        (1, "cuda:1", False),
    ],
)
def test_a_device_is_accepted_when_torch_has_it(monkeypatch, count, name, accepted):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    namespace = notebook(device=(P.Device, name))
    if accepted:
        assert P.check(namespace) == {"device": name}
    else:
        with pytest.raises(P.ParameterError, match=rf"device of this machine.*received '{name}'"):
            P.check(namespace)


@given(st.integers())
def test_a_depth_is_a_whole_number_from_one(value):
    namespace = notebook(depth=(P.Depth, value))
    if value >= 1:
        assert P.check(namespace) == {"depth": value}
    else:
        with pytest.raises(P.ParameterError):
            P.check(namespace)


@given(st.floats())
def test_a_rate_is_finite_and_positive(value):
    namespace = notebook(rate=(P.Rate, value))
    if math.isfinite(value) and value > 0:
        assert P.check(namespace) == {"rate": value}
    else:
        with pytest.raises(P.ParameterError):
            P.check(namespace)


def test_a_cell_is_read_with_its_defaults_and_comments():
    declared = P.read_cell(CELL)
    assert [(p.name, p.annotation, p.default, p.help) for p in declared] == [
        ("depths", "Depths", [8, 32, 128], "numbers of layers L"),
        ("seed", "Seed", 0, "first seed"),
        ("step", "Rate", 0.5, ""),
        ("activation", "Activation", "gelu", "σ"),
        ("device", "Device", "cpu", ""),
    ]


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("depth = 8", "expected lines like 'depth: Depth = 8', received 'depth = 8'"),
        ("depth: Dephts = 8", "depth: expected a type of parameters, received 'Dephts'"),
        ("step: Rate = 1 / 3", "step: expected a literal default, received '1 / 3'"),
        ("step: Rate", "expected lines like"),
        ("step: print('executed') = 1", "step: expected a type of parameters"),
        ("step: list[print('executed')] = 1", "step: expected a type of parameters"),
        ("%matplotlib inline", "the parameters cell is not plain Python"),
        ("seeds: Several = [1]", "seeds: expected a type of parameters, received 'Several'"),
        ("seeds: Seed[Several] = 1", "seeds: expected a type of parameters"),
        ("seeds: Several[Seed, Seed] = 1", "seeds: expected a type of parameters"),
    ],
)
def test_a_cell_that_declares_no_plain_parameter_is_refused(cell, sentence, capsys):
    with pytest.raises(P.ParameterError) as error:
        P.read_cell(cell)
    assert sentence in str(error.value)
    assert "executed" not in capsys.readouterr().out


def test_an_annotation_may_name_a_builtin_or_a_list():
    declared = P.read_cell("n: int = 1\nsizes: list[Depth] = [2]")
    assert [p.type for p in declared] == [int, list[P.Depth]]


def test_given_values_replace_defaults():
    values = P.validate(P.read_cell(CELL), {"seed": 4, "depths": [2]})
    assert values == {
        "depths": [2],
        "seed": 4,
        "step": 0.5,
        "activation": "gelu",
        "device": "cpu",
    }


def test_an_unknown_name_is_refused_with_the_nearest_ones():
    declared = P.read_cell(CELL)
    with pytest.raises(P.ParameterError, match="unknown parameter 'depth'; nearest: depths"):
        P.validate(declared, {"depth": 8})
    with pytest.raises(P.ParameterError, match="'q'; available: activation, depths, device, seed"):
        P.validate(declared, {"q": 8})


def test_a_default_outside_its_range_is_refused():
    with pytest.raises(P.ParameterError, match="seed: expected a whole number ≥ 0, received -1"):
        P.validate(P.read_cell("seed: Seed = -1"), {})


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8", 8),
        ("-4", -4),
        ("010", 10),
        ("1e-2", 0.01),
        ("2.", 2.0),
        ("[2,4]", [2, 4]),
        ("[1e-2, .5]", [0.01, 0.5]),
        ("[gelu, tanh]", ["gelu", "tanh"]),
        ("gelu", "gelu"),
        ("true", True),
        ("on", "on"),
        ("'8'", "8"),
        ("", ""),
        ("[2, 4", "[2, 4"),
        ("1_000", "1_000"),
    ],
)
def test_a_command_lines_value_keeps_its_kind(text, value):
    parsed = P.parse_value(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize("text", ["nan", ".nan", "inf", "-inf", ".inf", "1e999"])
def test_a_number_that_is_not_finite_is_a_float_for_the_range_check_to_refuse(text):
    value = P.parse_value(text)
    assert isinstance(value, float) and not math.isfinite(value)


@pytest.mark.parametrize("text", ["a: 1\na: 2", "x: {b: 1, b: 2}", "1: a\n1: b", "[{a: 1, a: 1}]"])
@pytest.mark.parametrize("loader", [P._Loader, P.OnceLoader])
def test_a_key_that_stands_twice_is_refused(text, loader):
    with pytest.raises(yaml.YAMLError, match="expected every key once, received"):
        P.load_yaml(text, loader)


def test_the_files_of_this_repository_say_everything_once():
    root = Path(__file__).parents[2]
    paths = [*root.glob("*.yml"), *root.glob(".github/**/*.yml"), *(root / "book").rglob("*.yml")]
    assert len(paths) > 10
    for path in paths:
        P.load_yaml(path.read_text(encoding="utf-8"), P.OnceLoader)


@pytest.mark.parametrize("text", ["1e400", "-1e400", "inf", "nan"])
@pytest.mark.parametrize("kind", ["float", "list[float]", "Rate"])
def test_a_number_that_no_float_holds_is_refused(text, kind):
    declared = P.read_cell(f"x: {kind} = {'[1.0]' if 'list' in kind else 1.0}")
    value = P.parse_value(f"[{text}]" if "list" in kind else text)
    with pytest.raises(P.ParameterError, match=r"x: expected .*finite number"):
        P.validate(declared, {"x": value})
