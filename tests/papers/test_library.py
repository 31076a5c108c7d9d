"""The papers by name."""

from normscope.papers import PAPERS


def test_names_are_the_papers_own_and_ids_tell_tasks() -> None:
    for name, paper in PAPERS.items():
        assert paper.name == name
        assert "arXiv" in paper.title
        for cell in paper.cells:
            assert cell.id.startswith(f"{cell.task}/")
            assert cell.differs
            assert cell.source
