"""Put miniatures in the place of the published data sets; needs nothing but Python, for it runs in every child too."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

MANIFEST = "miniatures.json"
"""In the folder of miniatures: sha256 and size of every file, by ``folder/name``."""

VARIABLE = "NORMSCOPE_SMALL_DATA"
"""Names that folder to child processes."""


def miniatures(sets: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Describe the sets that have a miniature in a folder: the same files, with the miniatures' hashes and sizes.

    They have no address, so that a test cannot reach for the network.
    """
    known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    small = {}
    for name, dataset in sets.items():
        files = [(file, known.get(f"{dataset.place}/{file.name}")) for file in dataset.files]
        if all(facts for _, facts in files):
            changed = tuple(replace(file, sha256=facts[0], bytes=facts[1], urls=()) for file, facts in files)
            small[name] = replace(dataset, files=changed, bring="a miniature, which only the tests have")
    return small
