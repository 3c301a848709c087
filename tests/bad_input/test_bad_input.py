"""Whatever is wrong is said before any long work: what it is, and how to mend it."""

import re

import pytest

from tests.bad_input import _estimates, _fits, _results, _searches

CASES = [*_estimates.CASES, *_results.CASES, *_fits.CASES, *_searches.CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.filterwarnings("ignore:no validation samples of")
@pytest.mark.filterwarnings("ignore:.* folds for .* validation samples")
@pytest.mark.filterwarnings("ignore:You (defined|passed in) a `val.*Skipping val loop")
@pytest.mark.filterwarnings("ignore:Total length of `.*Loader` across ranks is zero")
@pytest.mark.filterwarnings("ignore:You requested to overfit")
def test_bad_input(case, tmp_path):
    with pytest.raises(case.error) as caught:
        case.call(tmp_path)
    text = str(caught.value)
    assert type(caught.value) is case.error or case.error in (OSError, ValueError), f"{type(caught.value)}: {text}"
    assert re.search(case.wrong, text, re.DOTALL), text
    assert re.search(case.mend, text, re.DOTALL), text


def test_there_are_many():
    assert len({case.name for case in CASES}) == len(CASES) >= 60
