"""Writes the bill of materials of a release, dist/sbom.cdx.json (CycloneDX): `make sbom`.

    tools/sbom.py cyclonedx-py                            or however it is run:
    tools/sbom.py pipx run --spec ... cyclonedx-py

A wheel has nothing of others in it, and reading needs no other package. So what is listed is what
the extras that users install ask for, as pyproject.toml says it, without a version: which one a
user gets is decided where it is installed. The same commit makes the same bytes.
"""

from __future__ import annotations

import os
import subprocess
import sys

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from sdist import ROOT, source_date

# The other extras are for whoever works on mmapcache.
EXTRAS = ("mongodb", "openfeature", "prometheus", "ring", "serve")


def requirements() -> list[str]:
    """What these extras ask for of others, sorted."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    asked: set[str] = set(project["dependencies"])
    for extra in EXTRAS:
        asked.update(project["optional-dependencies"][extra])
    return sorted(line for line in asked if not line.startswith(project["name"]))


def main() -> None:
    """Writes it; exits with 1 and what the generator said when that failed."""
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    result = ROOT / "dist" / "sbom.cdx.json"
    result.parent.mkdir(exist_ok=True)
    made = subprocess.run(
        [*sys.argv[1:], "requirements", "--pyproject", ROOT / "pyproject.toml", "--validate",
         "--mc-type", "library", "--output-reproducible", "--output-file", result, "-"],
        env={**os.environ, "SOURCE_DATE_EPOCH": source_date()}, check=False,
        input="\n".join(requirements()), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    if made.returncode != 0:  # its warnings are about the versions that are not named
        raise SystemExit(f"sbom: {made.stderr}")
    print(f"sbom: {result.relative_to(ROOT)}, {len(requirements())} packages of the extras")


if __name__ == "__main__":
    main()
