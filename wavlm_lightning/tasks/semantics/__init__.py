"""SUPERB's semantics tasks: intent classification (IC), slot filling (SF), speech translation (ST).

`slot_filling` shares its head with `content/speech_recognition`, `speech_translation` its network with attention ASR.
"""
