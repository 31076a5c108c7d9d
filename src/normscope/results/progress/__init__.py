"""How far a study is, from its folder alone: what waits, what runs where, what has ended; no torch."""

from normscope.results.progress.state import Running, Stage, StudyState, read_state

__all__ = ["Running", "Stage", "StudyState", "read_state"]
