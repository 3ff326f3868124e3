"""What several test files share; whatever pytest hands out by name is in conftest.py."""
