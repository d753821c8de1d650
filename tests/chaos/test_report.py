"""What is made of a run's verdicts."""

from msgspec.structs import replace

from tests.chaos import report


def test_what_was_run_again_takes_the_place_of_what_it_repeats():
    earlier = report.read()
    verdict = earlier.verdicts[3]
    again = replace(verdict, seed="again", tally=replace(verdict.tally, accepted=7))
    later = replace(earlier, command="make chaos ARGS=--only", verdicts=(again,), omissions=(), failures=(), took_s=1.0)
    merged = report.merge(earlier, later)
    assert merged.verdicts[3] == again
    assert merged.verdicts[:3] + merged.verdicts[4:] == earlier.verdicts[:3] + earlier.verdicts[4:]
    assert merged.accepted == earlier.accepted - verdict.tally.accepted + 7
    assert (merged.command, merged.took_s) == (
        f"{earlier.command}`, then `make chaos ARGS=--only",
        earlier.took_s + 1.0,
    )
