"""For all tests: Hypothesis draws the same examples everywhere, and takes the time it needs."""

from hypothesis import settings

settings.register_profile("house", deadline=None, derandomize=True)
settings.load_profile("house")


def pytest_terminal_summary(terminalreporter):
    """What tests have counted (``record_property("counted", words)``) is said at the end, also when all is well."""
    passed = terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
    counted = [words for report in passed for name, words in report.user_properties if name == "counted"]
    if counted:
        terminalreporter.section("counted")
    for words in counted:
        terminalreporter.line(words)
