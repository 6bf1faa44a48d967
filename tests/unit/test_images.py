"""The names of images, and the layers that one is made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from boxkeep_server.model.images import (
    SOFTWARE,
    Layers,
    image_of,
    images_with,
    parent_of,
    read_layers,
    recipe_of,
    software_for,
    software_of,
)
from boxkeep_server.model.sandboxes import RUNTIMES
from boxkeep_server.node.recipes import read_recipes

SOME = st.sets(st.sampled_from(SOFTWARE))
DIGESTS = st.lists(st.text("0123456789abcdef", min_size=32, max_size=32), min_size=1, max_size=16)


@pytest.mark.parametrize(
    ("capabilities", "image"),
    [
        (None, "bun"),
        ({"documents": {"libreofficeHeadless": True}}, "bun-documents"),
        ({"documents": {"libreofficeHeadless": False}, "browser": {"mode": "none"}}, "bun"),
        ({"browser": {"mode": "local-chromium"}}, "bun-browser"),
        ({"browser": {"mode": "paired-banata-browser"}}, "bun"),
        ({"browser": {"mode": "local-chromium"}, "documents": {"libreofficeHeadless": True}}, "bun-browser"),
        ({"opencode": {"enabled": True}}, "bun-opencode"),
        ({"agent": {"enabled": True}, "documents": {"libreofficeHeadless": True}}, "bun-documents-opencode"),
        ({"documents": None, "browser": "odd", "opencode": {"enabled": False}}, "bun"),
    ],
)
def test_an_image_is_the_smallest_that_has_what_capabilities_need(capabilities: dict[str, object], image: str) -> None:
    assert image_of("bun", software_for(capabilities)) == image


@given(st.sampled_from(RUNTIMES), SOME)
def test_an_image_has_what_it_was_asked_for_and_so_has_each_parent_its_part(runtime: str, wanted: set[str]) -> None:
    name = image_of(runtime, wanted)
    assert wanted <= software_of(name)
    line = [name]
    while (parent := parent_of(line[-1])) is not None:
        assert software_of(parent) <= software_of(line[-1])
        line.append(parent)
    assert line[-1] == "base"
    recipes = [recipe_of(one) for one in line]
    assert set(recipes) == {"base", runtime, *software_of(name)}
    assert len(recipes) == len(set(recipes))


@given(SOME)
def test_an_operator_who_asks_for_software_gets_every_image_that_is_asked_for_then(wanted: set[str]) -> None:
    names = images_with(wanted, RUNTIMES)
    assert len(names) == len(set(names))
    for name in names:
        parent = parent_of(name)
        assert parent is None or names.index(parent) < names.index(name)
    for runtime in RUNTIMES:
        assert image_of(runtime, wanted) in names
        assert {image_of(runtime, {one}) for one in wanted} <= set(names)


def test_without_software_there_are_the_runtimes_alone() -> None:
    assert set(images_with((), RUNTIMES)) == set(RUNTIMES)


def test_every_image_has_a_recipe_for_this_processor() -> None:
    recipes = read_recipes(SOFTWARE)
    assert len(recipes) == 18
    assert [name for name, recipe in recipes.items() if recipe.parent is None] == ["base"]
    for recipe in recipes.values():
        assert bool(recipe.npm) != bool(recipe.packages or recipe.setup)


@given(DIGESTS)
def test_a_text_of_layers_is_read_as_it_was_written(digests: list[str]) -> None:
    image = Layers(tuple(digests))
    assert read_layers(image.text) == image
    assert image.line[-1] == image
    assert [one.parent for one in image.line] == [None, *image.line[:-1]]
    assert len({one.digest for one in image.line}) == len(image.line)


@pytest.mark.parametrize(
    "text",
    [
        *(b"", b"{}", b"[]", b"null", b"\xff", b'{"layers":[]}', b'{"layers":"abc"}', b'{"layers":[1]}'),
        b'{"layers":["../../etc/passwd"]}',
        b'{"layers": ["' + b"0" * 32 + b'"]}',
        Layers(("0" * 32,) * 17).text,
    ],
)
def test_any_other_text_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        read_layers(text)
