from normscope.data.sets.parallel import PARALLEL_SETS


def test_only_what_nobody_here_has_seen_is_unverified():
    unverified = [name for name, dataset in PARALLEL_SETS.items() if not dataset.verified]
    assert unverified == ["iwslt14-de-en", "iwslt15-en-vi", "wmt14-en-de"]


def test_what_is_not_verified_is_fetched_over_tls_only():
    for dataset in PARALLEL_SETS.values():
        for file in dataset.files:
            assert file.sha256 or all(url.startswith("https://") for url in file.urls)


def test_the_stand_in_and_the_whole_set_share_the_test_files():
    tests, whole = PARALLEL_SETS["iwslt15-en-vi-tests"], PARALLEL_SETS["iwslt15-en-vi"]
    assert set(tests.files) < set(whole.files)
    assert tests.place == whole.place
