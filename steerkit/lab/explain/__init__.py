"""Why a recorded call was made: its features, each really taken away, and what they read."""
