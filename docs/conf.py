"""The configuration of the documentation site: `make docs` builds it in build/docs."""

from importlib import metadata

project = "spl"
author = "The authors of spl"
copyright = "2026, the authors of spl"
version = release = metadata.version("spl-lightning")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["reproduction/*/*.csv"]
default_role = "literal"  # `code` in docstrings
html_theme = "furo"
html_title = f"spl {release}"
html_show_sphinx = False
html_static_path: list[str] = []

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "cache"  # executes a tutorial again when its code has changed
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_output_stderr = "remove"

autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
suppress_warnings = ["config.cache"]
