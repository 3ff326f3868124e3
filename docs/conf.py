"""Sphinx's settings for the site that `make docs` builds from this directory."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import mmapcache

project = "mmapcache"
author = "The mmapcache authors"
copyright = "the mmapcache authors; MIT licence"  # noqa: A001 - Sphinx's name for it
version = release = mmapcache.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "mmapcache_docs"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]

# Links to headings as the repository's page makes them.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence", "deflist"]
suppress_warnings = ["myst.header"]  # pages that begin below the first level, or skip one

# The frameworks are not needed to read what stands beside them.
autodoc_mock_imports = [
    "django",
    "fastapi",
    "flask",
    "openfeature",
    "prometheus_client",
    "redis",
    "starlette",
    "tornado",
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
python_display_short_literal_types = True
smartquotes = False  # b"" is no quotation
default_role = "literal"  # docstrings write `names` as everything here does
add_module_names = False

html_theme = "furo"
html_title = f"mmapcache {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
