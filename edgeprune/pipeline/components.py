"""What a build was made with: every distribution that edgeprune needs, as installed. A bill of materials."""

from __future__ import annotations

import hashlib
import re
from importlib import metadata

NAME = re.compile(r"[A-Za-z0-9._-]+")


def components(root: str = "edgeprune") -> dict[str, str]:
    """Return `name version` -> SHA-256 of the list of its files, which holds the digest of each.

    Distributions that only an extra needs are left out, as are those that are not installed. The digest is
    empty where the installer kept no list.
    """
    found: dict[str, str] = {}
    waiting, seen = [root], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        record = distribution.read_text("RECORD") or ""
        digest = hashlib.sha256(record.encode()).hexdigest() if record else ""
        found[f"{distribution.name} {distribution.version}"] = digest
        for wanted in distribution.requires or ():
            needed = NAME.match(wanted)
            if needed and "extra ==" not in wanted:
                waiting.append(needed[0])
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))
