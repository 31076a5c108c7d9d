"""A diagnosis of a model that is built, and trained, as a study does it."""

import pytest

from normscope.studies.diagnose import DiagnosisRequest, examine, spec_of

pytestmark = pytest.mark.usefixtures("small_data")


def test_the_trained_model_is_the_one_that_a_study_would_test() -> None:
    found = examine(DiagnosisRequest(task="digits", steps=30))
    start = examine(DiagnosisRequest(task="digits"))
    assert start.spec.build().state_dict().keys() == found.spec.build().state_dict().keys()
    assert found.diagnosis.loss < start.diagnosis.loss / 2
    assert found.diagnosis.training
    assert found.diagnosis.learning_rate == start.diagnosis.learning_rate


def test_the_same_request_gives_the_same_numbers() -> None:
    one, other = (examine(DiagnosisRequest(task="rt", norm="detach_norm", seed=3)) for _ in range(2))
    assert one.diagnosis.gradients == other.diagnosis.gradients
    assert one.diagnosis.first_update == other.diagnosis.first_update
    assert examine(DiagnosisRequest(task="rt", norm="detach_norm", seed=4)).diagnosis.loss != one.diagnosis.loss


def test_a_diagnosis_has_published_splits() -> None:
    assert spec_of(DiagnosisRequest(task="digits")).split == "study"
