"""The store on disk: records chained in one SQLite file, written whole or not at all."""
