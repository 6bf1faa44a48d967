"""Which documents become which, and how."""

from itertools import pairwise

import pytest

from boxkeep_server.model.documents import PAGED, beside, format_of, sources, steps_to, targets_of
from boxkeep_server.model.errors import Invalid


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/workspace/a.docx", "docx"),
        ("/w/A.JPEG", "jpg"),
        ("/w/x.tar.HTM", "html"),
        ("/w.d/noend", ""),
        ("/w/.docx", ""),
        ("/w/a.", ""),
        ("/w/日本.Odt", "odt"),
    ],
)
def test_the_end_of_a_name_says_the_format(path: str, found: str) -> None:
    assert format_of(path) == found


def test_every_pair_that_is_offered_has_steps_and_no_other_has() -> None:
    everything = {*sources(), *(target for source in sources() for target in targets_of(source)), "exe", ""}
    for source in sources():
        assert source not in targets_of(source)
        for target in everything:
            if target in targets_of(source):
                steps = steps_to(f"/a.{source}", target, 3)
                assert steps.office or steps.tool
                assert steps.tool or steps.office[-1].suffix == target
                for before, after in pairwise(steps.office):
                    assert after.reads == steps_to(f"/a.{before.suffix}", target, 3).office[0].reads
            else:
                with pytest.raises(Invalid, match=f"Invalid format: {source} can be converted to"):
                    steps_to(f"/a.{source}", target, 1)


def test_what_has_pages_is_of_the_one_that_is_asked_for() -> None:
    for source in ("pdf", "docx", "pptx", "xlsx"):
        for target in set(targets_of(source)) & PAGED:
            tool = steps_to(f"/a.{source}", target, 7).tool
            assert tool is not None
            assert tool.count("7") == 2


def test_a_name_that_says_no_format_is_told_which_there_are() -> None:
    with pytest.raises(Invalid, match=r"must end with one of \.csv, .*\.xlsx"):
        steps_to("/workspace/notes.md", "pdf", 1)


def test_the_result_lies_beside_the_document() -> None:
    assert beside("/workspace/a.b/report.docx", "pdf") == "/workspace/a.b/report.pdf"
    assert beside("/x.HTML", "JPEG") == "/x.jpg"
