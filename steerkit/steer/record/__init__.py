"""Recordings of steering: columns kept while the model runs, read afterwards as a trace and edits."""
