"""Writes self-contained web pages: templates, scripts, pictures, and the report on a store."""
