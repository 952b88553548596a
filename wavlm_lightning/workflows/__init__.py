"""The machine behind each verb of the command line, callable from Python.

`workflows/NAME` serves `wavlm NAME`: `fit` (also `validate`, `test`), `superb`, `sweep`, `recipe`, `plan`, `export`,
`predict`, `corpus` (`prepare`, `data`), `codebook`, `demo`, `report`, `bench`, `new`, `doctor`. Each has one documented
function a verb, which raises `UserError` and returns its result; begin with `fit`, which others use. Imports every package
below it, never `cli`. Tests: `tests/workflows`.
"""
