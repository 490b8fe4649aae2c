"""Where settings come from: command-line flags, profiles and what both mean."""
