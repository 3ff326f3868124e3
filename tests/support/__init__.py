"""tests/support: what several test files share. What pytest hands out by name is in conftest.py."""
