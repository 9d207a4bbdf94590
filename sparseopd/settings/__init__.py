"""The sections of a recipe, as dataclasses. They import no torch."""
