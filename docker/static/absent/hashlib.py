"""In place of `hashlib`, which `urllib.request` imports; entrypoint/lean/hashing.py has the one hash that is used."""
