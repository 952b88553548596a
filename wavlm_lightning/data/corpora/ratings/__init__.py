"""Corpora of rated speech: BVCC (the VoiceMOS challenge) and any folder of recordings with a table of ratings."""
