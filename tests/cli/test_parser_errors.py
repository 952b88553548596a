"""One sentence from jsonargparse's nested complaints."""

from wavlm_lightning.cli.parser_errors import one_sentence

NESTED = """Parser key "model":
  Does not validate against any of the Union subtypes
  Subtypes: [<class 'lightning.pytorch.core.module.LightningModule'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'wavlm_lightning.tasks.KeywordSpotting':
        Parser key "upstream":
          Problem with given class_path 'wavlm_lightning.upstreams.WavLMUpstream':
            Option 'sorce' is not accepted
    - Expected a <class 'NoneType'>
  Given value type: <class 'jsonargparse._util.NestedArg'>"""


def test_the_innermost_complaint_with_its_place_and_cure():
    said = one_sentence(NESTED, [])
    assert (
        said
        == "model (KeywordSpotting), upstream (WavLMUpstream): Option 'sorce' is not accepted; did you mean 'source'?"
    )


def test_a_message_that_is_already_plain_stays():
    assert one_sentence("unrecognized arguments: --foo 3", []) == "unrecognized arguments: --foo 3"
