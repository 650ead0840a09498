"""Presentation of results: text, tables, pages and figures; and the one way out to a terminal."""
