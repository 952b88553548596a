"""How it is said: emotion recognition."""
