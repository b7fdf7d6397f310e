"""What a model is on disk: manifest, folder, sources and cache."""
