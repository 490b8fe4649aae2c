"""Sphinx's settings for the site. build.py starts Sphinx with them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # autodoc imports hwsigner

from hwsigner import __version__

project = "hwsigner"
version = release = __version__
html_title = f"hwsigner {__version__}"
language = "en"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]

myst_heading_anchors = 4
default_role = "code"  # of the docstrings
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

suppress_warnings = ["misc.highlighting_failure"]  # The pages leave lines out with …

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
