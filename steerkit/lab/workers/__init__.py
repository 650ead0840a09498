"""Work over many conversations: in this process, on Ray, on ranks."""
