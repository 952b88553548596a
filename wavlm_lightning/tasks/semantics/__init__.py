"""SUPERB's semantics tasks: intent classification (IC), slot filling (SF).

`slot_filling` shares its head with `content/speech_recognition`.
"""
