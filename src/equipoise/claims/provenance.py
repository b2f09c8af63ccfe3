"""Which text of a spec a result belongs to: a spec is committed, and unchanged since, before anything is run."""

from __future__ import annotations

import hashlib
import subprocess
from importlib import metadata
from pathlib import Path

from equipoise.errors import RecordError


def commit_of(spec: Path) -> str:
    """The commit that last changed ``spec``. Outside a git checkout: the package's version and the text's hash.

    Raises RecordError when the spec is not committed or was changed since: a claim comes before its result.
    """
    if not _tracked_place(spec):
        digest = hashlib.sha256(spec.read_bytes()).hexdigest()
        return f"equipoise {metadata.version('equipoise')}, sha256 {digest[:16]}"
    changed = _git(spec, "status", "--porcelain", "--", spec.name)
    commit = _git(spec, "log", "-1", "--format=%H", "--", spec.name)
    if changed or not commit:
        raise RecordError(
            f"{spec} is {'changed since its last commit' if commit else 'not committed'}; a claim is written down "
            f"before its result. Commit it first: git add {spec} && git commit -m 'Claim' -- {spec}"
        )
    return commit


def _tracked_place(spec: Path) -> bool:
    """Whether the spec lies in a git checkout that does not ignore it, as a virtual environment inside one would be."""
    return bool(_git(spec, "rev-parse", "--show-toplevel")) and not _git(spec, "check-ignore", "--", spec.name)


def _git(spec: Path, *words: str) -> str:
    """What git prints; "" where it fails, or is not installed."""
    try:
        done = subprocess.run(["git", *words], cwd=spec.parent, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
