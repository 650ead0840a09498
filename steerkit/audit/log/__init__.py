"""The store on disk: records chained in one SQLite file, written completely or not at all."""
