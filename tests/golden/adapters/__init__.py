"""One adapter per golden file, of the same name. How to write one: README.md in the folder above."""
